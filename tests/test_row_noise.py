"""Threefry against its authors' vectors; draws by rows' own seeds.

T rows, V vocabulary.
"""

import numpy as np
import pytest
import tensorflow as tf

from adaptive import AdaptiveSoftmax
from adaptive.row_noise import fold_in, random_bits, threefry


@pytest.mark.parametrize(
    "counter, key, expected",
    [  # of Random123's kat_vectors, "threefry2x32 20"
        ((0, 0), (0, 0), (0x6B200159, 0x99BA4EFE)),
        ((0xFFFFFFFF,) * 2, (0xFFFFFFFF,) * 2, (0x1CB996FC, 0xBB002BE7)),
        ((0x243F6A88, 0x85A308D3), (0x13198A2E, 0x03707344), (0xC4923A9C, 0x483DF7A0)),
    ],
)
@pytest.mark.parametrize("jit_compile", [False, True])
def test_known_answers(counter, key, expected, jit_compile):
    def words(pair):
        return tuple(tf.constant(np.uint32(word).astype(np.int32)) for word in pair)

    found = tf.function(threefry, jit_compile=jit_compile, autograph=False)(
        words(key), words(counter)
    )
    assert tuple(int(word) & 0xFFFFFFFF for word in found) == expected


def test_rows_do_not_know_of_each_other():
    seeds = tf.constant([[1, 2], [3, 4], [1, 2]])
    bits = random_bits(seeds, 5).numpy()
    np.testing.assert_array_equal(bits[0], bits[2])
    assert len(np.unique(bits[:2])) == 10
    np.testing.assert_array_equal(random_bits(seeds[1:2], 5), bits[1:2])
    assert len(np.unique(fold_in(tf.tile(seeds[:1], [4, 1]), tf.range(4)), axis=0)) == 4


@pytest.mark.parametrize(
    "settings", [{}, {"temperature": 0.7}, {"top_k": 7}, {"top_p": 0.6}, {"temperature": 0}]
)
def test_a_seed_alone_decides_a_row(settings):
    head = AdaptiveSoftmax(6, 50, cutoffs=[5, 20], div_val=2)
    hidden = tf.random.stateless_normal([40, 6], (1, 2)) * 20
    seeds = tf.stack([tf.range(40), tf.range(40) ** 2], 1)
    together = head.sample(hidden, seeds, **settings).numpy()
    assert (together >= 20).any() and (together < 5).any()
    backwards = head.sample(hidden[::-1], seeds[::-1], **settings).numpy()
    np.testing.assert_array_equal(backwards[::-1], together)
    for row in (0, 7, 39):
        own = slice(row, row + 1)
        assert head.sample(hidden[own], seeds[own], **settings) == together[row]


@pytest.mark.slow
def test_xla_draws_the_same_rows():
    # With `argmax` of the noise XLA took minutes to compile this, at any size.
    head = AdaptiveSoftmax(6, 50, cutoffs=[5, 20], div_val=2)
    hidden = tf.random.stateless_normal([9, 6], (1, 2)) * 20
    seeds = tf.stack([tf.range(9), tf.range(9) ** 2], 1)
    expected = head.sample(hidden, seeds, top_k=7)
    draw = tf.function(
        lambda: head.sample(hidden, seeds, top_k=7), jit_compile=True, autograph=False
    )
    np.testing.assert_array_equal(draw(), expected)
    assert len(np.unique(expected)) > 3


def test_draws_by_cluster_follow_the_distribution():
    head = AdaptiveSoftmax(6, 30, cutoffs=[5, 12], div_val=1)
    hidden = tf.random.stateless_normal([1, 6], (3, 4)) * 5
    count = 20_000
    seeds = tf.stack([tf.zeros([count], tf.int32), tf.range(count)], 1)
    draws = head.sample(tf.tile(hidden, [count, 1]), seeds)
    counts = np.bincount(draws, minlength=30)
    expected = np.exp(np.float64(head.log_prob(hidden)[0])) * count
    statistic = np.sum((counts - expected) ** 2 / expected)
    freedom, x = 29, np.log(10_000)
    assert statistic <= freedom + 2 * np.sqrt(freedom * x) + 2 * x  # Laurent and Massart (2000)


def test_refuses_seeds_of_another_shape():
    head = AdaptiveSoftmax(6, 50)
    with pytest.raises(ValueError, match=r"two for each hidden state. Received: shape \(3, 2\)"):
        head.sample(tf.zeros([2, 6]), tf.zeros([3, 2], tf.int32))
