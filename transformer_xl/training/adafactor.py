"""Keras' Adafactor, whose variables have paths of their own, and which lets weights decay."""

import keras
import tensorflow as tf

from transformer_xl.training.weight_decay import decays


@keras.saving.register_keras_serializable(package="transformer_xl")
class Adafactor(keras.optimizers.Adafactor):
    """Adafactor, Shazeer and Stern (2018), by Keras, for a run whose state is saved by path.

    The learning rate is `min(schedule, 1 / sqrt(step))` times the root mean square of the weights.
    Keras gives the averages over a table's rows and over its columns one name, and so it does
    with the unused ones of biases and norms, which have none here.

    Args:
      learning_rate, **kwargs: as those of Keras' class.
      decay_rate: as that of `AdamW`.
    """

    def __init__(self, learning_rate=0.001, decay_rate=0.0, **kwargs):
        super().__init__(learning_rate=learning_rate, **kwargs)
        self.decay_rate = decay_rate

    def build(self, variables):
        if self.built:
            return
        # Not Keras' Adafactor's own, which makes variables whose paths are no variable's alone.
        super(keras.optimizers.Adafactor, self).build(variables)
        self._r, self._c, self._v = [], [], []
        for i, variable in enumerate(variables):
            rows = columns = None
            if len(variable.shape) >= 2:
                *outer, height, width = variable.shape
                rows = self.add_variable((*outer, height), dtype=variable.dtype, name=f"rows_{i}")
                columns = self.add_variable(
                    (*outer, width), dtype=variable.dtype, name=f"columns_{i}"
                )
            self._r.append(rows)
            self._c.append(columns)
            self._v.append(self.add_variable_from_reference(variable, name="velocity"))

    def update_step(self, gradient, variable, learning_rate):
        if self.decay_rate and decays(
            self._trainable_variables[self._get_variable_index(variable)]
        ):
            part = tf.cast(learning_rate, variable.dtype) * self.decay_rate
            self.assign_sub(variable, part * variable)
        super().update_step(gradient, variable, learning_rate)

    def get_config(self):
        return {**super().get_config(), "decay_rate": self.decay_rate}
