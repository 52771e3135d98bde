"""Stateless dropout: the same seed draws the same mask, inside XLA and outside, after a resume."""

import tensorflow as tf

from transformer_xl.shapes import shape_of

_PHILOX = 1  # as TensorFlow numbers generators


def counter(site: int):
    """Where the random numbers of a site begin, uint64 `[2]`: what may be given as a site."""
    return tf.constant([0, site], tf.uint64)


def dropout(inputs, rate: float, seed, site):
    """Sets values to zero with probability `rate`, and scales the rest to keep the mean.

    16 random bits decide about each value, so the rate is met to 1/65536; half the random numbers
    of the usual 32 bits, which are a large part of a training step's time on a CPU.

    Args:
      inputs: float tensor.
      rate: from 0 up to but not including 1.
      seed: int32 `[2]`, this step's; None for no dropout.
      site: a number of its own for each place that drops, mixed into the seed; an int, or its
        `counter`.

    Returns:
      A tensor like `inputs`.
    """
    if _drops(rate, seed):
        kept = _kept(shape_of(inputs), rate, seed, site)
        return tf.where(kept, inputs * _scale(rate, inputs.dtype), tf.zeros((), inputs.dtype))
    return inputs


def relu_dropout(inputs, rate: float, seed, site):
    """ReLU, then dropout, without the scale that keeps the mean.

    What is left above zero is what the gradient flows through, so that nothing but the result is
    kept for the backward pass, and one operation is made of three there. The scale may as well be
    put on what a linear layer makes of the values, which is smaller.

    Args:
      inputs: float tensor.
      rate, seed, site: as in `dropout`.

    Returns:
      The pair (a tensor like `inputs`, the scale it lacks: a scalar, or None for no dropout).
    """
    if not _drops(rate, seed):
        return tf.nn.relu(inputs), None
    kept = _kept(shape_of(inputs), rate, seed, site)

    @tf.custom_gradient
    def masked(inputs):
        values = tf.where(kept, tf.nn.relu(inputs), tf.zeros((), inputs.dtype))

        def gradient(upstream):
            return tf.raw_ops.ReluGrad(gradients=upstream, features=values)

        return values, gradient

    return masked(inputs), _scale(rate, inputs.dtype)


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


def _drops(rate, seed):
    return seed is not None and _dropped(rate) > 0


def _dropped(rate):
    """Of 65536 equally likely numbers, how many drop a value."""
    return round(rate * 65536)


def _scale(rate, dtype):
    return tf.constant(65536 / (65536 - _dropped(rate)), dtype)


def _kept(shape, rate, seed, site):
    return _random_bits(shape, seed, site) >= _dropped(rate)


def _random_bits(shape, seed, site):
    """uint16 values, two from each 32-bit random number."""
    size = 1
    for length in shape:
        size *= length
    # The generator by itself: Philox (Salmon et al., 2011), whose key is the seed and whose counter
    # begins at the site. `tf.random` mixes seeds first, in some 60 operations for each site, a
    # quarter of a training step's graph; and it would choose a generator by device, for XLA on CPUs
    # one that is 50 times slower.
    words = tf.raw_ops.StatelessRandomUniformFullIntV2(
        shape=[(size + 1) // 2],
        key=tf.reshape(tf.bitcast(seed, tf.uint64), [1]),
        counter=site if tf.is_tensor(site) else counter(site),
        alg=_PHILOX,
        dtype=tf.int32,
    )
    halves = tf.reshape(tf.bitcast(words, tf.uint16), [-1])
    whole = isinstance(size, int) and size % 2 == 0
    return tf.reshape(halves if whole else halves[:size], shape)
