"""RelativeAttention: attention by content and by distance, over memory and segment.

B batch, L segment (query) length, M memory length, S = M + L key length, D width, H heads,
K head size.
"""

import keras
import tensorflow as tf

from adaptive.weights import fresh
from transformer_xl.attention_core import Sources, attend, same
from transformer_xl.dropout import dropout
from transformer_xl.shapes import shape_of
from transformer_xl.waiting import seed_after


@keras.saving.register_keras_serializable(package="transformer_xl")
class PositionBiases(keras.layers.Layer):
    """The vectors `u` and `v` of Dai et al. (2019), equation 5; one pair a layer, or one for all.

    They stand for the query where it should not matter: `u` towards the keys' content, `v`
    towards their distance.

    Args:
      num_heads: H.
      head_dim: K.
      initializer: of both.
    """

    def __init__(self, num_heads, head_dim, initializer="zeros", **kwargs):
        super().__init__(**kwargs)
        self.num_heads = num_heads
        self.head_dim = head_dim
        self.initializer = keras.initializers.get(initializer)

    def build(self, input_shape=None):
        del input_shape  # the weights do not depend on it
        shape = (self.num_heads, self.head_dim)

        def weight(name):
            return self.add_weight(shape=shape, initializer=fresh(self.initializer), name=name)

        self.content = weight("content")
        self.position = weight("position")

    def vectors(self):
        """The pair (content bias, position bias), each `[H, 1, K]` in the compute dtype."""
        biases = (self.content, self.position)
        shape = [self.num_heads, 1, self.head_dim]
        return tuple(tf.reshape(tf.cast(bias, self.compute_dtype), shape) for bias in biases)

    def get_config(self):
        return {
            **super().get_config(),
            "num_heads": self.num_heads,
            "head_dim": self.head_dim,
            "initializer": keras.initializers.serialize(self.initializer),
        }


