"""Adafactor that keeps no second moments of matrices, only averages of their rows and columns."""

import keras
import tensorflow as tf

from transformer_xl.training.weight_decay import decays


@keras.saving.register_keras_serializable(package="transformer_xl")
class Adafactor(keras.optimizers.Adafactor):
    """Adafactor, Shazeer and Stern (2018), algorithms 4 and 5, with the settings of Keras' class.

    The learning rate is `min(schedule, 1 / sqrt(step))` times the root mean square of the weights.
    Of a matrix averages over its rows and over its columns are kept, of a vector all moments.
    Keras' class keeps besides, as large as each matrix, what it makes of these averages in each
    step anew; gives both one name, where a run's state is saved by path; and has none of decay.

    Args:
      learning_rate, **kwargs: as those of Keras' class.
      decay_rate: as that of `AdamW`.

    Attributes:
      no_longer_kept: paths of variables that earlier versions had, of no use to go on.
    """

    def __init__(self, learning_rate=0.001, decay_rate=0.0, **kwargs):
        super().__init__(learning_rate=learning_rate, **kwargs)
        self.decay_rate = decay_rate
        self.no_longer_kept = ()

    def build(self, variables):
        if self.built:
            return
        # Not Keras' Adafactor's own, which makes variables of its kinds.
        super(keras.optimizers.Adafactor, self).build(variables)
        self._r, self._c, self._v = [], [], []
        for i, variable in enumerate(variables):
            rows = columns = squares = None
            if len(variable.shape) >= 2:
                *outer, height, width = variable.shape
                rows = self.add_variable((*outer, height), dtype=variable.dtype, name=f"rows_{i}")
                columns = self.add_variable(
                    (*outer, width), dtype=variable.dtype, name=f"columns_{i}"
                )
                before = f"{self.name}/{variable.path.replace('/', '_')}_velocity"
                self.no_longer_kept += (before,)
            else:
                squares = self.add_variable_from_reference(variable, name="velocity")
            self._r.append(rows)
            self._c.append(columns)
            self._v.append(squares)

    def update_step(self, gradient, variable, learning_rate):
        index, dtype = self._get_variable_index(variable), variable.dtype
        rate = tf.cast(learning_rate, dtype)
        if self.decay_rate and decays(self._trainable_variables[index]):
            self.assign_sub(variable, rate * self.decay_rate * variable)
        gradient = tf.cast(tf.convert_to_tensor(gradient), dtype)
        step = tf.cast(self.iterations.value + 1, dtype)
        rest = tf.pow(step, tf.cast(self.beta_2_decay, dtype))  # 1 - beta_2 of this step

        def averaged(average, new):
            self.assign(average, average + rest * (new - average))
            return tf.convert_to_tensor(average)

        squares = tf.square(gradient) + self.epsilon_1
        if self._v[index] is None:
            rows = averaged(self._r[index], tf.reduce_mean(squares, -1))
            columns = averaged(self._c[index], tf.reduce_mean(squares, -2))
            # The root of both factors apart: a matrix of their products is not made.
            of_rows = tf.sqrt(tf.reduce_mean(rows, -1, keepdims=True)) * tf.math.rsqrt(rows)
            move = gradient * of_rows[..., None] * tf.math.rsqrt(columns)[..., None, :]
        else:
            move = gradient * tf.math.rsqrt(averaged(self._v[index], squares))
        rate = tf.minimum(rate, tf.math.rsqrt(step))
        rate *= tf.maximum(tf.cast(self.epsilon_2, dtype), _rms(variable))
        rate /= tf.maximum(tf.cast(1, dtype), _rms(move) / self.clip_threshold)
        self.assign_sub(variable, rate * move)

    def get_config(self):
        return {**super().get_config(), "decay_rate": self.decay_rate}


def _rms(tensor):
    return tf.sqrt(tf.reduce_mean(tf.square(tensor)))
