"""Cache: projected keys and values of what went before, so that nothing is projected twice.

B batch, L segment length, M memory length, S = M + L key length, R = M + 1 slots of a ring,
D width, H heads, K head size, N attention layers, P distances whose positions are kept.
"""

from typing import NamedTuple

import tensorflow as tf

from adaptive.few_rows import single_row_product
from transformer_xl import memory as memory_lib
from transformer_xl import positions as positions_lib
from transformer_xl.attention_core import attention_weights
from transformer_xl.config_rules import check_lengths
from transformer_xl.positions import relative_shift
from transformer_xl.shapes import checked_row_lengths, checked_tokens, shape_of


class Cache(NamedTuple):
    """Of each attention layer the keys and values of the last positions, in rings.

    A ring has one slot more than there are remembered positions: a single new token is written
    over the oldest and nothing else is moved. In a compiled loop that happens in place.

    Attributes:
      keys, values: tuples of N tensors `[B, H, R, K]` in the compute dtype.
      positions: a tuple of N tensors `[H, K, P]`, projections of the distances `P - 1 .. 0`.
      oldest: int32 scalar, the slot of the oldest position, which the next one is written over;
        the positions after it stand in the slots after it, the first slot following the last.
      valid: int32 `[B]`; of the newest M positions of row `b`, `valid[b]` are real.
      clamp_length: int32 scalar, the largest distance told apart.
    """

    keys: tuple[tf.Tensor, ...]
    values: tuple[tf.Tensor, ...]
    positions: tuple[tf.Tensor, ...]
    oldest: tf.Tensor
    valid: tf.Tensor
    clamp_length: tf.Tensor

    @property
    def length(self) -> int:
        """M."""
        return self.keys[0].shape[2] - 1

    def check(self, config, batch_size=None):
        """Raises a `ValueError` if it is of another model, or of another batch.

        Args:
          config: the `ModelConfig` of the model that reads it.
          batch_size: B; not compared where it is no int, as where it is known at run time only.
        """
        rows, heads, _, size = self.keys[0].shape
        expected = (config.num_layers, config.num_heads, config.head_dim)
        if (len(self.keys), heads, size) != expected:
            raise ValueError(
                "A cache must hold {} layers of {} heads of size {}. ".format(*expected)
                + f"Received: {len(self.keys)} layers of {heads} heads of size {size}. Make it "
                "with this model's initial_cache."
            )
        if isinstance(batch_size, int) and rows not in (None, batch_size):
            raise ValueError(
                "A cache must have a row for each row of the tokens. Received: a cache of "
                f"{rows} rows for {batch_size} rows of tokens. Make it with "
                f"initial_cache(batch_size={batch_size})."
            )

    def for_single_tokens(self):
        """The same without the positions that only longer segments need.

        Of one token after another each would cut them off for itself, which copies the others.
        """
        num_slots = self.keys[0].shape[2]
        if self.positions[0].shape[2] == num_slots:
            return self
        return self._replace(positions=tuple(one[:, :, -num_slots:] for one in self.positions))

    def reset(self, rows):
        """Forgets some rows and leaves the others as they are.

        Args:
          rows: bool `[B]`, True where nothing is remembered.

        Returns:
          A `Cache`.
        """
        rows = memory_lib.rows_to_reset(rows, self.valid)
        return self._replace(valid=tf.where(rows, 0, self.valid))


def extend(
    model,
    tokens,
    cache: Cache,
    same_length: bool | None = None,
    lengths=None,
    outside_xla: bool = False,
    turned_kernels=None,
    segment_length: int | None = None,
):
    """Reads a segment behind what is in the cache; see `TransformerXL.extend`.

    Args:
      turned_kernels: of `turned_kernels` or, of a batch of one, of `kernels_for_one_row`, for
        single tokens; None for the model's own.

    Raises:
      ValueError: if tokens are not `[B, L]`, for what is no cache, or one of another model or
        batch, for lengths that do not go together, and for `lengths` that the rows cannot have.
    """
    config = model.config
    same_length = config.same_length if same_length is None else same_length
    tokens, batch_size, num_tokens = checked_tokens(tokens)
    if not isinstance(cache, Cache):
        raise ValueError(
            f"What is extended must be a Cache. Received: {type(cache).__name__}. Begin with "
            "initial_cache; `transformer_xl.new_cache.cache_of` makes a Cache of a Memory."
        )
    cache.check(config, batch_size)
    memory_length = cache.length
    check_lengths(memory_length, -1, same_length)
    hidden = model.embedding(tokens)
    hidden *= tf.constant(config.model_dim**0.5, hidden.dtype)
    if segment_length is not None and lengths is not None:
        raise ValueError(
            "Rows of different lengths are read as one segment. Received: both lengths and "
            f"segment_length={segment_length}."
        )
    if lengths is not None:
        lengths = checked_row_lengths(lengths, batch_size, num_tokens)
        _check_unread(cache, lengths, num_tokens, config.memory_start)
    single = isinstance(num_tokens, int) and num_tokens == 1
    if single and lengths is None and segment_length in (None, 1):
        attend, cache = _read_one(cache, same_length, outside_xla)
    else:
        attend, cache = _read_segment(
            model, cache, num_tokens, same_length, lengths, segment_length
        )

    keys, values = [], []
    for block, turned in zip(model.blocks, turned_kernels or [None] * len(model.blocks)):
        first = block.layer_norm == "pre"
        inputs = block.norm(hidden) if first else hidden
        if block.attends:
            layer = len(keys)
            outputs, key, value = attend(block, inputs, hidden, layer, turned)
            keys.append(key)
            values.append(value)
        else:
            outputs = block.inner(inputs, turned=turned)
        outputs = hidden + outputs
        hidden = outputs if first else block.norm(outputs)
    if model.final_norm is not None:
        hidden = model.final_norm(hidden)
    return hidden, cache._replace(keys=tuple(keys), values=tuple(values))


