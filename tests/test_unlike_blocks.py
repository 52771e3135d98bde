"""Blocks that differ by more than their weights are not traced as one.

B batch, L segment length, M memory length.
"""

import keras
import numpy as np
import pytest
import tensorflow as tf

from transformer_xl import ModelConfig, TransformerXL
from transformer_xl.attention import PositionBiases, RelativeAttention
from transformer_xl.block import DecoderBlock
from transformer_xl.feed_forward import FeedForward
from transformer_xl.new_cache import cache_of
from transformer_xl.one_trace import callables

pytestmark = pytest.mark.usefixtures("graphs_as_written")

B, L, M = 2, 5, 3


class Squared(FeedForward):
    """Another activation."""

    def _both_layers(self, hidden, seed, site, turned=None, normalised=None):
        return super()._both_layers(hidden, seed, site, turned, normalised) ** 2


class LargerBiases(PositionBiases):
    def vectors(self):
        return tuple(3.0 * one for one in super().vectors())


def attention(num_heads=2, head_dim=4, kind=PositionBiases, **named):
    biases = kind(num_heads, head_dim, initializer="random_normal")
    return RelativeAttention(8, num_heads, head_dim, biases, **named)


def feed_forward(feed_forward_dim=11, kind=FeedForward, **named):
    return kind(8, feed_forward_dim, **named)


def patched(block):
    """A call of its own, set on the layer."""
    whole = block.inner.call
    block.inner.call = lambda *given, **named: 2.0 * whole(*given, **named)


def of_few_arguments(block):
    """As `patched`, and takes what a feed-forward block gives alone."""
    whole = block.inner.call
    block.inner.call = lambda hidden, seed=None, site=None: 2.0 * whole(hidden, seed, site=site)


def patched_norm(block):
    whole = block.norm.call
    block.norm.call = lambda inputs: 2.0 * whole(inputs)


def patched_block(block):
    whole = block.call
    block.call = lambda *given, **named: 2.0 * whole(*given, **named)


def another_norm(block):
    block.norm.epsilon = 0.5


@pytest.mark.parametrize(
    ("inner", "other", "settings", "change"),
    [
        (feed_forward, {}, {"dropout": 0.5}, None),
        (feed_forward, {}, {"layer_norm": "pre"}, None),
        (feed_forward, {}, {"layer_norm_epsilon": 0.5}, None),
        (feed_forward, {}, {}, another_norm),
        (feed_forward, {}, {}, patched),
        (feed_forward, {}, {}, of_few_arguments),
        (feed_forward, {}, {}, patched_norm),
        (feed_forward, {}, {}, patched_block),
        (attention, {}, {}, patched_norm),
        (feed_forward, {"dropout": 0.5}, {}, None),
        (feed_forward, {"feed_forward_dim": 17}, {}, None),
        (feed_forward, {"kind": Squared}, {}, None),
        (attention, {"attention_dropout": 0.5}, {}, None),
        (attention, {"num_heads": 4, "head_dim": 2}, {}, None),
        (attention, {"kind": LargerBiases}, {}, None),
    ],
)
def test_one_of_three_blocks_is_another(inner, other, settings, change):
    """Eager calls go through the blocks themselves."""
    keras.utils.set_random_seed(7)
    blocks = []
    for i in range(3):
        of_block = (other, settings) if i == 1 else ({}, {})
        one = DecoderBlock(inner(site=2 * i, **of_block[0]), site=2 * i + 1, **of_block[1])
        one.build()
        if i == 1 and change is not None:
            change(one)
        blocks.append(one)
    weights = [variable.value for one in blocks for variable in one.trainable_variables]
    inputs, memory = tf.random.normal([B, L, 8]), tf.random.normal([B, M, 8])
    positions, visible = tf.random.normal([M + L, 8]), tf.ones([B, 1, L, M + L], tf.bool)
    given = (memory, positions, visible) if inner is attention else ()

    def slopes():
        with tf.GradientTape() as tape:
            hidden = inputs
            for run in callables(blocks, False, True):
                hidden = run(hidden, *given, seed=tf.constant([3, 4]))
            total = tf.reduce_sum(hidden**3)
        return [hidden, *tape.gradient(total, weights)]

    for one, eager in zip(tf.function(slopes, autograph=False)(), slopes(), strict=True):
        assert np.linalg.norm(one - eager) <= 1e-5 * np.linalg.norm(eager)


class DoubledBlock(DecoderBlock):
    def call(self, *given, **named):
        return 2.0 * super().call(*given, **named)


class DoubledAttention(RelativeAttention):
    def call(self, *given, **named):
        return 2.0 * super().call(*given, **named)


@pytest.mark.parametrize("of_block", [True, False])
def test_a_cache_is_not_read_by_another_call(of_block):
    """It would be read as if the layer had none."""
    model = TransformerXL(ModelConfig(11, num_layers=1, model_dim=4, num_heads=1, init_stddev=0.7))
    (layer, kind) = (
        (model.blocks[1], DoubledBlock) if of_block else (model.blocks[0].inner, DoubledAttention)
    )
    tokens = tf.constant([[1, 2, 3]])
    before = model(tokens)[0]
    layer.__class__ = kind
    assert np.abs(model(tokens)[0] - before).max() > 0.1
    for read in (
        lambda: model.initial_cache(1),
        lambda: cache_of(model, model.initial_memory(1)),
        lambda: model.generate([[1, 2]], 1, [1, 2]),
    ):
        with pytest.raises(ValueError, match=f"Received: {kind.__name__} in block_.*a Memory"):
            read()
    layer.__class__ = kind.__base__
    layer.call = lambda *given, **named: kind.__base__.call(layer, *given, **named)
    with pytest.raises(ValueError, match="whose `call` is its own"):
        model.initial_cache(1)


def test_a_cache_is_not_read_by_another_kind_of_block():
    model = TransformerXL(ModelConfig(11, num_layers=1, model_dim=4, num_heads=1))
    model.blocks[1] = keras.layers.Identity(name="mine")
    with pytest.raises(ValueError, match="Received: mine, of class Identity. Read with a Mem"):
        model.initial_cache(1)


@pytest.mark.parametrize("kind", [Squared, LargerBiases])
def test_a_cache_is_read_with_layers_of_other_classes(kind):
    model = TransformerXL(ModelConfig(11, num_layers=1, model_dim=4, num_heads=1, init_stddev=0.7))
    layer = model.blocks[0].inner.biases if kind is LargerBiases else model.blocks[1].inner
    for weight in model.blocks[0].inner.biases.weights:
        weight.assign(tf.ones(weight.shape))
    tokens = tf.constant([[1, 2, 3]])
    before = model(tokens)[0]
    layer.__class__ = kind
    hidden = model(tokens)[0]
    assert np.abs(hidden - before).max() > 1e-3
    found, _ = model.extend(tokens, model.initial_cache(1))
    np.testing.assert_allclose(found, hidden, rtol=1e-5, atol=1e-6)
