"""Blocks that differ by more than their weights are not traced as one.

B batch, L segment length, M memory length.
"""

import keras
import numpy as np
import pytest
import tensorflow as tf

from transformer_xl.attention import PositionBiases, RelativeAttention
from transformer_xl.block import DecoderBlock
from transformer_xl.feed_forward import FeedForward
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
        assert np.linalg.norm(one - eager) <= 1e-4 * np.linalg.norm(eager)
