"""LAMB, as in the paper."""

import keras
import tensorflow as tf

from transformer_xl.training.adam import one_minus_power
from transformer_xl.training.weight_decay import decays


@keras.saving.register_keras_serializable(package="transformer_xl")
class Lamb(keras.Optimizer):
    """Layer-wise adaptive moments, You et al. (2020), algorithm 2, with the identity for phi.

    With the bias-corrected moments of Adam, `r = m / (sqrt(v) + epsilon)`, a variable `x` moves by

        learning_rate * |x| / |r + decay_rate * x| * (r + decay_rate * x)

    and by `learning_rate * (r + decay_rate * x)` where one of the norms is 0. Keras' `Lamb` lets
    weights decay outside of that quotient, which is not the paper's.

    Args:
      learning_rate: a float or a schedule.
      beta_1, beta_2, epsilon: of the moments.
      decay_rate: the paper's lambda; for the weights that `decays` names, others have 0.
      **kwargs: `name`.
    """

    def __init__(
        self,
        learning_rate=0.001,
        beta_1=0.9,
        beta_2=0.999,
        epsilon=1e-6,
        decay_rate=0.0,
        name="lamb",
        **kwargs,
    ):
        super().__init__(learning_rate=learning_rate, name=name, **kwargs)
        self.beta_1, self.beta_2 = beta_1, beta_2
        self.epsilon = epsilon
        self.decay_rate = decay_rate

    def build(self, variables):
        if self.built:
            return
        super().build(variables)
        self._momentums, self._velocities = self.add_optimizer_variables(
            variables, ["momentum", "velocity"]
        )

    def update_step(self, gradient, variable, learning_rate):
        index = self._get_variable_index(variable)
        m, v = self._momentums[index], self._velocities[index]
        gradient = tf.cast(tf.convert_to_tensor(gradient), variable.dtype)
        value = tf.convert_to_tensor(variable)
        step = tf.cast(self.iterations.value, tf.float32) + 1.0
        self.assign_add(m, (gradient - m) * (1.0 - self.beta_1))
        self.assign_add(v, (tf.square(gradient) - v) * (1.0 - self.beta_2))
        corrected_m = m / tf.cast(one_minus_power(self.beta_1, step), variable.dtype)
        corrected_v = v / tf.cast(one_minus_power(self.beta_2, step), variable.dtype)
        move = corrected_m / (tf.sqrt(corrected_v) + self.epsilon)
        if self.decay_rate and decays(self._trainable_variables[index]):
            move += self.decay_rate * value
        sizes = tf.norm(value), tf.norm(move)
        both = tf.logical_and(sizes[0] > 0, sizes[1] > 0)
        trust = tf.where(both, tf.math.divide_no_nan(*sizes), tf.ones((), variable.dtype))
        self.assign_sub(variable, tf.cast(learning_rate, variable.dtype) * trust * move)

    def get_config(self):
        return {
            **super().get_config(),
            "beta_1": self.beta_1,
            "beta_2": self.beta_2,
            "epsilon": self.epsilon,
            "decay_rate": self.decay_rate,
        }
