"""What a training step keeps besides weights and moments: loss scale, averages, counts.

All of it is variables on the device, so that no step waits for the host, and all of it belongs in
a checkpoint.
"""

import contextlib
from typing import NamedTuple

import tensorflow as tf

_LARGEST_SCALE = 2.0**24


class Verdict(NamedTuple):
    """What a step's loss and gradients mean for the state; scalars.

    Attributes:
      good: bool, whether the update is made.
      loss_scale: float32, of the next step.
      steps_at_scale: int32, good steps since the scale last changed.
      bad_steps: int32, steps so far whose loss or gradients were not finite.
      bad_run: int32, how many of them up to now follow one another.
    """

    good: tf.Tensor
    loss_scale: tf.Tensor
    steps_at_scale: tf.Tensor
    bad_steps: tf.Tensor
    bad_run: tf.Tensor


class TrainState:
    """The state of `steps.make_train_step`.

    Made within the scope of the distribution strategy, after the model.

    Args:
      model: a `TransformerXL`.
      ema_decay: of the weights' exponential moving average; 0 for none.
      loss_scale: the first one, for float16; 0 for none. It halves when a gradient overflows, and
        doubles after `growth_steps` steps without, as in Micikevicius et al. (2018), section 3.2.
      growth_steps: see there.

    Attributes:
      variables: all that there is, by name, for checkpoints.
    """

    def __init__(self, model, ema_decay=0.0, loss_scale=0.0, growth_steps=2000):
        self._weights = model.trainable_variables
        self._decay, self._growth_steps = ema_decay, growth_steps
        self.scales = loss_scale > 0
        self.variables = {}
        self._bad_steps = self._add("bad_steps", 0, tf.int32)
        self._bad_run = self._add("bad_run", 0, tf.int32)
        # How many batches the data is ahead of the steps, after divergence made the run go back.
        self.batches_left_out = self._add("batches_left_out", 0, tf.int64)
        if self.scales:
            self._loss_scale = self._add("loss_scale", loss_scale, tf.float32)
            self._steps_at_scale = self._add("steps_at_scale", 0, tf.int32)
        self._averages = []
        if ema_decay > 0:
            self._averages = [
                self._add(f"average/{weight.path}", weight.value, weight.dtype)
                for weight in self._weights
            ]
            self._averaged = self._add("average/updates", 0, tf.int64)
        self._exchange = tf.function(self._exchange_values, autograph=False)

    def loss_scale(self):
        """By what the loss is multiplied before its gradients are formed; float32 scalar."""
        return tf.convert_to_tensor(self._loss_scale) if self.scales else tf.constant(1.0)

    def judge(self, loss, gradient_norm) -> Verdict:
        """What a step's loss and norm of gradients mean; changes nothing.

        An overflow of float16's gradients is what its loss scale provokes, and no bad step unless
        the scale cannot fall any more.
        """
        scale = self.loss_scale()
        good = tf.math.is_finite(loss) & tf.math.is_finite(gradient_norm)
        counts = ~good
        steps_at_scale = tf.constant(0)
        if self.scales:
            counts &= ~tf.math.is_finite(loss) | (scale <= 1.0)
            steps_at_scale = tf.where(good, tf.convert_to_tensor(self._steps_at_scale) + 1, 0)
            grows = steps_at_scale >= self._growth_steps
            grown = tf.minimum(scale * 2.0, _LARGEST_SCALE)
            fallen = tf.where(tf.math.is_finite(loss), tf.maximum(scale / 2.0, 1.0), scale)
            scale = tf.where(good, tf.where(grows, grown, scale), fallen)
            steps_at_scale = tf.where(grows, 0, steps_at_scale)
        count = tf.cast(counts, tf.int32)
        bad_run = tf.convert_to_tensor(self._bad_run)
        return Verdict(
            good,
            scale,
            steps_at_scale,
            tf.convert_to_tensor(self._bad_steps) + count,
            tf.where(good, 0, bad_run + count),
        )

    def keep(self, verdict: Verdict):
        """Takes over the counts and the loss scale of a verdict; in cross-replica context."""
        self._bad_steps.assign(verdict.bad_steps)
        self._bad_run.assign(verdict.bad_run)
        if self.scales:
            self._loss_scale.assign(verdict.loss_scale)
            self._steps_at_scale.assign(verdict.steps_at_scale)

    def average(self, strategy):
        """Takes the new weights into the averages; in cross-replica context.

        The decay rises from 0.1 as `(1 + updates) / (10 + updates)`, so that the starting weights
        are forgotten.
        """
        if not self._averages:
            return
        updates = tf.cast(self._averaged.read_value(), tf.float32)
        decay = tf.minimum(self._decay, (1.0 + updates) / (10.0 + updates))

        def move(average, weight):
            rest = tf.cast(1.0 - decay, average.dtype)
            average.assign_sub(rest * (average - weight))

        for weight, average in zip(self._weights, self._averages):
            strategy.extended.update(average, move, args=(weight.value,), group=False)
        self._averaged.assign_add(1)

    @contextlib.contextmanager
    def averaged(self):
        """The model has the averages for weights inside, where there are averages."""
        if self._averages:
            self._exchange()
        try:
            yield
        finally:
            if self._averages:
                self._exchange()

    def restart_counts(self):
        """Forgets that steps were bad, for a run that went back to before."""
        self._bad_run.assign(0)

    def finite(self) -> bool:
        """Whether all weights, and their averages, are finite."""
        return bool(_all_finite([weight.value for weight in self._weights] + self._averages))

    def _exchange_values(self):
        for weight, average in zip(self._weights, self._averages):
            before = tf.identity(weight.value)
            weight.value.assign(average)
            average.assign(before)

    def _add(self, name: str, value, dtype) -> tf.Variable:
        variable = tf.Variable(
            value,
            dtype=dtype,
            trainable=False,
            name=name.replace("/", "_"),
            aggregation=tf.VariableAggregation.ONLY_FIRST_REPLICA,
        )
        self.variables[name] = variable
        return variable


@tf.function(autograph=False)
def _all_finite(values):
    return tf.reduce_all([tf.reduce_all(tf.math.is_finite(value)) for value in values])
