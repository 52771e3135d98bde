"""linear_nll and linear_loss against float64 NumPy: every chunking, every choice of rows.

T rows, V columns, E width.
"""

import numpy as np
import pytest
import tensorflow as tf

from adaptive import cross_entropy
from adaptive.cross_entropy import Rows, linear_loss, linear_losses, linear_nll

pytestmark = pytest.mark.usefixtures("graphs_as_written")

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
    with tf.GradientTape() as tape:
        tape.watch(sources)
        nll = linear_nll(*sources, targets, rows, chunk_rows)
    by_nll = tape.gradient(nll, sources, output_gradients=weights)
    with tf.GradientTape() as tape:
        tape.watch(sources)
        loss = SCALE * linear_loss(*sources, targets, weights, rows, chunk_rows)
    return (nll, *by_nll), (loss, *tape.gradient(loss, sources))


def check(actual, data, chosen=None, rtol=1e-5, atol=3e-6):
    (nll, *by_nll), (loss, *by_loss) = actual
    expected_nll, *gradients = expected(*data, chosen)
    total = np.sum(expected_nll * data[-1])
    np.testing.assert_allclose(nll, expected_nll, rtol, atol)
    np.testing.assert_allclose(loss, SCALE * total, rtol, SCALE * atol)
    for one, other, gradient in zip(by_nll, by_loss, gradients):
        np.testing.assert_allclose(one, gradient, rtol, atol)
        np.testing.assert_allclose(other, SCALE * gradient, rtol, SCALE * atol)


def tensors(*arrays):
    return [tf.constant(array) for array in arrays]


def permutation(num_rows=T):
    return np.random.default_rng(1).permutation(num_rows).astype(np.int32)


# 37 is no multiple of 8: the last chunk has 5 rows and 3 repeated ones. 41 is more than there are.
@pytest.mark.parametrize("chunk_rows", [1, 8, 41, None])
def test_eager_calls(chunk_rows):
    data, order = draw(), permutation()
    check(compute(*tensors(*data), chunk_rows=chunk_rows), data)
    # Of chunks of 1 row, no run ends within one.
    for start, count in RUNS[:4] if chunk_rows == 1 else RUNS:
        actual = compute(*tensors(*data), (start, count), tf.constant(order), chunk_rows)
        check(actual, data, order[start : start + count])


@pytest.mark.parametrize("jit_compile", [pytest.param(False, marks=pytest.mark.slow), True])
def test_compiled_calls(jit_compile):
    @tf.function(jit_compile=jit_compile, autograph=False)
    def both(*arguments):
        return compute(*arguments[:5], chunk_rows=8), compute(*arguments, chunk_rows=8)

    data, order = draw(), permutation()
    for start, count in RUNS:
        run = tuple(tensors(start, count))
        every, chosen = both(*tensors(*data), run, tf.constant(order))
        check(every, data)
        check(chosen, data, order[start : start + count])


# test_softmax.py has chunks of a size of their own.
@pytest.mark.parametrize("chunk_rows", [8, pytest.param(None, marks=pytest.mark.slow)])
def test_a_number_of_rows_known_only_at_run_time(chunk_rows):
    row, scalar = tf.TensorSpec([None], tf.int32), tf.TensorSpec([], tf.int32)
    matrices = [tf.TensorSpec([None, E]), tf.TensorSpec([V, E]), tf.TensorSpec([V])]

    signature = [*matrices, row, tf.TensorSpec([None]), (scalar, scalar), row]

    @tf.function(input_signature=signature, autograph=False)
    def both(*arguments):
        every = compute(*arguments[:5], chunk_rows=chunk_rows)
        return every, compute(*arguments, chunk_rows=chunk_rows)

    for num_rows, (start, count) in ((T, (5, 17)), (3, (1, 2)), (101, (100, 1)), (101, (0, 101))):
        data, order = draw(num_rows), permutation(num_rows)
        every, chosen = both(*tensors(*data), tuple(tensors(start, count)), tf.constant(order))
        check(every, data)
        check(chosen, data, order[start : start + count])


@pytest.fixture
def chunk_sizes(monkeypatch):
    """The rows of each chunk that is computed, as it runs."""
    sizes = []
    chunk = cross_entropy._chunk

    def record(inputs):
        sizes.append(len(inputs))
        return inputs

    def spy(inputs, *rest):
        recorded = tf.numpy_function(record, [inputs], inputs.dtype)
        return chunk(tf.ensure_shape(recorded, inputs.shape), *rest)

    monkeypatch.setattr(cross_entropy, "_chunk", spy)
    return sizes


