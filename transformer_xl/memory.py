"""What is remembered of earlier segments, and which of it may be seen.

B batch, L segment (query) length, M memory length, S = M + L key length, D width, N attention
layers.
"""

from typing import NamedTuple

import tensorflow as tf

from transformer_xl.config_rules import check_lengths
from transformer_xl.shapes import known, shape_of


class Memory(NamedTuple):
    """The inputs of each attention layer at the last M positions, and how many of them are real.

    Attributes:
      hidden: a tuple of N tensors `[B, M, D]` in the compute dtype, oldest position first.
      valid: int32 `[B]`; the newest `valid[b]` positions of row `b` are real, the others are
        not attended.
    """

    hidden: tuple[tf.Tensor, ...]
    valid: tf.Tensor

    @property
    def length(self) -> int:
        """M."""
        return self.hidden[0].shape[1]

    def check(self, num_layers: int, width: int, batch_size=None):
        """Raises a `ValueError` if it is not of N layers of width D, or of another batch.

        Args:
          num_layers: N.
          width: D.
          batch_size: B; not compared where it is no int, as where it is known at run time only.
        """
        shapes = [layer.shape for layer in self.hidden]
        received = (len(shapes), shapes[0][-1] if shapes and shapes[0].rank else None)
        if received != (num_layers, width):
            raise ValueError(
                f"Memory must hold {num_layers} layers of width {width}. "
                f"Received: {received[0]} layers of width {received[1]}."
            )
        rows = shapes[0][0]
        expected = tf.TensorShape([rows, shapes[0][1] if shapes[0].rank > 1 else None, width])
        if expected[1] is None or not all(expected.is_compatible_with(shape) for shape in shapes):
            raise ValueError(
                "Memory must hold hidden states [B, M, D], with one M for all layers that is known "
                f"also where a graph is built. Received: shapes {', '.join(map(str, shapes))}. In "
                "an input_signature, M is a number."
            )
        if not tf.TensorShape([rows]).is_compatible_with(self.valid.shape):
            raise ValueError(
                "Memory must say of each row how many of its positions are valid. Received: valid "
                f"of shape {self.valid.shape} for {rows} rows."
            )
        if isinstance(batch_size, int) and rows not in (None, batch_size):
            raise ValueError(
                "Memory must have a row for each row of the tokens. Received: memory of "
                f"{rows} rows for {batch_size} rows of tokens. Make it with "
                f"initial_memory(batch_size={batch_size})."
            )

    def reset(self, rows):
        """Forgets some rows, at a document's end say, and leaves the others as they are.

        Args:
          rows: bool `[B]`, True where memory becomes empty.

        Returns:
          A `Memory`.
        """
        rows = rows_to_reset(rows, self.valid)
        hidden = tuple(
            tf.where(rows[:, None, None], tf.zeros((), layer.dtype), layer) for layer in self.hidden
        )
        return Memory(hidden, tf.where(rows, 0, self.valid))

    def update(self, inputs):
        """Adds a segment's positions and keeps the newest M; no gradient flows into the result.

        Args:
          inputs: the N tensors `[B, L, D]` that went into the attention layers.

        Returns:
          A `Memory` of the same length.
        """
        memory_length = self.length
        hidden = tuple(
            tf.stop_gradient(_newest(old, new, memory_length))
            for old, new in zip(self.hidden, inputs)
        )
        segment_length = shape_of(inputs[0])[1]
        return Memory(hidden, tf.minimum(self.valid + segment_length, memory_length))


