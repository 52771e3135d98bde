"""The two kinds of block that the model stacks: attention and feed-forward, each with a residual.

B batch, L segment length, M memory length, S = M + L key length, D width, F feed-forward width.
"""

import keras
import tensorflow as tf

from transformer_xl.attention import PositionBiases, RelativeAttention
from transformer_xl.dropout import dropout
from transformer_xl.feed_forward import FeedForward
from transformer_xl.layer_norm import LayerNorm
from transformer_xl.substitutes import in_place_of, tensors_of
from transformer_xl.waiting import seed_after

# How many sites for dropout a block has: one in its inner layer, one of its own.
_SITES = 2


def normal(stddev: float):
    """The initializer of weights that start from N(0, stddev)."""
    return keras.initializers.RandomNormal(0.0, stddev)


def make_blocks(config, first_site: int, dtype) -> list:
    """The stack of `DecoderBlock`s that `config.block_pattern` spells.

    Args:
      config: a `ModelConfig`.
      first_site: the first number for dropout that no one else uses.
      dtype: the policy of every layer.
    """
    kernels = normal(config.init_stddev)

    def position_biases(name):
        return PositionBiases(
            config.num_heads,
            config.head_dim,
            initializer=normal(config.init_stddev),
            name=name,
            dtype=dtype,
        )

    shared_biases = None if config.untie_position_biases else position_biases("position_biases")
    blocks = []
    for index, kind in enumerate(config.block_pattern):
        site = first_site + index * _SITES
        if kind == "a":
            inner = RelativeAttention(
                config.model_dim,
                config.num_heads,
                config.head_dim,
                biases=shared_biases or position_biases("biases"),
                attention_dropout=config.attention_dropout,
                site=site,
                initializer=kernels,
                # A block that is computed again makes them again anyway.
                keep_weights=config.rematerialize or not config.rematerialize_attention,
                name="attention",
                dtype=dtype,
            )
        else:
            inner = FeedForward(
                config.model_dim,
                config.feed_forward_dim,
                dropout=config.dropout,
                site=site,
                initializer=kernels,
                keep_inner=config.rematerialize or not config.rematerialize_feed_forward,
                name="feed_forward",
                dtype=dtype,
            )
        blocks.append(
            DecoderBlock(
                inner,
                layer_norm=config.layer_norm,
                layer_norm_epsilon=config.layer_norm_epsilon,
                dropout=config.dropout,
                site=site + 1,
                gamma_initializer=keras.initializers.RandomNormal(1.0, config.init_stddev),
                name=f"block_{index}",
                dtype=dtype,
            )
        )
    return blocks


def rematerialized(block):
    """A block that is computed a second time in the backward pass, instead of being kept for it.

    Of the block only its inputs stay in memory (Chen et al., 2016, "Training deep nets with
    sublinear memory cost"). Its dropout is a function of seed and site, so that the second pass
    draws the masks of the first, and gradients are the same.

    Args:
      block: a `DecoderBlock`.

    Returns:
      A function with the block's arguments and result.
    """

    def call(hidden, memory=None, positions=None, visible=None, seed=None, sites=None):
        def feed(hidden, *weights):
            with in_place_of(block, weights):
                return block(hidden, seed=seed_after(hidden, seed), sites=sites)

        def attend(hidden, memory, *weights):
            given = (hidden, memory, positions, visible)
            with in_place_of(block, weights):
                return block(*given, seed=seed_after(hidden, seed), sites=sites)

        if memory is None:
            return tf.recompute_grad(feed)(hidden, *tensors_of(block))

        # Memory among the arguments, although no gradient flows into it: XLA would otherwise keep
        # what the first pass made of it.
        return tf.recompute_grad(attend)(hidden, memory, *tensors_of(block))

    return call


@keras.saving.register_keras_serializable(package="transformer_xl")
class DecoderBlock(keras.layers.Layer):
    """A residual around one inner layer, with dropout and layer normalisation.

    After ("post"): `norm(x + inner(x))`; before ("pre"): `x + inner(norm(x))`, where memory is
    normalised in the same way as the segment.

    Args:
      inner: a `RelativeAttention` or a `FeedForward`.
      layer_norm: "post" or "pre".
      layer_norm_epsilon: added to the variance.
      dropout: rate on what the inner layer returns.
      site: a number of its own for dropout.
      gamma_initializer: of the normalisation's scale.

    Call arguments:
      hidden: `[B, L, D]`.
      memory, positions, visible: as `RelativeAttention`; left out for a `FeedForward`.
      seed: int32 `[2]`, this step's, for dropout; None for no dropout.
      sites: other `sites` than the block's own, or their counters.
      normalised: as `FeedForward`, of the block before, where norms come after.
      with_normalised: whether to return the `Normalised` of the result as well.

    Returns:
      `[B, L, D]` in the compute dtype.
    """

    def __init__(
        self,
        inner,
        layer_norm="post",
        layer_norm_epsilon=1e-5,
        dropout=0.0,
        site=0,
        gamma_initializer="ones",
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.inner = inner
        self.layer_norm = layer_norm
        self.layer_norm_epsilon = layer_norm_epsilon
        self.dropout = dropout
        self.site = site
        self.gamma_initializer = keras.initializers.get(gamma_initializer)
        self.norm = LayerNorm(
            epsilon=layer_norm_epsilon,
            gamma_initializer=self.gamma_initializer,
            dtype=self.dtype_policy,
            name="norm",
        )

    @property
    def attends(self) -> bool:
        """Whether this block reads memory."""
        return isinstance(self.inner, RelativeAttention)

    @property
    def sites(self):
        """Of the inner layer and of this one: what stands in for them may be given to a call."""
        return self.inner.site, self.site

    def build(self, input_shape=None):
        del input_shape  # the weights do not depend on it
        if not self.inner.built:  # as one of a saved model is
            self.inner.build(None)
        self.norm.build((None, None, self.inner.width))

    def call(
        self,
        hidden,
        memory=None,
        positions=None,
        visible=None,
        seed=None,
        sites=None,
        normalised=None,
        with_normalised=False,
    ):
        inner_site, own_site = self.sites if sites is None else sites
        first = self.layer_norm == "pre"
        inputs = self.norm(hidden) if first else hidden
        if self.attends:
            # Here and not behind the norm, whose own weights do get a gradient from memory.
            memory = tf.stop_gradient(memory)
            memory = self.norm(memory) if first else memory
            outputs = self.inner(inputs, memory, positions, visible, seed=seed, site=inner_site)
        else:
            # Named only where it is there: other layers than these may stand here.
            known = {} if normalised is None else {"normalised": normalised}
            outputs = self.inner(inputs, seed=seed, site=inner_site, **known)
        outputs = hidden + dropout(outputs, self.dropout, seed, own_site)
        if first:
            return outputs
        return self.norm(outputs, with_normalised=True) if with_normalised else self.norm(outputs)

    def get_config(self):
        return {
            **super().get_config(),
            "inner": keras.saving.serialize_keras_object(self.inner),
            "layer_norm": self.layer_norm,
            "layer_norm_epsilon": self.layer_norm_epsilon,
            "dropout": self.dropout,
            "site": self.site,
            "gamma_initializer": keras.initializers.serialize(self.gamma_initializer),
        }

    @classmethod
    def from_config(cls, config):
        inner = keras.saving.deserialize_keras_object(config["inner"])
        return cls(**{**config, "inner": inner})
