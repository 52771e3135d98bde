"""Blocks of one kind are one function in a training step's graph, and compute what each computes.

B batch, L segment length, M memory length.
"""

import collections

import keras
import numpy as np
import pytest
import tensorflow as tf

from transformer_xl import ModelConfig, TransformerXL
from transformer_xl.block import DecoderBlock
from transformer_xl.feed_forward import FeedForward
from transformer_xl.layer_norm import LayerNorm
from transformer_xl.one_trace import callables
from transformer_xl.substitutes import in_place_of, tensors_of
from transformer_xl.training import steps

B, L, M, V = 2, 5, 3, 31
SETTINGS = {
    "vocab_size": V,
    "num_layers": 3,
    "model_dim": 8,
    "num_heads": 2,
    "feed_forward_dim": 11,
    "dropout": 0.2,
    "attention_dropout": 0.1,
    "memory_length": M,
}
TOKENS = tf.constant(np.random.default_rng(0).integers(0, V, (B, L)), tf.int32)


def model_of(dtype=None, **changes):
    keras.utils.set_random_seed(1)
    return TransformerXL(ModelConfig(**{**SETTINGS, **changes}), seed=5, dtype=dtype)


def hidden_and_slopes(model, memory):
    """The hidden states of a training call, and the gradient of their cubes' sum in each weight."""
    weights = [variable.value for block in model.blocks for variable in block.trainable_variables]
    with tf.GradientTape() as tape:
        hidden, after = model(TOKENS, memory, training=True, one_trace=True)
        total = tf.reduce_sum(tf.cast(hidden, tf.float32) ** 3)
    return hidden, after.hidden, tape.gradient(total, weights)


@pytest.mark.parametrize(
    ("changes", "dtype"),
    [
        ({}, None),
        ({"layer_norm": "pre", "block_pattern": "affaa", "untie_position_biases": False}, None),
        ({"rematerialize": True}, None),
        ({"rematerialize_feed_forward": True}, "mixed_bfloat16"),
    ],
    ids=["post", "pre, biases shared", "computed again", "inner layers computed again"],
)
def test_as_computed_block_by_block(changes, dtype):
    """Eager calls go through the blocks themselves."""
    found = []
    for wrap in (tf.function(hidden_and_slopes, autograph=False), hidden_and_slopes):
        model = model_of(dtype, **changes)
        random = np.random.default_rng(2)
        memory = model.initial_memory(B)
        filled = [tf.cast(random.normal(size=(B, M, 8)), one.dtype) for one in memory.hidden]
        memory = memory._replace(hidden=tuple(filled), valid=tf.constant([M, 1]))
        found.append(tf.nest.flatten(wrap(model, memory)))
    assert len(found[0]) > 20
    # Sums are in another order where the graph is optimised. In 16 bits rounding is hundredths of a
    # gradient; another block's weights or masks would be as much as the gradient itself.
    bound = 1e-5 if dtype is None else 0.1
    for traced, eager in zip(*found, strict=True):
        traced, eager = (tf.cast(one, tf.float32).numpy() for one in (traced, eager))
        assert np.linalg.norm(traced - eager) <= bound * np.linalg.norm(eager)


def calls(graph):
    """How often each function is called."""
    names = [one.get_attr("f").name for one in graph.get_operations() if "Call" in one.type]
    return sorted(collections.Counter(names).values())


def test_a_kind_is_one_function_forward_and_one_backward():
    def step(model):
        return hidden_and_slopes(model, model.initial_memory(B))

    sizes = {}
    for num_layers in (2, 4):
        model = model_of(num_layers=num_layers)
        graph = tf.function(step, autograph=False).get_concrete_function(model).graph
        assert calls(graph) == [num_layers] * 4
        # A function that reads variables would be stateful, and wait for the one before.
        assert "StatefulPartitionedCall" not in {one.type for one in graph.get_operations()}
        sizes[num_layers] = len(graph.get_operations())
    # Two weights read, a call and its gradient, two sites: not a layer's five hundred operations.
    assert (sizes[4] - sizes[2]) / 2 < 120


def origin(tensor):
    """What a tensor is another view of."""
    while tensor.op.type in ("Identity", "IdentityN", "Reshape", "StopGradient", "Cast"):
        tensor = tensor.op.inputs[tensor.value_index]
    return tensor


def needed(graph):
    """The operations that a graph's results are made by."""
    found, left = set(), [output.op for output in graph.outputs]
    while left:
        op = left.pop()
        if op not in found:
            found.add(op)
            left += [tensor.op for tensor in op.inputs]
    return found


def function_of(graph, call):
    return graph._get_function(call.get_attr("f").name).graph


def kept_of_hidden(graph, forward, backward):
    """How often a block's own input is what its forward function keeps for the backward one."""
    one, other = function_of(graph, forward), function_of(graph, backward)
    (hidden,) = [given for given in one.inputs if given.op.name == "given"]
    used = needed(other)
    kept = [
        one.outputs[tensor.value_index]
        for tensor, inside in zip(backward.inputs, other.inputs, strict=True)
        if tensor.op is forward and inside.op in used
    ]
    assert len(kept) > 5
    return sum(origin(tensor) is hidden for tensor in kept)


PATTERNS = [
    # Of a feed-forward block's input there is what a norm made; attention's is remembered.
    ({"block_pattern": "affaaf"}, [True, False, False, True, True, False]),
    ({"block_pattern": "fa"}, [True, True]),  # no norm made the first one's
    ({"block_pattern": "af", "layer_norm": "pre"}, None),
]


