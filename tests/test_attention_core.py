"""Attention's own gradients beside TensorFlow's of the paper's formula; what it keeps.

B batch, L segment length, S key length, H heads, K head size.
"""

import functools

import numpy as np
import pytest
import tensorflow as tf

from tests.graph_order import ancestors
from tests.test_layer_norm import ORDERS, WRAP
from transformer_xl.attention_core import Sources, attend, same
from transformer_xl.dropout import dropout

B, H, L, S, K = 2, 3, 4, 7, 5


def draw(rank=3, number=0):
    """Sources in float64, a direction to derive along, and what each query sees."""
    rng = np.random.default_rng([rank, number])
    distances = (H, S, K) if rank == 3 else (B, H, S, K)
    queries = [(B, H, L, K), (H, 1, K), (H, 1, K)]
    shapes = [*queries, (B, H, S, K), distances, (B, H, S, K), (B, L, H, K)]
    *sources, along = [tf.constant(rng.normal(size=shape)) for shape in shapes]
    visible = np.arange(S) <= np.arange(L)[:, None] + S - L
    visible = np.repeat(visible[None, None], B, 0)
    visible[1, :, :, 0] = False  # a memory that is empty
    return sources, along, visible


def by_the_paper(visible, drop, query, content_bias, position_bias, key, distance, value):
    """Dai et al. (2019), section 3.3, key by key; TensorFlow differentiates it."""
    content, position = query + content_bias, query + position_bias
    distance = tf.broadcast_to(distance, (B, H, S, K))
    rows = []
    for i in range(L):
        # Key j stands S - L + i - j before query i, which is column L - 1 - i + j.
        columns = [min(L - 1 - i + j, S - 1) for j in range(S)]
        scores = tf.einsum("bhk,bhsk->bhs", content[:, :, i], key)
        scores += tf.einsum(
            "bhk,bhsk->bhs", position[:, :, i], tf.gather(distance, columns, axis=2)
        )
        chances = tf.where(visible[:, :, i], tf.exp(scores), tf.zeros((), scores.dtype))
        rows.append(chances / tf.reduce_sum(chances, -1, keepdims=True))
    return tf.einsum("bhls,bhsk->blhk", drop(tf.stack(rows, 2), None), value)


def derivatives(function, sources, along):
    """Values, their slopes along a direction, and slopes of those, by their order."""
    with tf.GradientTape() as outer:
        outer.watch((sources, along))
        with tf.GradientTape() as inner:
            inner.watch(sources)
            values = function(*sources)
        first = inner.gradient(values, sources, output_gradients=along)
        total = tf.add_n([tf.reduce_sum(slope**3) for slope in first])
    return dict(zip(ORDERS, ([values], first, outer.gradient(total, [*sources, along]))))


@WRAP
@pytest.mark.parametrize("rank", [3, 4], ids=["distances", "distances of each row"])
@pytest.mark.parametrize(
    ("rate", "keep_weights"),
    [
        (0.0, False),
        *(pytest.param(*case, marks=pytest.mark.slow) for case in ((0.0, True), (0.4, False))),
        (0.4, True),
    ],
)
def test_as_the_paper(wrap, rank, rate, keep_weights):
    sources, along, visible = draw(rank)

    def drop(values, _):
        return dropout(values, rate, tf.constant([3, 4]), 9)

    def ours(*sources):
        return attend(Sources(*sources), tf.constant(visible), drop if rate else same, keep_weights)

    found = wrap(lambda *given: derivatives(ours, *given))(sources, along)
    formula = functools.partial(by_the_paper, visible, drop)
    wanted = derivatives(formula, sources, along)
    for order in ORDERS:
        for one, other in zip(found[order], wanted[order], strict=True):
            np.testing.assert_allclose(one, other, rtol=1e-9, atol=1e-9 * np.abs(other).max())