@pytest.mark.parametrize("num_rows_known", [True, False])
@pytest.mark.parametrize("rows_given", [False, True])
def test_few_rows_are_one_small_chunk(chunk_sizes, num_rows_known, rows_given):
    num_rows = 7 if num_rows_known else None

    @tf.function(input_signature=[tf.TensorSpec([num_rows, E])], autograph=False)
    def nll(inputs):
        size = tf.shape(inputs)[0]
        rows = Rows(tf.range(size), tf.constant(0), size) if rows_given else None
        return linear_nll(inputs, tf.ones([V, E]), tf.zeros([V]), tf.zeros([size], tf.int32), rows)

    nll(tf.ones([7, E]))
    assert len(chunk_sizes) == 1
    assert chunk_sizes[0] <= 8


def test_the_price_is_that_of_the_chosen_rows(chunk_sizes):
    inputs, table, bias, targets, weights = tensors(*draw(641))
    for count, num_chunks in ((0, 0), (3, 1), (64, 1), (65, 2)):
        chunk_sizes.clear()
        rows = Rows(tf.range(641), tf.constant(0), tf.constant(count))
        linear_loss(inputs, table, bias, targets, weights, rows)
        assert chunk_sizes == [64] * num_chunks


def test_outside_xla_a_chunk_is_as_large_as_the_rows_ask(chunk_sizes):
    inputs, table, bias, targets, weights = tensors(*draw(641))
    for count, size in ((3, 8), (64, 64), (65, 72), (641, 648)):
        chunk_sizes.clear()
        rows = Rows(tf.range(641), tf.constant(0), tf.constant(count))
        linear_losses(inputs, table, bias, targets, weights, rows, outside_xla=True)
        assert [int(one) for one in chunk_sizes] == [size]


@pytest.mark.parametrize("chunk_rows", [None, 8])
def test_outside_xla_the_numbers_are_the_same(chunk_rows):
    *sources, targets, weights = tensors(*draw())

    @tf.function(autograph=False)
    def loss_and_gradients(count, outside_xla):
        rows = Rows(tf.range(T - 1, -1, -1), tf.constant(1), count)
        with tf.GradientTape() as tape:
            tape.watch(sources)
            settings = {"chunk_rows": chunk_rows, "outside_xla": outside_xla}
            found = linear_losses(*sources, targets, weights, rows, **settings)
        return found, tape.gradient(found[0], sources)

    for count in (0, 3, 11):
        found, same = (loss_and_gradients(tf.constant(count), where) for where in (True, False))
        for one, other in zip(tf.nest.flatten(found), tf.nest.flatten(same)):
            np.testing.assert_allclose(one, other, rtol=1e-6, atol=1e-7)


def test_the_logits_of_a_chunk_are_bounded(chunk_sizes, monkeypatch):
    monkeypatch.setattr(cross_entropy, "CHUNK_BYTES", 4 * 16 * V)
    data = draw()
    check(compute(*tensors(*data)), data)
    assert set(chunk_sizes) == {16}


def test_chunks_of_16_bits_have_multiples_of_32_rows(chunk_sizes, monkeypatch):
    """What matrix units sum over, unless the bound on memory leaves fewer; the losses are right."""
    random = np.random.default_rng(0)
    num_rows, columns = 70, 40
    draws = [random.normal(size=size) for size in ((num_rows, E), (columns, E))]
    targets = random.integers(0, columns, num_rows).astype(np.int32)
    for dtype, rows_of_logits, chunk in (
        (tf.float32, 48, 40),
        (tf.bfloat16, 48, 32),
        (tf.bfloat16, 1000, num_rows),  # all at once, as they are
        (tf.float16, 24, 24),
    ):
        monkeypatch.setattr(cross_entropy, "CHUNK_BYTES", 4 * rows_of_logits * columns)
        inputs, table = (tf.cast(draw, dtype) for draw in draws)
        nll = linear_nll(inputs, table, None, tf.constant(targets))
        logits = np.float64(inputs) @ np.float64(table).T
        exact = -log_softmax(logits)[np.arange(num_rows), targets]
        # The rounding of a product, once for the target and once for the sum.
        precision = {tf.float32: 2**-22, tf.bfloat16: 2**-8, tf.float16: 2**-11}[dtype]
        near = 2 * precision * np.abs(logits).max()
        np.testing.assert_allclose(nll, exact, rtol=0, atol=near)
        assert set(chunk_sizes) == {chunk}, dtype
        chunk_sizes.clear()