def _check_unread(cache, lengths, num_tokens, memory_start):
    """Refuses padding behind what a row has read, where that can be known.

    It would stand between the row's own tokens. Where texts begin with zeros in memory, these count
    as read.
    """
    read, lengths = tf.get_static_value(cache.valid), tf.get_static_value(lengths)
    known = read is not None and lengths is not None and isinstance(num_tokens, int)
    if not known or memory_start == "zeros":
        return
    rows = ((read > 0) & (lengths < num_tokens)).nonzero()[0].tolist()
    if rows:
        raise ValueError(
            "Only rows that have read nothing yet may have fewer tokens than the segment. "
            f"Received: lengths {lengths[rows].tolist()} of L={num_tokens} for the rows {rows}, "
            "which remember tokens. Reset these in the cache, or read them on their own."
        )


def _read_one(cache, same_length, outside_xla):
    """How one token attends, written into the rings first; and the cache's counters after it."""
    memory_length = cache.length
    num_slots = memory_length + 1
    slots = tf.range(num_slots)
    # The new token stands in the slot that was the oldest's, and so is no distance from itself.
    distance_R = tf.math.floormod(cache.oldest - slots, num_slots)
    visible_BR = distance_R <= cache.valid[:, None]
    if same_length:
        visible_BR &= distance_R < memory_length
    visible = visible_BR[:, None, None, :]
    write = _write_slice if outside_xla else _write_rows

    def attend(block, inputs, hidden, layer, turned):
        del hidden
        attention = block.inner
        if turned is None:
            key, value = keys_and_values(attention, inputs)
            content_BH1K, position_BH1K = _queries(attention, inputs)
        else:
            together = turned[0](inputs[:, 0])[:, : 3 * attention.num_heads * attention.head_dim]
            thirds = tf.split(together, 3, axis=-1)
            query, key, value = (third[:, None] for third in thirds)
            key, value = attention.heads(key), attention.heads(value)
            content_BH1K, position_BH1K = attention.queries(query)
        # Before they are read: else the old rings would have to be kept beside the new ones.
        keys = write(cache.keys[layer], key, cache.oldest)
        values = write(cache.values[layer], value, cache.oldest)
        by_content = tf.matmul(content_BH1K, keys, transpose_b=True)
        positions = cache.positions[layer][:, :, -num_slots:]
        # One product a head for all rows: every row's would read the positions again.
        query_HBK = tf.transpose(position_BH1K[:, :, 0], [1, 0, 2])
        by_distance = tf.transpose(tf.matmul(query_HBK, positions), [1, 0, 2])
        by_distance = tf.gather(by_distance, memory_length - distance_R, axis=-1)
        scores = by_content + by_distance[:, :, None, :]
        return _mixed(attention, scores, visible, values, turned), keys, values

    return attend, cache._replace(
        oldest=(cache.oldest + 1) % num_slots, valid=tf.minimum(cache.valid + 1, memory_length)
    )


