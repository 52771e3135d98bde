"""Learning-rate schedules."""

import math

import keras
import tensorflow as tf


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