@pytest.mark.parametrize(("dtype", "unit"), [("bfloat16", 2.0**-8), ("float16", 2.0**-11)])
@pytest.mark.parametrize("dropping", [False, True])
def test_16_bits_are_as_exact_as_16_bits_are(dtype, unit, dropping):
    """Also where keys and values have a mean, which must not enter the slopes of the queries."""

    def drop(values, _):
        return dropout(values, 0.4, tf.constant([3, 4]), 9)

    def slopes(*given):
        def function(*sources):
            return attend(Sources(*sources), visible, drop if dropping else same)

        return derivatives(function, list(given[:-1]), given[-1])

    errors = []
    for number in range(4):
        sources, along, visible = draw(number=number)
        *queries, key, distance, value = sources
        queries = [one * 0.1 for one in queries]
        sources = [*queries, key * 0.7 + 0.5, distance * 0.7, value + 3.0]
        halves = [tf.cast(one, dtype) for one in (*sources, along)]
        # The same rounded inputs in float64, so that only what attention itself rounds is measured.
        doubles = [tf.cast(one, tf.float64) for one in halves]
        found, wanted = slopes(*halves), slopes(*doubles)
        assert all(one.dtype == dtype for order in ORDERS for one in found[order])
        errors.append([_off(found[order], wanted[order]) for order in ORDERS])
    # Half a step where products round, a whole one where they cut off.
    unit *= 2 if products_cut_off(dtype) else 1
    # Over the draws: in one of them a tensor may be off by half as much again.
    for order, bound in enumerate((2, 3, 8)):
        off = np.sqrt(np.mean([np.square(one[order]) for one in errors], 0))
        assert np.all(off <= bound * unit)


@pytest.mark.parametrize(("dtype", "unit"), [("bfloat16", 2.0**-8), ("float16", 2.0**-11)])
@pytest.mark.parametrize("rank", [3, 4], ids=["distances", "distances of each row"])
def test_16_bits_behind_an_empty_memory(dtype, unit, rank):
    """The mean that keys have must not enter the slopes of the queries, whatever unseen keys are.

    Of four queries behind three keys of zeros, which none sees. With the mean of all keys the
    content bias' slope is off by 6 to 16 units.
    """
    errors = []
    for number in range(8):
        sources, along, visible = draw(rank, number)
        visible[..., : S - L] = False
        *queries, key, distance, value = sources
        key = (key * 0.7 + 3.0) * (np.arange(S)[:, None] >= S - L)
        queries = [one * 0.1 for one in queries]
        halves = [tf.cast(one, dtype) for one in (*queries, key, distance, value + 3.0, along)]
        doubles = [tf.cast(one, tf.float64) for one in halves]

        def slopes(*given):
            with tf.GradientTape() as tape:
                tape.watch(given)
                values = attend(Sources(*given[:-1]), visible)  # noqa: B023 (called at once)
            return tape.gradient(values, given[:3], output_gradients=given[-1])

        errors.append(_off(slopes(*halves), slopes(*doubles)))
    unit *= 2 if products_cut_off(dtype) else 1
    off = np.sqrt(np.mean(np.square(errors), 0))
    assert np.all(off <= 5 * unit)


@pytest.mark.parametrize("rank", [3, 4], ids=["distances", "distances of each row"])
def test_rows_that_end_in_padding_in_16_bits(rank):
    """Where the last query sees none of the keys whose mean is taken."""
    rng = np.random.default_rng(rank)
    length, keys = 40, 50
    distances = (H, keys, K) if rank == 3 else (B, H, keys, K)
    shapes = [(B, H, length, K), (H, 1, K), (H, 1, K), (B, H, keys, K), distances, (B, H, keys, K)]
    drawn = [rng.normal(size=shape) for shape in shapes]
    sources = [tf.cast(one, "bfloat16") for one in (*(q * 0.1 for q in drawn[:3]), *drawn[3:])]
    visible = np.arange(keys) <= np.arange(length)[:, None] + keys - length
    visible = np.repeat(visible[None, None], B, 0)
    visible[1, ..., 12:] = False
    along = tf.cast(rng.normal(size=(B, length, H, K)), "bfloat16")

    def slopes(dtype):
        given = [tf.cast(one, dtype) for one in sources]
        with tf.GradientTape() as tape:
            tape.watch(given)
            values = attend(Sources(*given), visible)
        return tape.gradient(values, given, output_gradients=tf.cast(along, dtype))

    unit = 2.0**-8 * (2 if products_cut_off("bfloat16") else 1)
    assert max(_off(slopes("bfloat16"), slopes("float64"))) <= 3 * unit  # as of whole rows


def products_cut_off(dtype):
    """Whether products do not round: TensorFlow's of bfloat16 where the CPU has none of its own."""
    step = np.spacing(tf.ones((), dtype).numpy()).astype("float64")
    # A product with the result 1 and three quarters of a step.
    left, right = tf.constant([[[1.0, step]]]), tf.constant([[[1.0], [0.75]]])
    product = tf.matmul(tf.cast(left, dtype), tf.cast(right, dtype))
    return float(tf.squeeze(product)) == 1.0


