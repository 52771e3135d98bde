"""Layer normalisation whose gradient takes fewer passes than one derived operation by operation.

D width.
"""

from typing import NamedTuple

import keras
import tensorflow as tf

from transformer_xl.waiting import zero_after


@keras.saving.register_keras_serializable(package="transformer_xl")
class LayerNorm(keras.layers.LayerNormalization):
    """Keras' layer normalisation over the last axis, Ba et al. (2016), equation 4.

    Weights and numbers are Keras' own. It keeps for the backward pass what was normalised, where
    the gradient of Keras' keeps what it was made of, at three quarters of the time on a CPU.

    Args:
      epsilon: added to the variance.
      **kwargs: of `keras.layers.LayerNormalization`; what would be another function is refused.

    Call arguments:
      inputs: `[..., D]`.
      with_normalised: whether `Normalised`, which the result can be made of again, is returned too.

    Returns:
      The same shape, in the compute dtype; computed in float32, or wider where that is wider. With
      `with_normalised` the pair of it and a `Normalised`, through which no gradient flows.

    Raises:
      ValueError: for another axis than the last, without `center` or `scale`, with `rms_scaling`.
    """

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        given = {
            "axis": self.axis if isinstance(self.axis, int) else list(self.axis),
            "center": self.center,
            "scale": self.scale,
            "rms_scaling": getattr(self, "rms_scaling", False),
        }
        if given["axis"] not in (-1, [-1]) or tuple(given.values())[1:] != (True, True, False):
            raise ValueError(
                "LayerNorm normalises the last axis, then scales and shifts it. "
                f"Received: {given}. Use keras.layers.LayerNormalization for others."
            )

    def call(self, inputs, with_normalised=False):
        dtype = tf.float64 if inputs.dtype == tf.float64 else tf.float32
        wide, gamma, beta = (tf.cast(one, dtype) for one in (inputs, self.gamma, self.beta))
        outputs, normal = _both(wide, gamma, beta, self.epsilon)
        outputs = tf.cast(outputs, self.compute_dtype)
        if not with_normalised:
            return outputs
        return outputs, Normalised(*map(tf.stop_gradient, (normal, gamma, beta)))


class Normalised(NamedTuple):
    """What a `LayerNorm` keeps for its gradient, and its weights."""

    normal: tf.Tensor  # [..., D], of mean 0 and variance 1
    gamma: tf.Tensor  # [D]
    beta: tf.Tensor  # [D]

    def outputs_after(self, tensor, dtype):
        """What the layer returned, made again when the tensor is there."""
        gamma = self.gamma + zero_after(tensor, self.gamma.dtype)
        return tf.cast(self.normal * gamma + self.beta, dtype)


def layer_norm(inputs, gamma, beta, epsilon: float):
    """Normalises the last axis, then scales and shifts it.

    Args:
      inputs: float `[..., D]`.
      gamma, beta: of the same dtype, `[D]`.
      epsilon: added to the variance.

    Returns:
      The shape and dtype of `inputs`. It has derivatives of any order.
    """
    return _both(inputs, gamma, beta, epsilon)[0]


def _both(inputs, gamma, beta, epsilon):
    """The pair (what `layer_norm` returns; what was scaled for it)."""
    kept = []

    @tf.custom_gradient
    def normalised(inputs, gamma, beta):
        normal, inverse = _normal(inputs, epsilon)
        kept.append(normal)

        def gradient(upstream):
            return _slopes(inputs, gamma, upstream, (normal, inverse), epsilon)

        return normal * gamma + beta, gradient

    return normalised(inputs, gamma, beta), kept[0]


def _normal(inputs, epsilon):
    """Of mean 0 and variance 1, and what they were multiplied by for that."""
    deviations = inputs - tf.reduce_mean(inputs, -1, keepdims=True)
    variance = tf.reduce_mean(tf.square(deviations), -1, keepdims=True)
    inverse = tf.math.rsqrt(variance + epsilon)
    return deviations * inverse, inverse


def _slopes(inputs, gamma, upstream, known, epsilon):
    """The gradients with respect to inputs, gamma and beta.

    Made of what is known already, the results of `_normal`; differentiated in their turn as if made
    of `inputs`.
    """

    def of_inputs(inputs, gamma, upstream, known):
        normal, inverse = known
        across = tf.range(inputs.shape.rank - 1)  # what shares gamma and beta
        by_normal = upstream * normal
        along = upstream * gamma
        mean = tf.reduce_mean(along, -1, keepdims=True)
        share = tf.reduce_mean(by_normal * gamma, -1, keepdims=True)
        to_inputs = inverse * (along - mean - normal * share)
        return to_inputs, tf.reduce_sum(by_normal, across), tf.reduce_sum(upstream, across)

    @tf.custom_gradient
    def fast(inputs, gamma, upstream):
        def gradient(*upstreams):
            with tf.GradientTape() as tape:
                sources = (inputs, gamma, upstream)
                tape.watch(sources)
                slopes = of_inputs(*sources, _normal(inputs, epsilon))
            return tape.gradient(slopes, sources, output_gradients=upstreams)

        return of_inputs(inputs, gamma, upstream, known), gradient

    return fast(inputs, gamma, upstream)
