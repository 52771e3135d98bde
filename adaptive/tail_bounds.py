"""Upper bounds of the log-probabilities inside a tail, without its softmax.

Of a tail with products `x = table @ input` and biases `b`, the largest log-probability is
`max(x + b) - logsumexp(x + b)`. The first is at most `max(x) + max(b)`; the second, with the
weights `q = softmax(b)`, at least `logsumexp(b) + sum(q * x)` by Jensen's inequality. So

    bound = max(x) + log(max(q)) - sum(q * x)

takes no exponential of a logit, and passes over the products but for their maximum and their mean.

T tokens, E width of the tail's table.
"""

from typing import NamedTuple

import tensorflow as tf

from .factored import Linear


class TailBounds(NamedTuple):
    """What bounds the words of a tail and depends on its weights alone."""

    longest: tf.Tensor  # float32 scalar, the longest row of the table, squared
    mean: tf.Tensor  # float32 [E, 1], the rows' mean, weighted with q
    log_weight: tf.Tensor  # float32 scalar, the logarithm of the largest weight


def bounds_of(linear: Linear) -> TailBounds:
    """A tail's `TailBounds`; takes a pass over its table."""
    table = tf.cast(tf.convert_to_tensor(linear.table), tf.float32)
    weights = _weights(linear)
    return TailBounds(
        tf.reduce_max(tf.reduce_sum(tf.square(table), -1)),
        tf.matmul(table, weights, transpose_a=True),
        tf.math.log(tf.reduce_max(weights)),
    )


def bound_by_norm(inputs, linear: Linear, of_weights: TailBounds | None):
    """The bound with the longest row of the table times the input's length in place of `max(x)`.

    No product with the table at all, and less close.

    Args:
      inputs: `[T, E]`.
      linear: the tail's weights.
      of_weights: its `TailBounds`, where they are known.

    Returns:
      float32 `[T]`.
    """
    of_weights, inputs_f32 = of_weights or bounds_of(linear), tf.cast(inputs, tf.float32)
    largest = tf.sqrt(of_weights.longest * tf.reduce_sum(tf.square(inputs_f32), -1))
    middle = tf.matmul(inputs_f32, of_weights.mean)[:, 0]
    return _with_room(largest + of_weights.log_weight - middle, largest, inputs.dtype)


def bound_by_products(inputs, linear: Linear, of_weights: TailBounds | None):
    """The bound; arguments and result as `bound_by_norm`."""
    table = tf.cast(linear.table, inputs.dtype)
    # A product of few tokens with a large table is faster this way round, table first.
    products = tf.matmul(table, inputs, transpose_b=True)
    largest = tf.cast(tf.reduce_max(products, 0), tf.float32)
    if of_weights is None and products.dtype == tf.float32:
        # The mean of the products: they lie nearer than the table, and are fewer.
        weights = _weights(linear)
        log_weight = tf.math.log(tf.reduce_max(weights))
        middle = tf.matmul(weights, products, transpose_a=True)[0]
    else:
        of_weights = of_weights or bounds_of(linear)
        log_weight = of_weights.log_weight
        middle = tf.matmul(tf.cast(inputs, tf.float32), of_weights.mean)[:, 0]
    return _with_room(largest + log_weight - middle, largest, inputs.dtype)


def _weights(linear: Linear):
    """q, float32 `[size, 1]`."""
    bias = tf.zeros(linear.table.shape[:1]) if linear.bias is None else linear.bias
    # The logarithm of the largest of them is `max(bias) - logsumexp(bias)`.
    return tf.nn.softmax(tf.cast(bias, tf.float32))[:, None]


def _with_room(bound, largest, dtype):
    """The bound with room for rounding, also of the logits, which are computed again later."""
    bound += 0.01 + (1e-4 if dtype == tf.float32 else 0.02) * tf.abs(largest)
    # Infinite weights make this NaN, which bounds nothing.
    return tf.where(bound < 0, bound, 0.0)