def _read_segment(model, cache, num_tokens, same_length, lengths, segment_length):
    """How a segment attends, in the order of positions; and the cache's counters after it."""
    memory_length = cache.length
    num_slots = memory_length + 1
    length_S = memory_length + num_tokens
    in_order = (cache.oldest + 1 + tf.range(memory_length)) % num_slots
    padding = 0 if lengths is None else num_tokens - lengths
    visible = memory_lib.visibility(
        cache.valid - padding, memory_length, num_tokens, same_length, segment_length
    )
    kept = cache.positions[0].shape[2]
    known = isinstance(length_S, int) and length_S <= kept
    sines = None if known else sinusoids(model, length_S, cache.clamp_length)
    is_token = None
    if lengths is not None:
        is_token = (tf.range(num_tokens) >= padding[:, None])[:, :, None]

    def attend(block, inputs, hidden, layer, _turned):
        attention = block.inner
        remembered = inputs
        if is_token is not None:
            # What a memory that starts with zeros holds.
            remembered = tf.where(is_token, hidden, tf.zeros((), hidden.dtype))
            remembered = block.norm(remembered) if block.layer_norm == "pre" else remembered
        new = keys_and_values(attention, remembered)
        old = (cache.keys[layer], cache.values[layer])
        keys, values = (
            tf.concat([tf.gather(ring, in_order, axis=2), added], 2)
            for ring, added in zip(old, new)
        )
        if known:
            positions = cache.positions[layer][:, :, kept - length_S :]
        else:
            positions = projected_positions(attention, sines)
        content_BHLK, position_BHLK = _queries(attention, inputs)
        if attention.num_heads == 1:
            # A product broadcast from [1, K, S] corrupts memory on CPUs (tensorflow#117700).
            positions = tf.tile(positions[None], [shape_of(inputs)[0], 1, 1, 1])
        by_distance = tf.matmul(position_BHLK, positions)
        scores = tf.matmul(content_BHLK, keys, transpose_b=True) + relative_shift(by_distance)
        outputs = _mixed(attention, scores, visible, values)
        return outputs, _last(keys, num_slots), _last(values, num_slots)

    read = num_tokens if lengths is None else lengths
    valid = tf.minimum(cache.valid + read, memory_length)
    return attend, cache._replace(oldest=tf.constant(0), valid=valid)


def _write_rows(ring_BHRK, new_BH1K, slot):
    """In place inside XLA; outside it a copy."""
    batch, heads, _, _ = shape_of(ring_BHRK)
    places = tf.meshgrid(tf.range(batch), tf.range(heads), slot, indexing="ij")
    return tf.tensor_scatter_nd_update(ring_BHRK, tf.stack(places, -1), new_BH1K)


def _write_slice(ring_BHRK, new_BH1K, slot):
    """In place outside XLA, which does not compile it, in the body of a loop."""
    batch, heads, _, size = shape_of(ring_BHRK)
    return tf.raw_ops.TensorStridedSliceUpdate(
        input=ring_BHRK,
        begin=tf.stack([0, 0, slot, 0]),
        end=tf.stack([batch, heads, slot + 1, size]),
        strides=[1, 1, 1, 1],
        value=new_BH1K,
    )


def _last(ring_BHSK, num_slots):
    _, heads, length, size = shape_of(ring_BHSK)
    if not isinstance(length, int) or length < num_slots:
        # Without new tokens there are only the M old ones: the slot that is written next is added.
        ring_BHSK = tf.pad(ring_BHSK, [[0, 0], [0, 0], [1, 0], [0, 0]])
        length += 1
    return tf.ensure_shape(
        ring_BHSK[:, :, length - num_slots :],
        [ring_BHSK.shape[0], heads, num_slots, size],
    )


def sinusoids(model, length, clamp):
    """Of the distances `length - 1 .. 0`, `[length, D]` in the compute dtype."""
    distances = tf.minimum(tf.range(length - 1, -1, -1), clamp)
    sines = positions_lib.sinusoids(tf.cast(distances, tf.float32), model.config.model_dim)
    return tf.cast(sines, model.compute_dtype)


def projected_positions(attention, sines_SD):
    """`[H, K, S]`, an order in which products with few queries are twice as fast on CPUs."""
    kernel = _cast(attention, attention.position_kernel)
    projected = tf.matmul(kernel, sines_SD, transpose_a=True, transpose_b=True)
    return tf.reshape(projected, [attention.num_heads, attention.head_dim, shape_of(sines_SD)[0]])


def keys_and_values(attention, inputs_BLD):
    """The pair, `[B, H, L, K]` each."""
    kernel = _cast(attention, attention.key_value_kernel)
    return attention.keys_and_values(_product(inputs_BLD, kernel))


def _queries(attention, inputs_BLD):
    """The queries towards content and towards distance, scaled, `[B, H, L, K]` each."""
    kernel = _cast(attention, attention.query_kernel)
    return attention.queries(_product(inputs_BLD, kernel))


def _mixed(attention, scores_BHLS, visible, values_BHSK, turned=None):
    """The values, mixed by the softmax of the scores, and projected: `[B, L, D]`."""
    weights_BHLS = attention_weights(scores_BHLS, visible)
    context_BLHK = tf.transpose(tf.matmul(weights_BHLS, values_BHSK), [0, 2, 1, 3])
    _, length, heads, size = shape_of(context_BLHK)
    context_BLI = tf.reshape(context_BLHK, [-1, length, heads * size])
    if turned is not None and turned[1]:
        return turned[1](context_BLI[:, 0])[:, None]
    return _product(context_BLI, _cast(attention, attention.output_kernel))


def _product(inputs_BLE, kernel):
    if inputs_BLE.shape[:2] == (1, 1):
        return single_row_product(inputs_BLE[0], kernel)[None]
    return tf.tensordot(inputs_BLE, kernel, 1)


def _cast(attention, variable):
    return tf.cast(variable, attention.compute_dtype)
