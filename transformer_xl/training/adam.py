"""Adam, exact from its first step, and AdamW."""

import math

import keras
import numpy as np
import tensorflow as tf

from transformer_xl.training.weight_decay import decays


@keras.saving.register_keras_serializable(package="transformer_xl")
class Adam(keras.optimizers.Adam):
    """Keras' Adam with exact bias corrections, and one kernel for each variable's update.

    Kingma and Ba (2015), algorithm 1, in the form of section 2's last paragraph: epsilon is added
    to the root of the uncorrected second moment, as TensorFlow's optimizers always did. Keras
    computes `1 - beta_2**step` in float32, which is wrong by 1e-5 of itself in the first steps;
    here it is not. `amsgrad` is not offered.
    """

    def build(self, variables):
        if self.amsgrad:
            raise ValueError("This Adam has no amsgrad: use keras.optimizers.Adam for it.")
        super().build(variables)

    def update_step(self, gradient, variable, learning_rate):
        index = self._get_variable_index(variable)
        rate, beta_1, beta_2, epsilon, zero = self._scalars(variable, learning_rate)
        # The kernel would correct in float32: it is told that both powers are 0 already.
        tf.raw_ops.ResourceApplyAdam(
            var=_handle(variable),
            m=_handle(self._momentums[index]),
            v=_handle(self._velocities[index]),
            beta1_power=zero,
            beta2_power=zero,
            lr=rate,
            beta1=beta_1,
            beta2=beta_2,
            epsilon=epsilon,
            grad=tf.cast(tf.convert_to_tensor(gradient), variable.dtype),
        )

    def _scalars(self, variable, learning_rate):
        """What all variables of a dtype share, made once for a step in a graph: four constants for
        each variable were 8 percent of a training step's operations.

        Returns:
          The learning rate with both bias corrections, beta_1, beta_2, epsilon and 0.
        """
        graph = tf.compat.v1.get_default_graph()
        known = getattr(self, "_known_scalars", None)
        if known is None or not known.serve(graph, learning_rate, variable):
            known = _Scalars(graph, learning_rate, self._corrected(learning_rate))
        known.updated.add(id(variable))
        dtype = variable.dtype
        if dtype not in known.of_dtype:
            settings = (self.beta_1, self.beta_2, self.epsilon, 0.0)
            known.of_dtype[dtype] = (
                tf.cast(known.corrected, dtype),
                *(tf.constant(setting, dtype) for setting in settings),
            )
        if not tf.executing_eagerly():  # where steps are taken again in the same graph
            self._known_scalars = known
        return known.of_dtype[dtype]

    def _corrected(self, learning_rate):
        """The learning rate with both bias corrections."""
        step = tf.cast(self.iterations.value, tf.float32) + 1.0
        correction = tf.sqrt(one_minus_power(self.beta_2, step))
        correction /= one_minus_power(self.beta_1, step)
        return tf.cast(learning_rate, tf.float32) * correction


@keras.saving.register_keras_serializable(package="transformer_xl")
class AdamW(Adam):
    """`Adam` with decoupled weight decay.

    Loshchilov and Hutter (2019), algorithm 2: a step also takes `learning_rate * decay_rate` of
    the weights themselves away, whatever their gradients were. Biases, scales of norms and tables
    are left alone; see `decays`.

    Args:
      decay_rate: the paper's lambda, a part of the weights for each step at a learning rate of 1.
      learning_rate, **kwargs: as those of `Adam`.
    """

    def __init__(self, learning_rate=0.001, decay_rate=0.0, **kwargs):
        super().__init__(learning_rate, **kwargs)
        self.decay_rate = decay_rate

    def update_step(self, gradient, variable, learning_rate):
        if decays(self._trainable_variables[self._get_variable_index(variable)]):
            part = tf.cast(learning_rate, variable.dtype) * self.decay_rate
            self.assign_sub(variable, part * variable)
        super().update_step(gradient, variable, learning_rate)

    def get_config(self):
        return {**super().get_config(), "decay_rate": self.decay_rate}


class _Scalars:
    """Those of one step. No tuple or dictionary, which TensorFlow would try to save."""

    def __init__(self, graph, learning_rate, corrected):
        self.graph = graph
        self.learning_rate = learning_rate
        self.corrected = corrected
        self.of_dtype = {}
        self.updated = set()  # variables, by their id

    def serve(self, graph, learning_rate, variable) -> bool:
        """Whether the variable's update is one of the same step: it had none there yet."""
        same = self.graph is graph and self.learning_rate is learning_rate
        return same and id(variable) not in self.updated


def _handle(variable):
    # Keras hands the update a tf.Variable, or one replica's part of a distributed one.
    return (variable.value if isinstance(variable, keras.Variable) else variable).handle


def one_minus_power(beta: float, step):
    """`1 - beta**step` without the cancellation, for the beta that float32 arithmetic has."""
    return -tf.math.expm1(step * tf.constant(math.log(float(np.float32(beta))), tf.float32))
