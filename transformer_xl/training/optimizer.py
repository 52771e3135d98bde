"""Learning-rate schedules and the optimizer."""

import math

import keras
import numpy as np
import tensorflow as tf

from transformer_xl.config import TrainConfig


@keras.saving.register_keras_serializable(package="transformer_xl")
class WarmupSchedule(keras.optimizers.schedules.LearningRateSchedule):
    """`learning_rate * min(1, step / warmup_steps) * decay`, the first step counted as 1.

    The decays:

    - "cosine": from 1 to `min_ratio` along half a cosine over all `max_steps`, beginning at step 0
      (`cosine_from="start"`, as the original PyTorch code) or after warm-up (`"warmup_end"`, as
      the original TensorFlow code).
    - "inverse_sqrt": `sqrt(warmup_steps / step)` after warm-up.
    - "constant": 1.

    Args:
      learning_rate: the peak.
      max_steps: training steps in all.
      schedule: the decay.
      warmup_steps: over which the rate rises from 0; 0 for none.
      cosine_from: see above.
      min_ratio: the cosine's end.
    """

    def __init__(
        self,
        learning_rate,
        max_steps,
        schedule="cosine",
        warmup_steps=0,
        cosine_from="start",
        min_ratio=0.0,
    ):
        self.learning_rate = learning_rate
        self.max_steps = max_steps
        self.schedule = schedule
        self.warmup_steps = warmup_steps
        self.cosine_from = cosine_from
        self.min_ratio = min_ratio

    def __call__(self, step):
        """The rate for the update after `step` updates, float32 scalar."""
        step = tf.cast(step, tf.float32) + 1.0
        warmup = float(max(1, self.warmup_steps))
        rate = self.learning_rate * tf.minimum(1.0, step / warmup)
        if self.schedule == "cosine":
            start = float(self.warmup_steps if self.cosine_from == "warmup_end" else 0)
            length = max(1.0, self.max_steps - start)
            progress = tf.clip_by_value((step - start) / length, 0.0, 1.0)
            cosine = 0.5 * (1.0 + tf.cos(math.pi * progress))
            return rate * (self.min_ratio + (1.0 - self.min_ratio) * cosine)
        if self.schedule == "inverse_sqrt":
            return rate * tf.minimum(1.0, tf.sqrt(warmup / step))
        return rate

    def get_config(self):
        return {
            "learning_rate": self.learning_rate,
            "max_steps": self.max_steps,
            "schedule": self.schedule,
            "warmup_steps": self.warmup_steps,
            "cosine_from": self.cosine_from,
            "min_ratio": self.min_ratio,
        }


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
        step = tf.cast(self.iterations.value, tf.float32) + 1.0
        correction = tf.sqrt(_one_minus_power(self.beta_2, step))
        correction /= _one_minus_power(self.beta_1, step)
        dtype = variable.dtype
        zero = tf.zeros((), dtype)
        # The kernel would correct in float32: it is told that both powers are 0 already.
        tf.raw_ops.ResourceApplyAdam(
            var=_handle(variable),
            m=_handle(self._momentums[index]),
            v=_handle(self._velocities[index]),
            beta1_power=zero,
            beta2_power=zero,
            lr=tf.cast(tf.cast(learning_rate, tf.float32) * correction, dtype),
            beta1=tf.constant(self.beta_1, dtype),
            beta2=tf.constant(self.beta_2, dtype),
            epsilon=tf.constant(self.epsilon, dtype),
            grad=tf.cast(tf.convert_to_tensor(gradient), dtype),
        )


def _handle(variable):
    # Keras hands the update a tf.Variable, or one replica's part of a distributed one.
    return (variable.value if isinstance(variable, keras.Variable) else variable).handle


def _one_minus_power(beta: float, step):
    """`1 - beta**step` without the cancellation, for the beta that float32 arithmetic has."""
    return -tf.math.expm1(step * tf.constant(math.log(float(np.float32(beta))), tf.float32))


def make_optimizer(config: TrainConfig) -> keras.Optimizer:
    """Adam (0.9, 0.999, 1e-8) with the configuration's schedule.

    Clipping is the training step's, which reports the norm.
    """
    schedule = WarmupSchedule(
        config.learning_rate,
        config.max_steps,
        schedule=config.schedule,
        warmup_steps=config.warmup_steps,
        cosine_from=config.cosine_from,
        min_ratio=config.min_learning_rate_ratio,
    )
    # A name of its own: checkpoints know variables by path.
    return Adam(schedule, beta_1=0.9, beta_2=0.999, epsilon=1e-8, name="optimizer")
