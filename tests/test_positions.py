"""Distances, sinusoids and the relative shift.

B batch, H heads, L segment length, M memory length, S = M + L key length.
"""

import re

import numpy as np
import pytest
import tensorflow as tf

from tests.reference.transformer_xl import sinusoid
from transformer_xl.positions import distances, relative_shift, relative_unshift, sinusoids


def test_distances_fall_to_the_newest_key():
    np.testing.assert_array_equal(distances(5), [4, 3, 2, 1, 0])
    np.testing.assert_array_equal(distances(1), [0])
    assert distances(5).dtype == tf.float32


@pytest.mark.parametrize(
    "clamp_length, expected",
    [
        (-1, [6, 5, 4, 3, 2, 1, 0]),
        (1, [1, 1, 1, 1, 1, 1, 0]),
        (4, [4, 4, 4, 3, 2, 1, 0]),
        (6, [6, 5, 4, 3, 2, 1, 0]),
        (11, [6, 5, 4, 3, 2, 1, 0]),
    ],
)
def test_distances_beyond_the_clamp_are_the_clamp(clamp_length, expected):
    np.testing.assert_array_equal(distances(7, clamp_length), expected)


def test_distances_of_a_length_known_at_run_time():
    falling = tf.function(lambda length: distances(length, 2))(tf.constant(5))
    np.testing.assert_array_equal(falling, [2, 2, 2, 1, 0])


@pytest.mark.parametrize("width", [2, 14, 410])
def test_sinusoids_against_float64(width):
    # The longest memory published is 3800. A float32 angle is wrong in proportion to itself.
    positions = np.array([0, 1, 2, 7, 255, 256, 257, 640, 3801])
    expected = np.array([sinusoid(position, width) for position in positions])
    actual = sinusoids(tf.constant(positions, tf.float32), width)
    assert actual.dtype == tf.float32
    assert actual.shape == expected.shape
    bound = 1e-7 * (1 + positions[:, None])
    assert np.all(np.abs(actual - expected) <= bound)


def test_sinusoids_are_sines_then_cosines():
    # At distance 0: all sines 0, all cosines 1, so that neither order nor halves can be swapped.
    np.testing.assert_array_equal(sinusoids(tf.constant([0.0]), 6), [[0, 0, 0, 1, 1, 1]])


def test_example_of_the_docstring():
    rows = re.findall(r"(\d\d \d\d \d\d)(?: +-> +| +)(.*)", relative_shift.__doc__)
    before = [[int(number) for number in left.split()] for left, _ in rows]
    assert before == [[2, 1, 0], [12, 11, 10], [22, 21, 20]]
    after = relative_shift(tf.constant(before, tf.float32)[None, None])[0, 0].numpy()
    # The dots are keys after the query, where anything may stand.
    shown = [f"{after[i, j]:02.0f}" if j <= i else "." for i in range(3) for j in range(3)]
    assert shown == " ".join(right for _, right in rows).split()
    assert shown == ["00", ".", ".", "11", "10", ".", "22", "21", "20"]


@pytest.mark.parametrize("jit_compile", [False, True])
@pytest.mark.parametrize(
    "queries, keys", [(1, 1), (1, 7), (5, 5), (5, 7), (5, 12), (7, 11), (11, 13)]
)
def test_shift_against_a_loop(queries, keys, jit_compile):
    scores = np.random.default_rng(queries).normal(size=(2, 3, queries, keys)).astype(np.float32)
    shift = tf.function(relative_shift, jit_compile=jit_compile, autograph=False)
    check_shift(shift(tf.constant(scores)), scores)


def test_shift_of_unknown_shape():
    scores = np.random.default_rng(3).normal(size=(2, 3, 5, 11)).astype(np.float32)
    signature = [tf.TensorSpec([None, 3, None, None])]
    shifted = tf.function(relative_shift, input_signature=signature, autograph=False)
    check_shift(shifted(tf.constant(scores)), scores)


def check_shift(shifted, scores):
    """A query and a visible key meet in the column of their distance."""
    shifted = shifted.numpy()
    assert shifted.shape == scores.shape
    batch_size, heads, queries, keys = scores.shape
    memory_length = keys - queries
    for b, h, i in np.ndindex(batch_size, heads, queries):
        for j in range(memory_length + i + 1):
            distance = memory_length + i - j
            assert shifted[b, h, i, j] == scores[b, h, i, keys - 1 - distance]
            assert keys - 1 - distance == j + queries - 1 - i


@pytest.mark.parametrize("queries, keys", [(1, 1), (1, 7), (5, 5), (5, 12), (7, 11)])
def test_unshift_is_the_transpose(queries, keys):
    """Where a key stands after the query there is a zero, as what is masked has."""
    rng = np.random.default_rng(queries)
    scores, slopes = rng.normal(size=(2, 2, 3, queries, keys))
    slopes *= np.arange(keys) <= np.arange(queries)[:, None] + keys - queries
    back = relative_unshift(tf.constant(slopes)).numpy()
    forth = relative_shift(tf.constant(scores)).numpy()
    np.testing.assert_allclose(np.sum(back * scores), np.sum(forth * slopes), rtol=1e-12)
    assert np.count_nonzero(back) == np.count_nonzero(slopes)
