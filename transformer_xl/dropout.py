"""Stateless dropout: the same seed draws the same mask, inside XLA and outside, after a resume."""

import tensorflow as tf

from transformer_xl.shapes import shape_of


def dropout(inputs, rate: float, seed, site: int):
    """Sets values to zero with probability `rate`, and scales the rest to keep the mean.

    16 random bits decide about each value, so the rate is met to 1/65536; half the random numbers
    of the usual 32 bits, which are a large part of a training step's time on a CPU.

    Args:
      inputs: float tensor.
      rate: from 0 up to but not including 1.
      seed: int32 `[2]`, this step's; None for no dropout.
      site: a number of its own for each place that drops, mixed into the seed.

    Returns:
      A tensor like `inputs`.
    """
    dropped = round(rate * 65536)
    if seed is None or dropped == 0:
        return inputs
    seed = tf.random.experimental.stateless_fold_in(seed, site)
    bits = _random_bits(shape_of(inputs), seed)
    scale = tf.constant(65536 / (65536 - dropped), inputs.dtype)
    return tf.where(bits >= dropped, inputs * scale, tf.zeros((), inputs.dtype))


def step_seed(generator):
    """This step's seed, int32 `[2]`; another one on each replica of a distribution strategy.

    Args:
      generator: a `keras.random.SeedGenerator`, which is advanced.
    """
    seed = tf.bitcast(tf.cast(generator.next(), tf.uint32), tf.int32)
    context = tf.distribute.get_replica_context()
    if context is not None and context.num_replicas_in_sync > 1:
        seed = tf.random.experimental.stateless_fold_in(seed, context.replica_id_in_sync_group)
    return seed


def _random_bits(shape, seed):
    """uint16 values, two from each 32-bit random number."""
    size = 1
    for length in shape:
        size *= length
    # Philox by name: TensorFlow's own choice differs between XLA and not, and the one it makes
    # for XLA's CPU code is 50 times slower.
    words = tf.random.stateless_uniform([(size + 1) // 2], seed, None, None, tf.int32, alg="philox")
    halves = tf.reshape(tf.bitcast(words, tf.uint16), [-1])
    return tf.reshape(halves[:size], shape)
