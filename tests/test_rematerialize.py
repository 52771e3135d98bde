"""Blocks computed again in the backward pass: the same numbers, computed twice, and less memory.

B batch, L segment length, M memory length.
"""

import dataclasses

import numpy as np
import pytest
import tensorflow as tf

from tests.graph_order import ancestors, operations_run
from transformer_xl import ModelConfig, TransformerXL
from transformer_xl.attention import PositionBiases, RelativeAttention
from transformer_xl.block import DecoderBlock, rematerialized
from transformer_xl.feed_forward import FeedForward

B, L, M, V = 2, 5, 3, 31
CONFIG = ModelConfig(
    vocab_size=V,
    num_layers=2,
    model_dim=8,
    num_heads=2,
    feed_forward_dim=11,
    cutoffs=(7, 19),
    div_val=2,
    dropout=0.2,
    attention_dropout=0.1,
    memory_length=M,
)
# The losses are those of one cluster where the blocks are what there is to compile.
ONE_CLUSTER = {"cutoffs": (), "div_val": 1, "tie_projections": "all_but_head"}
PRE = {
    "layer_norm": "pre",
    "untie_position_biases": False,
    "block_pattern": "affa",
    **ONE_CLUSTER,
}
BFLOAT16 = {**ONE_CLUSTER, "num_layers": 1, "block_pattern": "af", "dtype": "mixed_bfloat16"}
SMALL = {**ONE_CLUSTER, "num_layers": 1, "tie_projections": "all", "block_pattern": "fa"}


def pair(what="rematerialize", dtype=None, **changes):
    """Two models of the same weights and seed, one that keeps what it computes and one that not."""
    config = dataclasses.replace(CONFIG, **changes)
    models = [
        TransformerXL(dataclasses.replace(config, **{what: again}), seed=5, dtype=dtype)
        for again in (False, True)
    ]
    models[1].set_weights(models[0].get_weights())
    return models


def segments():
    random = np.random.default_rng(0)
    ids = random.integers(0, V, (2, B, L + 1)).astype(np.int32)
    return [(tf.constant(one[:, :-1]), tf.constant(one[:, 1:])) for one in ids]


def losses_and_gradients(model, jit_compile):
    """Two training segments, with memory: of each the loss and every gradient, then the memory."""
    variables = [variable.value for variable in model.trainable_variables]

    def step(tokens, targets, memory):
        with tf.GradientTape() as tape:
            loss, memory = model.loss(tokens, targets, tf.ones([B, L]), memory, training=True)
        gradients = tape.gradient(loss, variables)
        return loss, [tf.convert_to_tensor(one) for one in gradients], memory

    if jit_compile is not None:
        step = tf.function(step, jit_compile=jit_compile, autograph=False)
    memory, found = model.initial_memory(B), []
    for tokens, targets in segments():
        loss, gradients, memory = step(tokens, targets, memory)
        found += [loss, *gradients]
    return [np.asarray(one) for one in (*found, *memory.hidden)]


@pytest.fixture
def sums_in_their_order():
    """TensorFlow's graph optimizer would add in another order where more is kept."""
    tf.config.optimizer.set_experimental_options({"arithmetic_optimization": False})
    yield
    tf.config.optimizer.set_experimental_options({"arithmetic_optimization": True})


@pytest.mark.parametrize(
    ("changes", "jit_compile"),
    [
        ({}, None),
        pytest.param({}, False, marks=pytest.mark.slow),
        pytest.param(PRE, False, marks=pytest.mark.slow),
        pytest.param(BFLOAT16, False, marks=pytest.mark.slow),
        pytest.param(SMALL, True, marks=pytest.mark.slow),
    ],
)
@pytest.mark.parametrize(
    "what", ["rematerialize", "rematerialize_attention", "rematerialize_feed_forward"]
)
def test_the_same_losses_gradients_and_masks(changes, jit_compile, what, sums_in_their_order):
    kept, again = (losses_and_gradients(model, jit_compile) for model in pair(what, **changes))
    assert len(kept) == len(again) > 30
    # XLA fuses other operations with one another, and rounds in other places.
    bound = 2e-6 if jit_compile else 0
    for one, other in zip(kept, again, strict=True):
        np.testing.assert_allclose(other, one, rtol=bound, atol=bound)


