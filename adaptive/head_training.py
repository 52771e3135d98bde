"""How a Keras model is trained, evaluated and compiled through a head.

The model returns hidden states; the loss is the head's, a weighted mean over tokens.
"""

import keras
import tensorflow as tf

from .dense_tensors import as_tensor
from .metrics import Perplexity, metric_from
from .rows import each_row_once


class Offered:
    """Metrics, out of sight of Keras, which adds no state to a model that is built already."""

    def __init__(self, metrics):
        self.metrics = metrics


class HeadTraining:
    """A mixin before `keras.Model`, for models whose loss is `sum(w * nll) / sum(w)`.

    Loss and perplexity are that mean over the whole epoch, not the mean of the batches' means.
    Under a `tf.distribute` strategy the replicas' sums are added up before the division, so that
    gradients do not depend on how a batch is split. An optimizer's `clipnorm`, `clipvalue` and
    `global_clipnorm` do: Keras applies them to each replica's part.

    A subclass has `summed_loss` and, if it offers metrics, `likeliest`.
    """

    offers_metrics = False

    def summed_loss(self, x, y, sample_weight, training):
        """The loss of a batch.

        Returns:
          `sum(w * nll)`, a float32 scalar; the targets' weights `w`, float32 of their shape; what
          `likeliest` needs.
        """
        raise NotImplementedError

    def likeliest(self, hidden, k):
        """The k likeliest ids at each position, int32 `[..., k]`."""
        raise NotImplementedError

    def _make_metrics(self):
        self._mean_nll = keras.metrics.Mean(name="loss")
        self._perplexity = Perplexity(name="perplexity")
        self._offered = Offered([])

    @property
    def metrics(self):
        return [self._mean_nll, self._perplexity, *self._offered.metrics]

    def compile(
        self,
        optimizer="rmsprop",
        loss=None,
        loss_weights=None,
        metrics=None,
        weighted_metrics=None,
        **kwargs,
    ):
        """As in `keras.Model`, without a loss: `fit` minimises the head's.

        Args:
          optimizer: as in Keras.
          loss, loss_weights: must be None.
          metrics: besides loss and perplexity: "accuracy", `Accuracy()`, `TopKAccuracy(k)`.
          weighted_metrics: the same; all metrics here are weighted.
          **kwargs: `jit_compile`, `run_eagerly`, `steps_per_execution`, `auto_scale_loss`.

        Raises:
          ValueError: for a loss, and for metrics that would be computed on hidden states.
        """
        if loss is not None or loss_weights is not None:
            raise ValueError(
                f"{type(self).__name__} has a loss of its own, its head's. Received: "
                f"loss={loss!r}, loss_weights={loss_weights!r}. Compile it with an optimizer only."
            )
        wanted = [*_as_list(metrics), *_as_list(weighted_metrics)]
        if wanted and not self.offers_metrics:
            raise ValueError(
                "Keras' metrics would be computed on hidden states. Received: "
                f"metrics={metrics}, weighted_metrics={weighted_metrics}. Leave them out: "
                "loss and perplexity are always reported."
            )
        self._offered = Offered([metric_from(one) for one in wanted])
        super().compile(optimizer=optimizer, **kwargs)

    def get_compile_config(self):
        config = super().get_compile_config()
        if not config:
            return config  # never compiled
        metrics = [keras.saving.serialize_keras_object(one) for one in self._offered.metrics]
        config = {**config, "metrics": metrics}
        # Not arguments here; Keras writes down those of its own `compile`.
        return {key: value for key, value in config.items() if key not in _NOT_OURS}

    def compile_from_config(self, config):
        self.compile(**keras.saving.deserialize_keras_object(config))
        # So that loading finds the optimizer's variables.
        if self.optimizer is not None and self.built:
            self.optimizer.build(self.trainable_variables)

    def train_step(self, data):
        replicas = tf.distribute.get_strategy().num_replicas_in_sync
        x, y, sample_weight = unpacked(data)
        with tf.GradientTape() as tape:
            summed, weights, hidden = self.summed_loss(x, y, sample_weight, training=True)
            total = tf.reduce_sum(weights)
            everywhere = total
            if replicas > 1:
                context = tf.distribute.get_replica_context()
                everywhere = context.all_reduce(tf.distribute.ReduceOp.SUM, total)
            # Divided here and not in the weights: they meet half-precision numbers in the head.
            loss = tf.math.divide_no_nan(summed, everywhere)
            for penalty in self.losses:
                loss += tf.cast(penalty, tf.float32) / replicas
            scaled = self.optimizer.scale_loss(loss)
        variables = self.trainable_variables
        gradients = tape.gradient(scaled, [variable.value for variable in variables])
        gradients = [_to_apply(gradient, replicas) for gradient in gradients]
        self.optimizer.apply(gradients, variables)
        return self._report(summed, weights, total, y, hidden)

    def test_step(self, data):
        x, y, sample_weight = unpacked(data)
        summed, weights, hidden = self.summed_loss(x, y, sample_weight, training=False)
        return self._report(summed, weights, tf.reduce_sum(weights), y, hidden)

    def _report(self, summed, weights, total, y, hidden):
        mean = tf.math.divide_no_nan(summed, total)
        for metric in (self._mean_nll, self._perplexity):
            metric.update_state(mean, sample_weight=total)
        if self._offered.metrics:
            y = tf.reshape(y, tf.shape(weights))
            ids = self.likeliest(hidden, max(metric.k for metric in self._offered.metrics))
            for metric in self._offered.metrics:
                metric.update_state(y, ids, sample_weight=weights)
        return {metric.name: metric.result() for metric in self.metrics}


