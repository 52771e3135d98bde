"""Metrics of a model that is trained through its head."""

import keras
import tensorflow as tf


@keras.saving.register_keras_serializable(package="adaptive")
class Perplexity(keras.metrics.Mean):
    """`exp` of the mean of nats per target, over the whole epoch."""

    def result(self):
        return tf.exp(super().result())


@keras.saving.register_keras_serializable(package="adaptive")
class TopKAccuracy(keras.metrics.Mean):
    """The weighted share of targets among the k likeliest ids, over the whole epoch.

    For `SoftmaxModel.compile(metrics=[...])`, which finds the likeliest ids by the head.

    Args:
      k: how many ids count as a hit; at least 1.
      name: None for `top_<k>_accuracy`.
      **kwargs: of `keras.metrics.Metric`.

    Raises:
      ValueError: if k is not a positive integer.
    """

    def __init__(self, k=5, name=None, **kwargs):
        if not isinstance(k, int) or k < 1:
            raise ValueError(f"k must be a positive integer. Received: k={k!r}.")
        super().__init__(name=name or f"top_{k}_accuracy", **kwargs)
        self.k = k

    def update_state(self, targets, ids, sample_weight=None):
        """Counts hits.

        Args:
          targets: int `[...]`.
          ids: int `[..., K]`, the likeliest first, K at least `k` or the vocabulary.
          sample_weight: float `[...]`; None for 1.
        """
        hits = tf.reduce_any(tf.cast(targets, ids.dtype)[..., None] == ids[..., : self.k], -1)
        if sample_weight is not None:
            sample_weight = tf.reshape(sample_weight, [-1])
        # Flat, since Keras takes means over all but the first axis, whatever their lengths.
        super().update_state(tf.reshape(tf.cast(hits, tf.float32), [-1]), sample_weight)

    def get_config(self):
        return {**super().get_config(), "k": self.k}


@keras.saving.register_keras_serializable(package="adaptive")
class Accuracy(TopKAccuracy):
    """The weighted share of targets that are the likeliest id, over the whole epoch."""

    def __init__(self, name="accuracy", **kwargs):
        super().__init__(k=1, name=name, **kwargs)

    def get_config(self):
        config = super().get_config()
        del config["k"]
        return config


def metric_from(value):
    """A metric, from one or from its name.

    Raises:
      ValueError: for one that would look at hidden states.
    """
    if isinstance(value, TopKAccuracy):
        return value
    names = {"accuracy": Accuracy, "acc": Accuracy, "top_k_accuracy": TopKAccuracy}
    if isinstance(value, str) and value in names:
        return names[value]()
    if isinstance(value, type) and issubclass(value, TopKAccuracy):
        raise ValueError(
            "A metric must be an instance, not its class. "
            f"Received: {value.__name__}. Try: {value.__name__}()."
        )
    raise ValueError(
        "A metric of Keras would be computed on hidden states, since those are what the model "
        f"returns. Received: {value!r}. Loss and perplexity are always reported; besides there "
        'are "accuracy" and adaptive.TopKAccuracy(k).'
    )