def test_blocks_are_computed_twice_in_training_only(monkeypatch):
    calls = []
    call = DecoderBlock.call
    monkeypatch.setattr(
        DecoderBlock,
        "call",
        lambda block, *a, **k: calls.append(block.name) or call(block, *a, **k),
    )
    kept, again = pair()
    (tokens, targets), _ = segments()
    for model, training, times in ((kept, True, 1), (again, True, 2), (again, False, 1)):
        calls.clear()
        with tf.GradientTape() as tape:
            loss, _ = model.loss(tokens, targets, tf.ones([B, L]), training=training)
        tape.gradient(loss, [variable.value for variable in model.trainable_variables])
        assert sorted(calls) == sorted(times * [block.name for block in model.blocks])


@pytest.mark.parametrize(
    ("what", "operation", "shape"),
    [
        ("rematerialize_attention", "Softmax", (B, CONFIG.num_heads, L, M + L)),
        ("rematerialize_feed_forward", "Relu", (B * L, CONFIG.feed_forward_dim)),
    ],
)
def test_what_is_made_again_is_made_twice(what, operation, shape):
    """In each layer, and not once more in a block that is computed again as a whole."""

    def made(model):
        def step(tokens, targets):
            with tf.GradientTape() as tape:
                loss, _ = model.loss(tokens, targets, tf.ones([B, L]), training=True)
            return tape.gradient(loss, [variable.value for variable in model.trainable_variables])

        graph = tf.function(step, autograph=False).get_concrete_function(*segments()[0]).graph
        return operations_run(graph)[operation, shape]

    layers = CONFIG.num_layers
    kept, again = pair(what, **ONE_CLUSTER)
    _, blocks = pair("rematerialize", **{what: True}, **ONE_CLUSTER)
    assert [made(model) for model in (kept, again, blocks)] == [layers, 2 * layers, 2 * layers]


def waiting(function, operation_type):
    """Of each operation of a type whether it waits for the gradient of `function`."""

    @tf.function(autograph=False)
    def gradients(hidden, upstream):
        with tf.GradientTape() as tape:
            tape.watch(hidden)
            result = function(hidden)
        return tape.gradient(result, hidden, output_gradients=upstream)

    like = tf.TensorSpec([B, L, 8])
    graph = gradients.get_concrete_function(like, tf.TensorSpec([B, L, 8], name="upstream")).graph
    found = [one for one in graph.get_operations() if one.type == operation_type]
    return sorted("upstream" in ancestors(one) for one in found)


DRAW = "StatelessRandomUniformFullIntV2"
SEED = tf.constant([1, 2])


@pytest.mark.parametrize("operation_type", ["Relu", DRAW])
def test_the_second_inner_layer_waits_for_the_gradient(operation_type):
    """It, or its mask, would be kept from the forward pass otherwise."""
    layer = FeedForward(8, 11, dropout=0.2, keep_inner=False)
    layer.build(None)
    assert waiting(lambda hidden: layer(hidden, seed=SEED), operation_type) == [False, True]


@pytest.mark.parametrize("kind", ["feed_forward", "attention"])
def test_masks_of_a_block_wait_for_the_gradient(kind):
    if kind == "feed_forward":
        inner, others = FeedForward(8, 11, dropout=0.2), ()
    else:
        biases = PositionBiases(2, 4)
        inner = RelativeAttention(8, 2, 4, biases, attention_dropout=0.1)
        visible = tf.sequence_mask(tf.range(M + 1, M + L + 1), M + L)[None, None]
        others = (tf.zeros([B, M, 8]), tf.zeros([M + L, 8]), visible)
    block = DecoderBlock(inner, dropout=0.2)
    block.build(None)
    again = rematerialized(block)
    found = waiting(lambda hidden: again(hidden, *others, seed=SEED), DRAW)
    # Two masks, each drawn forward and again; attention's once more for its own gradient.
    assert found.count(False) == 2
    assert found.count(True) >= 2


def test_masks_of_weights_made_again_wait_for_the_gradient():
    visible = tf.sequence_mask(tf.range(M + 1, M + L + 1), M + L)[None, None]
    sources = (tf.zeros([B, M, 8]), tf.zeros([M + L, 8]), visible)

    def found(keep_weights):
        layer = RelativeAttention(
            8, 2, 4, PositionBiases(2, 4), attention_dropout=0.1, keep_weights=keep_weights
        )
        layer.build(None)
        return waiting(lambda hidden: layer(hidden, *sources, seed=SEED), DRAW)

    assert found(keep_weights=True).count(True) == 0
    again = found(keep_weights=False)
    assert again.count(False) == 1 and again.count(True) >= 1
