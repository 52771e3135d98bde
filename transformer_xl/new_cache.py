"""Caches where a text begins: of a memory, and with room for more.

B batch, M memory length, R = M + 1 slots of a ring, D width, H heads, K head size, P distances
whose positions are kept.
"""

import tensorflow as tf

from transformer_xl.attention import RelativeAttention
from transformer_xl.block import DecoderBlock
from transformer_xl.cache import Cache, keys_and_values, projected_positions, sinusoids
from transformer_xl.config_rules import check_lengths
from transformer_xl.memory import Memory
from transformer_xl.shapes import checked_segment_length, known

_FARTHEST = 2**31 - 1


def initial(model, batch_size, memory_length: int, segment_length: int, clamp_length: int | None):
    """The cache before the first segment; see `TransformerXL.initial_cache`."""
    memory_length = known(memory_length)
    # Below 1 a single token would find no position for the oldest that it remembers.
    segment_length = checked_segment_length(segment_length)
    clamp = _checked_clamp(model, memory_length, clamp_length)
    _check_layers(model)
    # All positions of the memory before the first segment are alike: one is projected.
    one = model.initial_memory(1, 1)
    keys, values = (
        tuple(tf.tile(tensor, [batch_size, 1, memory_length + 1, 1]) for tensor in tensors)
        for tensors in zip(*_projected_memory(model, one))
    )
    positions = _all_positions(model, memory_length + segment_length, clamp)
    valid = tf.fill([batch_size], one.valid[0] * memory_length)
    return Cache(keys, values, positions, tf.constant(0), valid, clamp)


def cache_of(model, memory: Memory, segment_length: int = 1, clamp_length: int | None = None):
    """What a memory holds, projected.

    Args:
      model: a `TransformerXL`.
      memory: a `Memory` of it.
      segment_length: positions are projected ahead for segments up to this length; those of longer
        ones are projected when they come.
      clamp_length: as in a call of the model; holds for all segments that follow.

    Returns:
      A `Cache` of the same length.
    """
    segment_length = checked_segment_length(segment_length)
    clamp = _checked_clamp(model, memory.length, clamp_length)
    _check_layers(model)
    slot = [[0, 0], [0, 0], [1, 0], [0, 0]]
    keys, values = (
        tuple(tf.pad(tensor, slot) for tensor in tensors)
        for tensors in zip(*_projected_memory(model, memory))
    )
    positions = _all_positions(model, memory.length + segment_length, clamp)
    return Cache(keys, values, positions, tf.constant(0), memory.valid, clamp)


def lengthened(model, cache: Cache, memory_length: int):
    """The same with a longer memory, of which no more is valid, for single tokens.

    Args:
      memory_length: M, at least as long as the cache's.
    """
    num_slots = cache.length + 1
    in_order = (cache.oldest + tf.range(num_slots)) % num_slots
    more = [[0, 0], [0, 0], [memory_length - cache.length, 0], [0, 0]]
    keys, values = (
        tuple(tf.pad(tf.gather(ring, in_order, axis=2), more) for ring in rings)
        for rings in (cache.keys, cache.values)
    )
    positions = cache.positions
    if positions[0].shape[2] <= memory_length:
        positions = _all_positions(model, memory_length + 1, cache.clamp_length)
    return Cache(keys, values, positions, tf.constant(0), cache.valid, cache.clamp_length)


def _checked_clamp(model, memory_length, clamp_length):
    clamp_length = known(model.config.clamp_length if clamp_length is None else clamp_length)
    check_lengths(memory_length, clamp_length, False)
    return tf.constant(min(int(clamp_length), _FARTHEST) if clamp_length > 0 else _FARTHEST)


def _check_layers(model):
    """Refuses layers with a `call` of their own, which reading from a cache would leave out."""
    for block in model.blocks:
        if not isinstance(block, DecoderBlock):
            raise ValueError(
                "Blocks must be DecoderBlocks to be read with a Cache. Received: "
                f"{block.name}, of class {type(block).__name__}. Read with a Memory, by calls of "
                "the model."
            )
        for layer, kind in ((block, DecoderBlock), (block.inner, RelativeAttention)):
            own = type(layer).call is not kind.call or "call" in vars(layer)
            if isinstance(layer, kind) and own:
                raise ValueError(
                    f"A Cache is read by what {kind.__name__} does, not by a `call` of another. "
                    f"Received: {type(layer).__name__} in {block.name}, whose `call` is its own. "
                    "Read with a Memory, by calls of the model."
                )


def _projected_memory(model, memory):
    """Of each attention layer the pair of keys and values, `[B, H, M, K]`."""
    for block, hidden in zip(_attending(model), memory.hidden):
        inputs = block.norm(hidden) if block.layer_norm == "pre" else hidden
        yield keys_and_values(block.inner, inputs)


def _all_positions(model, length, clamp):
    """Of each attention layer `[H, K, P]`, for P distances."""
    sines = sinusoids(model, length, clamp)
    return tuple(projected_positions(block.inner, sines) for block in _attending(model))


def _attending(model):
    return [block for block in model.blocks if block.attends]
