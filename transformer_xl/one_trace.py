"""Blocks of one kind are traced once: what TensorFlow writes down of a step, and the time for it.

A step of 16 layers has 32 blocks of two kinds, alike but for their weights. A block that was
changed is of another.
"""

import functools

import tensorflow as tf

from transformer_xl.attention import PositionBiases, RelativeAttention
from transformer_xl.block import DecoderBlock, rematerialized
from transformer_xl.dropout import counter
from transformer_xl.feed_forward import FeedForward
from transformer_xl.layer_norm import LayerNorm
from transformer_xl.substitutes import in_place_of, tensors_of


def callables(blocks, rematerialize: bool, one_trace: bool) -> list:
    """A function for each block, with its arguments and result.

    Args:
      blocks: `DecoderBlock`s, built.
      rematerialize: whether they are computed again in the backward pass.
      one_trace: whether those of a kind are traced once, see `OneTrace`; without meaning in eager
        calls.
    """
    if one_trace and not tf.executing_eagerly():
        trace = OneTrace(blocks, rematerialize)
        return [trace.of(block) for block in blocks]
    return [rematerialized(block) for block in blocks] if rematerialize else list(blocks)


class OneTrace:
    """Calls blocks through functions that have their weights as arguments, one for each kind.

    TensorFlow traces such a function and its gradient for the first block of a kind; of the others
    the graph has a call only. Before it runs the graph each call is replaced by what the function
    does, so that a step is the same.

    Of one trace of a model: to be made anew for each, and where TensorFlow builds a graph. There
    are first derivatives only, since gradients that are given with a block's operations know
    tensors of the function. What a block adds to its losses is not collected.

    Args:
      blocks: `DecoderBlock`s, built.
      rematerialize: whether they are computed again in the backward pass.
    """

    def __init__(self, blocks, rematerialize: bool = False):
        self._functions = {}  # by block
        self._last = None, None  # a block's result, and what that was normalised from
        of_kind = {}
        for block in blocks:
            kind = _kind(block)
            if kind not in of_kind:
                run = functools.partial(_run, block, rematerialize)
                of_kind[kind] = tf.function(run, autograph=False)
            self._functions[block] = of_kind[kind]

    def of(self, block):
        """A function with a block's arguments and result."""
        run = self._functions[block]

        def call(*given, seed=None):
            sites = None if seed is None else [counter(site) for site in block.sites]
            # What attention reads is remembered, and kept for that: it is not made again.
            result, normalised = self._last
            known = normalised if result is given[0] and not block.attends else None
            # Weights are read here: functions that read variables wait for one another.
            self._last = run(tensors_of(block), given, seed, sites, known)
            return self._last[0]

        return call


def _run(block, rematerialize, weights, given, seed, sites, known):
    """A block's result, and what the next one can make it of again, or None."""
    with in_place_of(block, weights):
        if rematerialize:
            return rematerialized(block)(*given, seed=seed, sites=sites), None
        if block.layer_norm == "pre" or not _is_of_these_layers(block):
            return block(*given, seed=seed, sites=sites), None
        # A function, since Keras would cast tensors to the compute dtype.
        normalised = None if known is None else lambda: known
        return block(*given, seed=seed, sites=sites, normalised=normalised, with_normalised=True)


# What blocks of a kind may differ by: what has no part in a call, the sites, which are arguments of
# the function, and layers, which are compared themselves.
_OF_ITS_OWN = {"name", "trainable", "site", "inner", "biases"}


def _kind(block):
    """What is equal for blocks that compute the same with the same weights.

    Of layers that are not these nothing is known that a call may depend on: a block with one is a
    kind of its own.
    """
    if not _is_of_these_layers(block):
        return block
    layers = [block, block.norm, block.inner, *([block.inner.biases] if block.attends else [])]
    if type(layers[-1]) not in (FeedForward, PositionBiases) or "call" in vars(layers[-1]):
        return block
    settings = [
        (name, value)
        for layer in layers
        for name, value in layer.get_config().items()
        if name not in _OF_ITS_OWN and not name.endswith("initializer")
    ]
    return repr((settings, [tuple(weight.shape) for weight in block.weights]))


def _is_of_these_layers(block):
    """Whether no layer is a subclass or has a `call` set on it.

    One may read or return something else than a norm made, and takes the arguments of its call.
    """
    ours = type(block), type(block.norm)
    return (
        ours == (DecoderBlock, LayerNorm)
        and type(block.inner) in (RelativeAttention, FeedForward)
        and not any("call" in vars(layer) for layer in (block, block.norm, block.inner))
    )
