"""Keras' Adafactor, whose variables have paths of their own, and which lets weights decay."""

import itertools

import keras
import tensorflow as tf

from transformer_xl.training.weight_decay import decays


@keras.saving.register_keras_serializable(package="transformer_xl")
class Adafactor(keras.optimizers.Adafactor):
    """Adafactor, Shazeer and Stern (2018), by Keras, for a run whose state is saved by path.

    The learning rate is `min(schedule, 1 / sqrt(step))` times the root mean square of the weights.
    Keras gives the averages over a table's rows and over its columns one name.

    Args:
      learning_rate, **kwargs: as those of Keras' class.
      decay_rate: as that of `AdamW`.
    """

    def __init__(self, learning_rate=0.001, decay_rate=0.0, **kwargs):
        super().__init__(learning_rate=learning_rate, **kwargs)
        self.decay_rate = decay_rate
        self._counter = itertools.count()

    def add_variable(self, shape, initializer="zeros", dtype=None, name=None, **kwargs):
        name = f"factor_{next(self._counter)}_{name}"
        return super().add_variable(shape, initializer, dtype, name=name, **kwargs)

    def update_step(self, gradient, variable, learning_rate):
        if self.decay_rate and decays(
            self._trainable_variables[self._get_variable_index(variable)]
        ):
            part = tf.cast(learning_rate, variable.dtype) * self.decay_rate
            self.assign_sub(variable, part * variable)
        super().update_step(gradient, variable, learning_rate)

    def get_config(self):
        return {**super().get_config(), "decay_rate": self.decay_rate}