def _to_apply(gradient, replicas):
    """The gradient as an optimizer of Keras that squares it needs it.

    Keras squares each of the rows of `tf.IndexedSlices` alone, also where they are one row of the
    table's. Of several replicas it puts the lists one behind the other: dense ones it adds up.
    """
    if not isinstance(gradient, tf.IndexedSlices):
        return gradient
    return tf.convert_to_tensor(gradient) if replicas > 1 else each_row_once(gradient)


_NOT_OURS = ("loss", "loss_weights", "weighted_metrics")


def _as_list(value):
    if value is None:
        return []
    return list(value) if isinstance(value, (list, tuple)) else [value]


def unpacked(data):
    """Inputs, targets and weights or None, from what a data adapter of Keras gives.

    Raises:
      ValueError: if there are no targets.
    """
    x, y, sample_weight = keras.utils.unpack_x_y_sample_weight(data)
    if y is None:
        raise ValueError(
            "This model takes batches (inputs, targets) or (inputs, targets, weights). "
            "Received: inputs only."
        )
    return x, y, sample_weight


_RULE = (
    "Weights must have the shape of the targets, or of their first axes: one for each row. "
    "Received: weights of shape"
)


def product_of_weights(targets, *given):
    """What each target counts for.

    Args:
      targets: int `[...]`.
      *given: weights, bool or numbers, of the targets' shape or of its first axes only, one for
        each row for instance; None counts all alike.

    Returns:
      float32 `[...]`, of the targets' shape.

    Raises:
      ValueError: for weights of another shape, where it is known. Where it is known when it runs
        only: an InvalidArgumentError then.
    """
    targets = as_tensor(targets, "Targets")
    weights = tf.ones(tf.shape(targets))
    for one in given:
        if one is None:
            continue
        one = tf.cast(as_tensor(one, "Weights"), tf.float32)
        with tf.control_dependencies(_checks_of_axes(one, targets)):
            # Keras forgets a rank where weights come with two of them.
            if None in (one.shape.rank, targets.shape.rank):
                missing = tf.ones([tf.rank(targets) - tf.rank(one)], tf.int32)
                one = tf.reshape(one, tf.concat([tf.shape(one), missing], 0))
            else:
                one = one[(..., *[None] * (targets.shape.rank - one.shape.rank))]
        weights *= one
    return tf.ensure_shape(weights, targets.shape)


def _checks_of_axes(one, targets) -> list:
    """Assertions that weights fit, about what a graph knows when it runs only.

    Raises:
      ValueError: where they cannot fit.
    """
    shape, of_targets = one.shape, targets.shape
    sizes, wanted = tf.shape(one), tf.shape(targets)
    received = [_RULE, sizes, "for targets of shape", wanted]
    if None in (shape.rank, of_targets.rank):
        fewer = tf.Assert(tf.rank(one) <= tf.rank(targets), received)
        with tf.control_dependencies([fewer]):
            wanted = wanted[: tf.rank(one)]
        return [tf.Assert(tf.reduce_all((sizes == 1) | (sizes == wanted)), received)]
    pairs = list(zip(shape, of_targets))
    if shape.rank > of_targets.rank or not all(
        size in (1, None) or of_target in (size, None) for size, of_target in pairs
    ):
        raise ValueError(f"{_RULE} {shape} for targets of shape {of_targets}.")
    unsure = [i for i, pair in enumerate(pairs) if None in pair and pair[0] != 1]
    # Numbers on the host, one by one and without a logical operation: nothing waits for a GPU.
    return [
        tf.Assert(tf.equal((sizes[i] - 1) * (sizes[i] - wanted[i]), 0), received) for i in unsure
    ]