@pytest.mark.parametrize(
    ("changes", "expected", "dtype"),
    [
        *((*case, None) for case in PATTERNS),
        (*PATTERNS[0], "mixed_bfloat16"),
        *(pytest.param(*case, "mixed_bfloat16", marks=pytest.mark.slow) for case in PATTERNS[1:]),
    ],
)
def test_what_feed_forward_blocks_read_is_made_again(changes, expected, dtype):
    model = model_of(dtype, num_layers=changes["block_pattern"].count("a"), **changes)

    def step():
        return hidden_and_slopes(model, model.initial_memory(B))

    graph = tf.function(step, autograph=False).get_concrete_function().graph
    called = [one for one in graph.get_operations() if "Call" in one.type]
    length = len(changes["block_pattern"])
    forward, backward = called[:length], called[: length - 1 : -1]
    if expected is None:
        inputs = function_of(graph, forward[1]).inputs
        assert not [given for given in inputs if given.op.name.startswith("known")]
        return
    found = [kept_of_hidden(graph, *pair) for pair in zip(forward, backward, strict=True)]
    assert [number > 0 for number in found] == expected


class DoubledInside(FeedForward):
    def call(self, hidden, **named):
        return super().call(hidden * 2.0, **named)


class DoubledAtTheEnd(DecoderBlock):
    def call(self, hidden, **named):
        return super().call(hidden, **named) * 2.0


class DoubledNorm(LayerNorm):
    def call(self, inputs):
        return super().call(inputs) * 2.0


class WithoutNews(FeedForward):
    def call(self, hidden, seed=None, turned=None, site=None):
        return super().call(hidden, seed, turned, site) * 2.0


@pytest.mark.parametrize(
    ("inner", "block", "norm"),
    [
        (DoubledInside, DecoderBlock, LayerNorm),
        (WithoutNews, DecoderBlock, LayerNorm),
        (FeedForward, DoubledAtTheEnd, LayerNorm),
        (FeedForward, DecoderBlock, DoubledNorm),
        (FeedForward, DecoderBlock, keras.layers.LayerNormalization),
    ],
)
def test_subclasses_of_the_layers(inner, block, norm):
    keras.utils.set_random_seed(6)
    blocks = [block(inner(8, 11), name=f"block_{i}") for i in range(2)]
    for one in blocks:
        one.norm = norm(name="norm")
        one.build()
    weights = [variable.value for one in blocks for variable in one.trainable_variables]
    inputs = tf.random.normal([B, L, 8])

    def slopes():
        with tf.GradientTape() as tape:
            hidden = inputs
            for run in callables(blocks, False, True):
                hidden = run(hidden)
            total = tf.reduce_sum(hidden**3)
        return tape.gradient(total, weights)

    for traced, eager in zip(tf.function(slopes, autograph=False)(), slopes(), strict=True):
        np.testing.assert_allclose(traced, eager, rtol=1e-4, atol=1e-4)


def test_only_where_it_is_asked_for():
    model = model_of(num_layers=2)

    def found(**named):
        def hidden():
            return model(TOKENS, training=True, **named)[0]

        return calls(tf.function(hidden, autograph=False).get_concrete_function().graph)

    assert found() == []
    assert found(one_trace=True) == [2, 2]


@pytest.mark.parametrize("jit_compile", [False, True])
def test_a_training_step_asks_for_it_where_xla_does_not_compile_it(monkeypatch, jit_compile):
    class AskedError(Exception):
        pass

    def asked(model, *given):
        raise AskedError(given[-1])

    monkeypatch.setattr(steps, "summed_gradients", asked)
    model = model_of(num_layers=1)
    step = steps.make_train_step(model, keras.optimizers.SGD(), jit_compile=jit_compile)
    with pytest.raises(AskedError, match=str(not jit_compile)):
        step(TOKENS, TOKENS, tf.ones([B, L]), model.initial_memory(B))


def test_elsewhere_there_are_second_derivatives():
    model = model_of(num_layers=1, dropout=0.0, attention_dropout=0.0)
    kernel = model.blocks[0].inner.query_kernel.value

    def slope_of_slopes():
        with tf.GradientTape() as outer:
            with tf.GradientTape() as inner:
                total = tf.reduce_sum(model(TOKENS, training=True)[0] ** 3)
            slopes = inner.gradient(total, kernel)
            length = tf.reduce_sum(slopes**2)
        return outer.gradient(length, kernel)

    eager = slope_of_slopes().numpy()
    assert np.abs(eager).max() > 0
    graph = tf.function(slope_of_slopes, autograph=False)().numpy()
    assert np.linalg.norm(graph - eager) <= 1e-4 * np.linalg.norm(eager)


def test_weights_that_stand_in_for_the_models_are_those_used():
    """As `keras.Model.stateless_call` passes them."""
    model, other = model_of(dropout=0.0, attention_dropout=0.0), model_of()
    others = [variable.value * 2.0 for variable in other.trainable_variables]
    state = [variable.value for variable in model.non_trainable_variables]

    @tf.function(autograph=False)
    def call(others):
        return model.stateless_call(others, state, TOKENS, training=True, one_trace=True)[0][0]

    found = call(others)
    for variable, value in zip(model.trainable_variables, others, strict=True):
        variable.assign(value)
    np.testing.assert_allclose(found, model(TOKENS)[0], rtol=1e-5, atol=1e-5)


def test_tensors_in_place_of_weights():
    layer, other = FeedForward(8, 11), FeedForward(8, 11)
    inputs = tf.random.normal([B, L, 8])
    wanted = other(inputs)
    layer.build(None)
    with tf.GradientTape() as tape:
        tensors = tensors_of(other)
        with in_place_of(layer, tensors):
            found = layer(inputs)
    np.testing.assert_array_equal(found, wanted)
    assert all(one is not None for one in tape.gradient(found, other.trainable_variables))
    with pytest.raises(ValueError, match="shorter"):
        in_place_of(layer, tensors[1:])