def as_memory(memory) -> Memory:
    """A `Memory` of what is given as one: itself, or the pair of its parts, of any integers.

    Raises:
      ValueError: if it is none.
    """
    if not isinstance(memory, (tuple, list)) or len(memory) != len(Memory._fields):
        raise ValueError(
            "Memory must be a Memory, or the pair of its hidden and valid. Received: "
            f"{type(memory).__name__}. A Cache is read by `extend` and, in evaluation, by `nll`; "
            "`initial_memory` begins a Memory."
        )
    hidden, valid = memory
    valid = tf.convert_to_tensor(valid)
    if not valid.dtype.is_integer:
        raise ValueError(
            "Memory's valid must be integers, how many of a row's positions are real. Received: "
            f"dtype {valid.dtype.name}."
        )
    return Memory(hidden, tf.cast(valid, tf.int32))


def rows_to_reset(rows, valid):
    """The rows to reset as a bool tensor `[B]`.

    Raises:
      ValueError: if they are others than there are, which a single one would stand for.
    """
    rows = tf.convert_to_tensor(rows)
    if rows.dtype != tf.bool or not rows.shape.is_compatible_with(valid.shape):
        raise ValueError(
            "The rows to reset must be bool [B], one for each row. Received: "
            f"{rows.dtype.name} of shape {rows.shape} for {valid.shape[0]} rows."
        )
    return rows


def initial(num_layers: int, batch_size, memory_length: int, width: int, dtype, start: str):
    """The memory before the first segment.

    Args:
      num_layers: N.
      batch_size: B.
      memory_length: M; may be 0.
      width: D.
      dtype: of the hidden states.
      start: "empty", nothing is attended; or "zeros", M positions of zeros are, as in the
        original TensorFlow code.

    Returns:
      A `Memory`.

    Raises:
      ValueError: for a length below 0, or one that is no integer.
    """
    memory_length = known(memory_length)
    check_lengths(memory_length, -1, False)
    zeros = tf.zeros([batch_size, memory_length, width], dtype)
    valid = tf.fill([batch_size], memory_length if start == "zeros" else 0)
    return Memory((zeros,) * num_layers, valid)


def visibility(
    valid, memory_length: int, num_tokens, same_length: bool, segment_length: int | None = None
):
    """Which keys each query may see.

    Query `i` is at position `M + i`. It sees the keys up to its own, of memory only the real
    ones and, with `same_length`, only the nearest M, itself among them.

    Several segments that follow one another may be read as one. Then a query sees, as it would in
    its own segment's turn, the M positions before its segment and none before these.

    Args:
      valid: int32 `[B]`, real positions of each row's memory.
      memory_length: M.
      num_tokens: L.
      same_length: whether every query sees equally many keys.
      segment_length: of the segments that the L tokens are; None where they are one.

    Returns:
      bool `[B, 1, L, S]`.

    Raises:
      ValueError: for a length below 1, or where L is known and they are not whole segments.
    """
    keys = tf.range(memory_length + num_tokens)
    queries = memory_length + tf.range(num_tokens)
    distance_LS = queries[:, None] - keys
    visible_LS = distance_LS >= 0
    if same_length:
        visible_LS &= distance_LS < memory_length
    if segment_length is not None:
        known = isinstance(num_tokens, int)
        if segment_length < 1 or (known and num_tokens % segment_length):
            raise ValueError(
                "segment_length must be at least 1, and divide the number of tokens. "
                f"Received: segment_length={segment_length} for {num_tokens} tokens."
            )
        places = tf.range(num_tokens)
        visible_LS &= keys >= (places - places % segment_length)[:, None]
    real_BS = keys >= memory_length - valid[:, None]
    return visible_LS & real_BS[:, None, None, :]


def _newest(old_BMD, new_BLD, memory_length: int):
    segment_length = new_BLD.shape[1]
    if segment_length is not None and segment_length >= memory_length:
        return new_BLD[:, segment_length - memory_length :]
    # The last M of M + L positions, with M static: without tf.shape where L is not known.
    joined = tf.concat([old_BMD, new_BLD], 1)
    newest = joined[:, shape_of(new_BLD)[1] :]
    return tf.ensure_shape(newest, [new_BLD.shape[0], memory_length, new_BLD.shape[2]])
