"""linear_nll and linear_loss against float64 NumPy: every chunking, every choice of rows.

T rows, V columns, E width.
"""

import functools

import numpy as np
import pytest
import tensorflow as tf

from adaptive import cross_entropy
from adaptive.cross_entropy import Rows, linear_loss, linear_nll

T, V, E = 37, 23, 5
SCALE = 3.5  # of the total that a fused loss ends up in
# Runs of the permutation, with respect to chunks of 8 rows: (start, count).
RUNS = [(0, 0), (T, 0), (T - 1, 1), (5, 8), (5, 9), (29, 8), (3, 16), (0, T)]


def draw(num_rows=T, seed=0):
    """Inputs, table, bias, targets, weights; each weight different, some 0 and some negative."""
    random = np.random.default_rng(seed)
    weights = random.normal(size=num_rows).astype(np.float32)
    weights[::5] = 0
    return (
        random.normal(size=(num_rows, E)).astype(np.float32),
        random.normal(size=(V, E)).astype(np.float32),
        random.normal(size=V).astype(np.float32),
        random.integers(0, V, num_rows).astype(np.int32),
        weights,
    )


def log_softmax(logits):
    shifted = logits - logits.max(-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))


def expected(inputs, table, bias, targets, weights, chosen=None):
    """nll, and the gradients of sum(weights * nll), in float64; 0 for rows that are not chosen."""
    inputs, table, bias, weights = (np.float64(x) for x in (inputs, table, bias, weights))
    wanted = np.ones(len(targets), bool)
    if chosen is not None:
        wanted[:] = False
        wanted[chosen] = True
    log_p = log_softmax(inputs @ table.T + bias)
    nll = np.where(wanted, -log_p[np.arange(len(targets)), targets], 0)
    slopes = (np.exp(log_p) - np.eye(len(table))[targets]) * (weights * wanted)[:, None]
    return nll, slopes @ table, slopes.T @ inputs, slopes.sum(0)


def compute(inputs, table, bias, targets, weights, run=None, order=None, chunk_rows=None):
    """By both functions: nll and its three gradients, the scaled loss and its three."""
    rows = None if run is None else Rows(order, run[0], run[1])
    sources = (inputs, table, bias)
    with tf.GradientTape(persistent=True) as tape:
        tape.watch(sources)
        nll = linear_nll(*sources, targets, rows, chunk_rows)
        loss = SCALE * linear_loss(*sources, targets, weights, rows, chunk_rows)
    return (
        (nll, *tape.gradient(nll, sources, output_gradients=weights)),
        (loss, *tape.gradient(loss, sources)),
    )


@functools.cache
def compiled(chunk_rows, jit_compile):
    return tf.function(functools.partial(compute, chunk_rows=chunk_rows), jit_compile=jit_compile)


def check(actual, data, chosen=None, rtol=1e-5, atol=3e-6):
    (nll, *by_nll), (loss, *by_loss) = actual
    expected_nll, *gradients = expected(*data, chosen)
    total = np.sum(expected_nll * data[-1])
    np.testing.assert_allclose(nll, expected_nll, rtol, atol)
    np.testing.assert_allclose(loss, SCALE * total, rtol, SCALE * atol)
    for one, other, gradient in zip(by_nll, by_loss, gradients):
        np.testing.assert_allclose(one, gradient, rtol, atol)
        np.testing.assert_allclose(other, SCALE * gradient, rtol, SCALE * atol)


# 37 is no multiple of 8: the last chunk has 5 rows and 3 repeated ones. 41 is more than there are.
@pytest.mark.parametrize(
    ("chunk_rows", "jit_compile"), [(1, False), (8, False), (41, False), (None, False), (8, True)]
)
def test_all_rows(chunk_rows, jit_compile):
    data = draw()
    check(compiled(chunk_rows, jit_compile)(*map(tf.constant, data)), data)


@pytest.mark.parametrize(
    ("chunk_rows", "jit_compile"), [(1, False), (8, False), (41, False), (None, False), (8, True)]
)
def test_chosen_rows(chunk_rows, jit_compile):
    data = draw()
    order = np.random.default_rng(1).permutation(T).astype(np.int32)
    for start, count in RUNS:
        actual = compiled(chunk_rows, jit_compile)(
            *map(tf.constant, data), (tf.constant(start), tf.constant(count)), tf.constant(order)
        )
        check(actual, data, order[start : start + count])


def test_eager_calls():
    data = draw()
    order = np.random.default_rng(1).permutation(T).astype(np.int32)
    tensors = [*map(tf.constant, data)]
    check(compute(*tensors, chunk_rows=8), data)
    check(compute(*tensors, (5, 9), order, chunk_rows=8), data, order[5:14])


@pytest.mark.parametrize("chunk_rows", [8, None])
def test_a_number_of_rows_known_only_at_run_time(chunk_rows):
    row, scalar = tf.TensorSpec([None], tf.int32), tf.TensorSpec([], tf.int32)

    @tf.function(
        input_signature=[
            tf.TensorSpec([None, E]),
            tf.TensorSpec([V, E]),
            tf.TensorSpec([V]),
            row,
            tf.TensorSpec([None]),
            (scalar, scalar),
            row,
        ]
    )
    def both(*arguments):
        return (
            compute(*arguments[:5], chunk_rows=chunk_rows),
            compute(*arguments, chunk_rows=chunk_rows),
        )

    for num_rows, run in ((T, (5, 17)), (3, (1, 2)), (101, (100, 1)), (101, (0, 101))):
        data = draw(num_rows)
        order = np.random.default_rng(1).permutation(num_rows).astype(np.int32)
        run_tensors = tuple(map(tf.constant, run))
        every, chosen = both(*map(tf.constant, data), run_tensors, tf.constant(order))
        check(every, data)
        check(chosen, data, order[run[0] : run[0] + run[1]])


@pytest.mark.parametrize("few", [False, True])
def test_chunks_are_no_larger_than_the_rows_need(few, monkeypatch):
    """Also where their number is known only at run time: 7 rows are one chunk of 8."""
    seen = []
    chunk = cross_entropy._chunk

    def spy(inputs, *rest):
        seen.append(tf.shape(inputs)[0])
        return chunk(inputs, *rest)

    monkeypatch.setattr(cross_entropy, "_chunk", spy)

    def sizes(inputs, table, bias, targets):
        seen.clear()
        num_rows = tf.shape(inputs)[0]
        rows = Rows(tf.range(num_rows), tf.constant(0), num_rows) if few else None

        def size_of_chunks():
            # The shape belongs to the body of a loop: what leaves it is the sum over chunks.
            nll = linear_nll(inputs, table, bias, targets, rows)
            return nll, seen[-1]

        return size_of_chunks()

    inputs, table, bias, targets, _ = draw(7)
    _, static = sizes(*map(tf.constant, (inputs, table, bias, targets)))
    assert static <= 8
