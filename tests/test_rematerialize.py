"""Blocks computed again in the backward pass: the same numbers, computed twice, and less memory.

B batch, L segment length, M memory length.
"""

import dataclasses

import numpy as np
import pytest
import tensorflow as tf

from transformer_xl import ModelConfig, TransformerXL
from transformer_xl.block import DecoderBlock

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
SMALL = {
    "num_layers": 1,
    "cutoffs": (),
    "div_val": 1,
    "tie_projections": "all",
    "block_pattern": "fa",
}
PRE = {"layer_norm": "pre", "untie_position_biases": False, "block_pattern": "affa"}


def pair(what="rematerialize", **changes):
    """Two models of the same weights and seed, one that keeps what it computes and one that not."""
    config = dataclasses.replace(CONFIG, **changes)
    models = [
        TransformerXL(dataclasses.replace(config, **{what: again}), seed=5)
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
        (PRE, False),
        pytest.param(SMALL, True, marks=pytest.mark.slow),
    ],
)
@pytest.mark.parametrize("what", ["rematerialize", "rematerialize_attention"])
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


def test_attention_weights_are_made_twice():
    """Of each layer, and once in a block that is computed again as a whole."""

    def softmaxes(model):
        def step(tokens, targets):
            with tf.GradientTape() as tape:
                loss, _ = model.loss(tokens, targets, tf.ones([B, L]), training=True)
            return tape.gradient(loss, [variable.value for variable in model.trainable_variables])

        graph = tf.function(step, autograph=False).get_concrete_function(*segments()[0]).graph
        shape = [B, CONFIG.num_heads, L, M + L]
        made = [o for o in graph.get_operations() if o.type == "Softmax"]
        return sum(operation.outputs[0].shape.as_list() == shape for operation in made)

    layers = CONFIG.num_layers
    kept, again = pair("rematerialize_attention")
    _, blocks = pair("rematerialize", rematerialize_attention=True)
    counted = [softmaxes(model) for model in (kept, again, blocks)]
    assert counted == [layers, 2 * layers, 2 * layers]