def _off(found, wanted):
    """Of each tensor the norm of its error, relative to its own."""
    pairs = zip(found, wanted, strict=True)
    return [np.linalg.norm(tf.cast(a, tf.float64) - b) / np.linalg.norm(b) for a, b in pairs]


def backward_of(sources, along, visible, keep_weights=True):
    """The graph of values and their gradients, and where in its operations the latter begin."""

    @tf.function(autograph=False)
    def step(*sources):
        with tf.GradientTape() as tape:
            tape.watch(sources)
            values = attend(Sources(*sources), visible, keep_weights=keep_weights)
        # Nothing before this operation belongs to the backward pass.
        upstream = tf.identity(along, name="beginning_of_backward")
        return tape.gradient(values, sources, output_gradients=upstream)

    graph = step.get_concrete_function(*sources).graph
    names = [operation.name for operation in graph.get_operations()]
    return graph, names.index("beginning_of_backward")


@pytest.mark.parametrize("keep_weights", [False, True])
def test_weights_are_made_again_when_the_gradient_is_there(keep_weights):
    """Every tensor of their size that the forward pass makes is read by it alone."""
    sources, along, visible = draw()
    graph, begin = backward_of(sources, along, visible, keep_weights)
    operations = graph.get_operations()
    backward = {operation.name for operation in operations[begin:]}
    made = [t for o in operations[:begin] for t in o.outputs if t.shape.as_list() == [B, H, L, S]]
    assert len(made) >= 4  # both products, their sum, the weights
    readers = {reader.name for tensor in made for reader in tensor.consumers()}
    assert bool(readers & backward) == keep_weights
    again = [o for o in operations[begin:] if o.type == "Softmax"]
    assert len(again) == (0 if keep_weights else 1)
    for softmax in again:
        assert "beginning_of_backward" in ancestors(softmax)


@pytest.mark.parametrize("keep_weights", [False, True])
def test_what_is_kept_takes_memory_before_what_is_not(keep_weights):
    """The products of distances wait for those of content, in the backward pass, too."""
    sources, along, visible = draw()
    graph, _ = backward_of(sources, along, visible, keep_weights)
    sums = [one for one in graph.get_operations() if one.type == "AddV2"]
    sums = [one for one in sums if one.outputs[0].shape.as_list() == [B, H, L, S]]
    # Of the sums of that shape one for each time the weights are made is of two kinds of scores.
    scores = [one for one in sums if one.inputs[0].op.type.startswith("BatchMatMul")]
    assert len(scores) == (1 if keep_weights else 2)
    for one in scores:
        by_content, shifted = (tensor.op for tensor in one.inputs)
        products = [name for name in ancestors(shifted) if "MatMul" in name]
        waiting = [graph.get_operation_by_name(name).control_inputs for name in products]
        assert [by_content] in waiting


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_of_each_source_one_tensor_is_kept(dtype):
    """Nothing as large as a source is made of the sources alone for the backward pass: TensorFlow
    would make it in the forward pass."""
    sources, along, visible = draw()
    sources, along = [tf.cast(one, dtype) for one in sources], tf.cast(along, dtype)
    graph, begin = backward_of(sources, along, visible)
    operations = graph.get_operations()
    backward = operations[begin + 1 :]
    early = [one for one in backward if "beginning_of_backward" not in ancestors(one)]
    computed = {one.type for one in early} - {"Const", "Reshape", "Identity", "IdentityN"}
    # A few of the keys and their mean; zeros that TensorFlow passes for gradients nobody reads.
    assert computed <= {"StridedSlice", "Mean", "Cast", "Fill"}
    assert "Sub" in {one.type for one in backward}
    sums = [one.outputs[0] for one in operations[:begin] if one.type == "AddV2"]
    sums = [tensor for tensor in sums if tensor.shape.as_list() == [B, H, L, K]]
    assert len(sums) == 2  # of the query and each bias
    for tensor in sums:
        assert not {reader.name for reader in tensor.consumers()} & {
            one.name for one in operations[begin:]
        }


@pytest.mark.parametrize("keep_weights", [False, True])
def test_xla_makes_the_weights_again(keep_weights):
    """It would make one of two computations of the same numbers."""
    sources, along, visible = draw()

    @tf.function(jit_compile=True, autograph=False)
    def step(*sources):
        with tf.GradientTape() as tape:
            tape.watch(sources)
            values = attend(Sources(*sources), visible, keep_weights=keep_weights)
        return tape.gradient(values, sources, output_gradients=along)

    compiled = step.experimental_get_compiler_ir(*sources)(stage="optimized_hlo")
    assert compiled.count(" exponential(") == (1 if keep_weights else 2)
