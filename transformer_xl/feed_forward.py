"""FeedForward: two dense layers, applied to each position.

B batch, L segment length, D width, F feed-forward width, T rows.
"""

import keras
import tensorflow as tf

from adaptive.few_rows import on_all_cores
from adaptive.weights import fresh
from transformer_xl.dropout import relu_dropout
from transformer_xl.shapes import shape_of
from transformer_xl.substitutes import in_place_of, tensors_of
from transformer_xl.waiting import seed_after


def add_bias(rows, bias):
    """`tf.nn.bias_add`, whose gradient in 16 bits is as exact as 16 bits are.

    TensorFlow's own adds up hundreds of rows in bfloat16 on CPUs, which is wrong by up to 4 percent
    of the largest; the sum here is made in float32, and rounded once.

    Args:
      rows: `[T, N]`.
      bias: `[N]`, cast to the dtype of the rows.
    """

    @tf.custom_gradient
    def added(rows, bias):
        def gradient(slopes):
            # Linear, so that it can be differentiated like any other.
            wide = tf.cast(slopes, tf.float32) if slopes.dtype.size == 2 else slopes
            return slopes, tf.cast(tf.reduce_sum(wide, 0), slopes.dtype)

        return tf.nn.bias_add(rows, bias), gradient

    return added(rows, tf.cast(bias, rows.dtype))


def product_with(rows, kernel, normalised=None):
    """`rows @ kernel`; with `normalised` the rows are not kept for the gradient.

    Args:
      rows: `[T, N]`.
      kernel: `[N, M]` of the same dtype.
      normalised: a function that gives `Normalised`, `[..., N]`, of which the rows were made.
    """
    if normalised is None:
        return tf.matmul(rows, kernel)

    @tf.custom_gradient
    def multiplied(rows, kernel):
        def gradient(slopes):
            again = normalised().outputs_after(slopes, rows.dtype)
            again = tf.reshape(again, [-1, again.shape[-1]])
            to_rows = tf.matmul(slopes, kernel, transpose_b=True)
            return to_rows, tf.matmul(again, slopes, transpose_a=True)

        return tf.matmul(rows, kernel), gradient

    return multiplied(rows, kernel)


@keras.saving.register_keras_serializable(package="transformer_xl")
class FeedForward(keras.layers.Layer):
    """Two dense layers with ReLU between, Vaswani et al. (2017), section 3.3.

    Args:
      width: D.
      feed_forward_dim: F.
      dropout: rate after the activation.
      site: a number of its own for dropout.
      initializer: of the kernels; biases start at zero.
      keep_inner: False to compute the inner layer a second time in the backward pass.

    Call arguments:
      hidden: `[B, L, D]`.
      seed: int32 `[2]`, this step's, for dropout; None for no dropout.
      turned: a pair of `turned_kernels`, where there are few rows; None for the layer's kernels.
      site: another than the layer's own, or its counter.
      normalised: a function that gives the `Normalised` of `hidden`, so that the backward pass
        makes it again and does not keep it; None to keep it. Without second derivatives.

    Returns:
      `[B, L, D]` in the compute dtype.
    """

    def __init__(
        self,
        width,
        feed_forward_dim,
        dropout=0.0,
        site=0,
        initializer="glorot_uniform",
        keep_inner=True,
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.width = width
        self.feed_forward_dim = feed_forward_dim
        self.dropout = dropout
        self.site = site
        self.initializer = keras.initializers.get(initializer)
        self.keep_inner = keep_inner

    def build(self, input_shape=None):
        del input_shape  # the weights do not depend on it
        wide, narrow = self.feed_forward_dim, self.width

        def kernel(name, rows, columns):
            initializer = fresh(self.initializer)
            return self.add_weight(shape=(rows, columns), initializer=initializer, name=name)

        self.inner_kernel = kernel("inner_kernel", narrow, wide)
        self.inner_bias = self.add_weight(shape=(wide,), initializer="zeros", name="inner_bias")
        self.outer_kernel = kernel("outer_kernel", wide, narrow)
        self.outer_bias = self.add_weight(shape=(narrow,), initializer="zeros", name="outer_bias")

    def call(self, hidden, seed=None, turned=None, site=None, normalised=None):
        site = self.site if site is None else site
        if self.keep_inner or turned is not None:
            return self._both_layers(hidden, seed, site, turned, normalised)

        def both_layers(hidden, *weights):
            with in_place_of(self, weights):
                return self._both_layers(hidden, seed_after(hidden, seed), site)

        # The outer layer's result takes part in no gradient, so that it is not computed again.
        return tf.recompute_grad(both_layers)(hidden, *tensors_of(self))

    def _both_layers(self, hidden, seed, site, turned=None, normalised=None):
        first, second = turned or ((), ())
        # Rows of a matrix, which TensorFlow makes one kernel of, with bias and ReLU.
        rows = tf.reshape(hidden, [-1, self.width])
        if first:
            inner = first(rows)
        else:
            # Cast here too, as Keras does not where the backward pass computes this again.
            kernel = tf.cast(self.inner_kernel, rows.dtype)
            inner = on_all_cores(product_with(rows, kernel, normalised), rows.shape[0])
            inner = add_bias(inner, self.inner_bias)
        inner, scale = relu_dropout(inner, self.dropout, seed, site)
        if second:
            return tf.reshape(second(inner), shape_of(hidden))
        kernel = tf.cast(self.outer_kernel, rows.dtype)
        outer = on_all_cores(tf.matmul(inner, kernel), rows.shape[0])
        if scale is not None:
            outer *= scale
        outer = add_bias(outer, self.outer_bias)
        return tf.reshape(outer, shape_of(hidden))

    def get_config(self):
        return {
            **super().get_config(),
            "width": self.width,
            "feed_forward_dim": self.feed_forward_dim,
            "dropout": self.dropout,
            "site": self.site,
            "initializer": keras.initializers.serialize(self.initializer),
            "keep_inner": self.keep_inner,
        }