@keras.saving.register_keras_serializable(package="transformer_xl")
class RelativeAttention(keras.layers.Layer):
    """Multi-head attention with relative positions, Dai et al. (2019), section 3.3.

    The score of query i and key j is the sum of four products: content with content, content with
    distance, and the same two with the biases `u` and `v` in the query's place.

    Args:
      width: D.
      num_heads: H.
      head_dim: K.
      biases: the `PositionBiases`; a layer's own, or one that all layers share.
      attention_dropout: rate for the attention weights.
      site: the first of two numbers of its own for dropout.
      initializer: of the kernels.
      keep_weights: False to make the attention weights a second time in the backward pass.

    Call arguments:
      hidden: `[B, L, D]`, the segment.
      memory: `[B, M, D]`, what went before.
      positions: `[S, D]`, the sinusoids of the distances `S - 1 .. 0`.
      visible: bool `[B, 1, L, S]`, which keys each query sees.
      seed: int32 `[2]`, this step's, for dropout; None for no dropout.
      site: another than the layer's own, or its counter.

    Returns:
      `[B, L, D]` in the compute dtype.
    """

    def __init__(
        self,
        width,
        num_heads,
        head_dim,
        biases,
        attention_dropout=0.0,
        site=0,
        initializer="glorot_uniform",
        keep_weights=True,
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.keep_weights = keep_weights
        self.width = width
        self.num_heads = num_heads
        self.head_dim = head_dim
        self.biases = biases
        self.attention_dropout = attention_dropout
        self.site = site
        self.initializer = keras.initializers.get(initializer)

    def build(self, input_shape=None):
        del input_shape  # the weights do not depend on it
        inner = self.num_heads * self.head_dim

        def kernel(name, rows, columns):
            initializer = fresh(self.initializer)
            return self.add_weight(shape=(rows, columns), initializer=initializer, name=name)

        self.query_kernel = kernel("query_kernel", self.width, inner)
        # Keys in the first half of the columns, values in the second: one product for both.
        self.key_value_kernel = kernel("key_value_kernel", self.width, 2 * inner)
        self.position_kernel = kernel("position_kernel", self.width, inner)
        self.output_kernel = kernel("output_kernel", inner, self.width)
        if not self.biases.built:
            self.biases.build(None)

    def call(self, hidden, memory, positions, visible, seed=None, site=None):
        site = self.site if site is None else site
        # Memory and segment are projected apart, so that no gradient is computed for memory,
        # which the caller has stopped.
        kernel = tf.convert_to_tensor(self.key_value_kernel)
        key_value = tf.concat([tf.tensordot(memory, kernel, 1), tf.tensordot(hidden, kernel, 1)], 1)
        key_BHSK, value_BHSK = self.keys_and_values(key_value)
        query = self.scaled_query(tf.tensordot(hidden, self.query_kernel, 1))
        # Distances do not depend on the row of the batch, so they are projected once.
        position_HSK = self.heads(tf.matmul(positions, self.position_kernel))

        if self.num_heads == 1:
            # A product broadcast from [1, S, K] corrupts memory in TensorFlow 2.21 on CPUs
            # (tensorflow#117700).
            batch_size = shape_of(hidden)[0]
            position_HSK = tf.tile(position_HSK[None], [batch_size, 1, 1, 1])

        def drop(values_BHLS, weights_BHLS):
            # Masks are kept where weights are, and drawn again where these are made again.
            mask_seed = seed if self.keep_weights else seed_after(weights_BHLS, seed)
            return dropout(values_BHLS, self.attention_dropout, mask_seed, site)

        sources = Sources(*query, key_BHSK, position_HSK, value_BHSK)
        drops = seed is not None and self.attention_dropout > 0
        context_BLHK = attend(sources, visible, drop if drops else same, self.keep_weights)
        inner = self.num_heads * self.head_dim
        context_BLI = tf.reshape(context_BLHK, [-1, shape_of(hidden)[1], inner])
        return tf.tensordot(context_BLI, self.output_kernel, 1)

    def queries(self, projected):
        """The queries towards content and towards distance, scaled.

        Args:
          projected: `[B, L, H * K]`, products with `query_kernel`.

        Returns:
          A pair of `[B, H, L, K]`.
        """
        query_BHLK, *biases_H1K = self.scaled_query(projected)
        return tuple(query_BHLK + bias_H1K for bias_H1K in biases_H1K)

    def scaled_query(self, projected):
        """What `queries` are sums of: the query, `[B, H, L, K]`, and two biases, `[H, 1, K]`."""
        query_BHLK = self.heads(projected)
        scale = tf.constant(self.head_dim**-0.5, query_BHLK.dtype)
        return query_BHLK * scale, *(bias_H1K * scale for bias_H1K in self.biases.vectors())

    def keys_and_values(self, projected):
        """Apart, by heads.

        Args:
          projected: `[B, S, 2 * H * K]`, products with `key_value_kernel`.

        Returns:
          A pair of `[B, H, S, K]`.
        """
        key, value = tf.split(projected, 2, axis=-1)
        return self.heads(key), self.heads(value)

    def heads(self, projected):
        """`[B, S, H * K]` to `[B, H, S, K]`, and `[S, H * K]` to `[H, S, K]`."""
        *rows, length, _ = shape_of(projected)
        split = [length, self.num_heads, self.head_dim]
        if not rows:
            return tf.transpose(tf.reshape(projected, split), [1, 0, 2])
        return tf.transpose(tf.reshape(projected, [-1, *split]), [0, 2, 1, 3])

    def get_config(self):
        return {
            **super().get_config(),
            "width": self.width,
            "num_heads": self.num_heads,
            "head_dim": self.head_dim,
            "biases": keras.saving.serialize_keras_object(self.biases),
            "attention_dropout": self.attention_dropout,
            "site": self.site,
            "initializer": keras.initializers.serialize(self.initializer),
            "keep_weights": self.keep_weights,
        }

    @classmethod
    def from_config(cls, config):
        biases = keras.saving.deserialize_keras_object(config["biases"])
        return cls(**{**config, "biases": biases})
