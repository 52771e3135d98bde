"""What has to wait for a tensor, so that the backward pass does not begin in the forward pass.

TensorFlow computes what it can as soon as it can: the part of a backward pass that is not made of
any gradient is computed before the first gradient is there, and takes memory from then on.
"""

import tensorflow as tf


def zero_after(tensor, dtype=None):
    """A zero that is there as soon as the tensor is; what it is added to waits for the tensor.

    A number and not a control dependency, which XLA does not know.

    Args:
      tensor: float; its numbers do not matter, be they infinite or none.
      dtype: of the zero; None for the tensor's.

    Returns:
      A scalar.
    """
    flag = tf.reduce_any(tf.cast(tf.reshape(tensor, [-1])[:1], tf.bool))
    # That a flag equals itself is more than graph optimisers and XLA see.
    return tf.cast(tf.where(tf.equal(flag, flag), 0.0, 1.0), dtype or tensor.dtype)


def seed_after(tensor, seed):
    """The seed, int32 `[2]` or None, of masks that are drawn when the tensor is there."""
    # Not a sum: TensorFlow adds int32 on the host, which would wait for a GPU.
    return None if seed is None else tf.bitwise.bitwise_xor(seed, zero_after(tensor, seed.dtype))