def test_bfloat16_products():
    """The sum over the words, and the losses, stay in float32: only products are rounded.

    A logit is then off by at most 2**-8 of the largest one, half a unit in the last of 8 bits; a
    loss by twice that, for the target's logit and for the log of the sum. A softmax in bfloat16
    would be off by 2**-8 of log(2,003), 30 times the bound.
    """
    random = np.random.default_rng(0)
    num_words = 2003
    table = tf.cast(random.normal(size=(num_words, E)) * 0.03, tf.bfloat16)
    inputs = tf.cast(random.normal(size=(T, E)), tf.bfloat16)
    bias = np.full(num_words, 1.001, np.float32)  # 1 in bfloat16
    bias[::2] = 0
    targets = random.integers(0, num_words, T).astype(np.int32)
    weights = np.ones(T, np.float32)
    arguments = (inputs, tf.cast(table, tf.float32), *tensors(bias, targets, weights))

    (nll, *by_nll), (loss, *by_loss) = compute(*arguments, chunk_rows=8)
    data = [np.float64(inputs), np.float64(table), bias, targets, weights]
    expected_nll, *gradients = expected(*data)
    bound = 2 * 2**-8 * np.abs(data[0] @ data[1].T).max()
    assert bound < 2**-8 * np.log(num_words) / 5
    assert nll.dtype == loss.dtype == tf.float32
    np.testing.assert_allclose(nll, expected_nll, rtol=0, atol=bound)
    np.testing.assert_allclose(loss, SCALE * expected_nll.sum(), rtol=0, atol=SCALE * T * bound)
    # Slopes are rounded to 8 bits, and so is the inputs' gradient after the product.
    sizes = [np.abs(gradient).max() for gradient in gradients]
    for gradients_of_one, scale in ((by_nll, 1), (by_loss, SCALE)):
        assert [g.dtype for g in gradients_of_one] == [tf.bfloat16, tf.float32, tf.float32]
        for one, gradient, size in zip(gradients_of_one, gradients, sizes):
            np.testing.assert_allclose(
                np.float64(one) / scale, gradient, rtol=2**-7, atol=2**-7 * size
            )


@pytest.mark.parametrize("function", ["linear_nll", "linear_loss"])
def test_tapes_do_not_see_the_chunks(function, monkeypatch):
    """A tape that did would keep the logits of them all, in eager calls."""
    seen = []
    chunk = cross_entropy._chunk
    monkeypatch.setattr(
        cross_entropy, "_chunk", lambda inputs, *rest: seen.append(inputs) or chunk(inputs, *rest)
    )
    inputs, table, bias, targets, weights = tensors(*draw())
    more = (weights,) if function == "linear_loss" else ()
    with tf.GradientTape(persistent=True) as tape:
        tape.watch(inputs)
        getattr(cross_entropy, function)(inputs, table, bias, targets, *more, chunk_rows=8)
    assert len(seen) == 5
    assert [tape.gradient(inputs_of_chunk, inputs) for inputs_of_chunk in seen] == [None] * 5


def test_persistent_tapes_compile():
    data = draw()

    @tf.function(jit_compile=True, autograph=False)
    def gradients(inputs, table, bias, targets, weights):
        with tf.GradientTape(persistent=True) as tape:
            tape.watch(table)
            loss = linear_loss(inputs, table, bias, targets, weights, chunk_rows=8)
        return tape.gradient(loss, table)

    np.testing.assert_allclose(gradients(*tensors(*data)), expected(*data)[2], 1e-5, 3e-6)


def test_huge_logits():
    inputs, *rest = draw()
    data = (inputs * 1e4, *rest)
    actual = compute(*tensors(*data), chunk_rows=8)
    check(actual, data, rtol=1e-5, atol=2e-2)
    assert np.max(actual[0][0]) > 1e4


def test_weights_have_no_gradient():
    inputs, table, bias, targets, weights = tensors(*draw())

    def gradient(weights):
        with tf.GradientTape() as tape:
            tape.watch(weights)
            loss = linear_loss(inputs, table, bias, targets, weights, chunk_rows=8)
        return tape.gradient(loss, weights, unconnected_gradients="zero")

    np.testing.assert_array_equal(gradient(weights), np.zeros(T))
    # AutoGraph reads it all here, as in others' programs; elsewhere it would only take time.
    np.testing.assert_array_equal(tf.function(gradient)(weights), np.zeros(T))


@pytest.mark.parametrize("dtype", [tf.bfloat16, tf.float16])
def test_equal_weights_lose_nothing_of_the_bias_gradient(dtype):
    """1 / 37 rounded to 8 bits is off by 0.2 percent, in every row the same way."""
    inputs, table, bias, targets, _ = draw(296)
    data = [np.float64(tf.cast(one, dtype)) for one in (inputs, table)]
    weights = np.full(296, 1 / 37, np.float32)
    with tf.GradientTape() as tape:
        source = tf.constant(bias)
        tape.watch(source)
        loss = linear_loss(*(tf.cast(one, dtype) for one in data), source, targets, weights)
    found = np.float64(tape.gradient(loss, source))
    np.testing.assert_allclose(found, expected(*data, bias, targets, weights)[3], atol=0.01)
    # Probabilities add up to 1, so the exact sum is 0. What is left are two roundings, of the
    # probabilities and of the product.
    assert abs(found.sum()) < 2**-8 * np.sum(weights)
