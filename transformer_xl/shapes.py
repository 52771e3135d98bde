"""Shapes that are static wherever they can be, since XLA and the layers after need them."""

import keras
import numpy as np
import tensorflow as tf

from transformer_xl.config_rules import is_whole


def shape_of(tensor) -> list:
    """The shape as a list of ints, with a scalar tensor where a size is known at run time only."""
    if tensor.shape.is_fully_defined():
        return tensor.shape.as_list()
    dynamic = tf.shape(tensor)
    return [dynamic[i] if size is None else size for i, size in enumerate(tensor.shape)]


def checked_tokens(tokens):
    """Tokens as a tensor, and their shape.

    Returns:
      The triple (tokens; B and L, ints or, where known at run time only, scalar tensors).

    Raises:
      ValueError: if they are not of the shape `[B, L]`.
    """
    if isinstance(tokens, (np.ndarray, list, tuple, keras.Variable)):
        tokens = tf.convert_to_tensor(tokens)
    shape = getattr(tokens, "shape", None)
    dense = isinstance(tokens, (tf.Tensor, tf.Variable))
    if not dense or shape.rank != 2:
        of_shape = "" if shape is None else f" of shape {shape}"
        raise ValueError(
            "Tokens must be a tensor of the shape [B, L]. Received: "
            f"{type(tokens).__name__}{of_shape}. Give one text as tokens[None], pad rows of "
            "different lengths, and where a graph does not know the axes, say so with "
            "tf.ensure_shape(tokens, [None, None])."
        )
    return tokens, *shape_of(tokens)


def checked_row_lengths(lengths, batch_size, num_tokens):
    """How many of each row's tokens are its own.

    Args:
      lengths: what is given as them.
      batch_size, num_tokens: B and L, of `checked_tokens`.

    Returns:
      int32 `[B]`.

    Raises:
      ValueError: if they are no integers of that shape or, where their values are known without
        waiting for a graph, not from 0 to L.
    """
    lengths = tf.convert_to_tensor(lengths)
    rows = tf.TensorShape([batch_size if isinstance(batch_size, int) else None])
    if not lengths.dtype.is_integer or not rows.is_compatible_with(lengths.shape):
        raise ValueError(
            "Lengths must be integers of the shape [B], one for each row of the tokens. Received: "
            f"{lengths.dtype.name} of shape {lengths.shape} for {batch_size} rows."
        )
    values = tf.get_static_value(lengths)
    most = num_tokens if isinstance(num_tokens, int) else np.inf
    if values is not None and values.size and not 0 <= values.min() <= values.max() <= most:
        raise ValueError(
            "Lengths must be from 0 to L, how many of each row's last tokens are its own. "
            f"Received: lengths from {values.min()} to {values.max()} for L={num_tokens}. Pad rows "
            "at their beginning, and count what is not padding."
        )
    return tf.cast(lengths, tf.int32)


def checked_ids(ids, what: str) -> np.ndarray:
    """Ids of a text as an array `[T]` of the integers they are; T may be 0.

    Raises:
      ValueError: if they are no integers, or of another shape.
    """
    ids = np.asarray(ids)
    if ids.ndim != 1 or (ids.size and not np.issubdtype(ids.dtype, np.integer)):
        raise ValueError(
            f"{what} must be integer ids of the shape [T]. Received: dtype {ids.dtype}, shape "
            f"{ids.shape}."
        )
    return ids.astype(np.int64)


def checked_segment_length(segment_length) -> int:
    """How many tokens are read at a time.

    Raises:
      ValueError: if it is no integer, or below 1.
    """
    segment_length = known(segment_length)
    if not is_whole(segment_length) or segment_length < 1:
        raise ValueError(
            f"segment_length must be an integer of at least 1. Received: {segment_length!r}."
        )
    return int(segment_length)


def known(value):
    """A number as it was before NumPy, TensorFlow or, in calls, Keras made an array of it.

    Returns:
      A number of Python, if `value` is one number that is known; else `value`.
    """
    static = value
    if tf.is_tensor(value):
        eager = isinstance(value, tf.Variable) and tf.executing_eagerly()
        static = value.numpy() if eager else tf.get_static_value(value)
    one = isinstance(static, (np.generic, np.ndarray)) and static.ndim == 0
    return static.item() if one else value
