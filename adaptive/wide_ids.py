"""Ids of any dtype, in one that also holds what they are compared with."""

import tensorflow as tf


def widened(ids, also: int | None = None):
    """Ids as they can be compared with the size of the vocabulary.

    Beside a tensor a number of Python takes the tensor's dtype, and wraps where that is narrow:
    with uint8, 256 would be 0 and -100 would be 156.

    Args:
      ids: a tensor of integers, or of floats or bools, as which Keras may hand ids on.
      also: another integer that they are to be compared with.

    Returns:
      int32 or int64, floats as float32 or float64, of the shape of `ids`.
    """
    if ids.dtype.is_floating:
        return tf.cast(ids, tf.float32) if ids.dtype.size < 4 else ids
    fits = also is None or tf.int32.min <= also <= tf.int32.max
    if fits and (ids.dtype.size < 4 or ids.dtype == tf.int32):
        return tf.cast(ids, tf.int32)
    wide = tf.cast(ids, tf.int64)
    if ids.dtype == tf.uint64:
        # The largest wrap in the cast, and are no ids anyway.
        wide = tf.where(wide < 0, tf.int64.max, wide)
    return wide
