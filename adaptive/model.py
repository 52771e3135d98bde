"""SoftmaxModel: a backbone and a head that `fit`, `evaluate` and `predict` as one Keras model.

D width of the hidden states, V vocabulary.
"""

import keras
import numpy as np
import tensorflow as tf

from .head import SoftmaxHead
from .head_training import HeadTraining, product_of_weights
from .hidden_states import as_targets
from .search import TopK
from .tying import embeds, layer_at, path_of


@keras.saving.register_keras_serializable(package="adaptive")
class SoftmaxModel(HeadTraining, keras.Model):
    """Trains a backbone by the loss of a head, without ever forming all probabilities.

    `fit(x, y, sample_weight=...)` and `evaluate` take integer targets and report loss and
    perplexity, `sum(w * nll) / sum(w)` over the whole epoch; `predict` returns `TopK`.
    `call` returns the hidden states, so that metrics of Keras, which look at what `call` returns,
    are refused.

    Weights may have the targets' shape or be one for each row; positions that the backbone masks,
    and targets equal to the head's `ignore_index`, count 0.

    Args:
      backbone: a layer or model from inputs to hidden states `[..., D]`.
      head: an `AdaptiveSoftmax`, `AdaptiveLogSoftmaxWithLoss` or `SampledSoftmax`. If it is tied,
        then to an embedding in the backbone; a file keeps the tie.
      top_k: how many ids `predict` and the exported model return; at most V are.
      **kwargs: of `keras.Model`.

    Call arguments:
      inputs: the backbone's.

    Returns:
      Hidden states `[..., D]`.

    Raises:
      ValueError: for another kind of head, or a head that is tied to tensors or to an embedding
        outside of the backbone.

    Example:
      >>> backbone = keras.Sequential([keras.layers.Embedding(1000, 32), keras.layers.GRU(32)])
      >>> model = SoftmaxModel(backbone, AdaptiveSoftmax(32, 1000, cutoffs=[100, 300]))
      >>> model.compile("adam", metrics=["accuracy"])
      >>> x, y = np.zeros([8, 5], int), np.zeros([8], int)
      >>> history = model.fit(x, y, verbose=0)
      >>> model.predict(x, verbose=0).ids.shape
      (8, 10)
    """

    offers_metrics = True

    def __init__(self, backbone, head, top_k=10, **kwargs):
        super().__init__(**kwargs)
        if not isinstance(head, SoftmaxHead):
            raise ValueError(
                "The head must be an AdaptiveSoftmax, an AdaptiveLogSoftmaxWithLoss or a "
                f"SampledSoftmax. Received: {head!r}."
            )
        if not isinstance(top_k, int) or top_k < 1:
            raise ValueError(f"top_k must be a positive integer. Received: top_k={top_k!r}.")
        self.supports_masking = True
        self.backbone = backbone
        self.head = head
        self.top_k = top_k
        self._make_metrics()
        # How many targets were in tails; read once an epoch.
        self._tail_share = keras.metrics.Mean(name="tail_share")
        if head.tied_to is not None and path_of(backbone, head.tied_to) is None:
            raise ValueError(
                "The embedding that the head is tied to must be in the backbone, where a file "
                f"finds it again. Received: {head.tied_to.name!r}, which is not."
            )

    def build(self, input_shape=None):
        if not self.backbone.built and input_shape is not None:
            self.backbone.build(input_shape)
        if not self.head.built and self.head.input_dim is not None:
            self.head.build((None, self.head.input_dim))

    def call(self, inputs, training=None):
        hidden = self.backbone(inputs, training=training)
        if not self.head.built:
            self.head.build(tuple(hidden.shape))
        return hidden

    def summed_loss(self, x, y, sample_weight, training):
        targets = as_targets(y, self.head.ignore_index)
        if targets.shape.rank is None:
            raise ValueError(
                "Targets must have a known number of axes. Received: targets of unknown rank. "
                "Give tf.data.Dataset.from_generator an output_signature, or map the dataset with "
                "tf.ensure_shape(y, [None, None])."
            )
        hidden = self(x, training=training)
        if targets.shape.rank == len(hidden.shape) and targets.shape[-1] == 1:
            targets = targets[..., 0]
        weights = self._weights(hidden, targets, sample_weight)
        summed = self.head.loss(hidden, targets, weights, training=training)
        in_tails = self.head.clusters.shortlist <= self.head.id_order.to_ranks(
            tf.clip_by_value(targets, 0, self.head.clusters.vocab_size - 1)
        )
        counted = tf.reshape(weights > 0, [-1])
        self._tail_share.update_state(tf.reshape(in_tails, [-1]), sample_weight=counted)
        return summed, weights, hidden

    def _weights(self, hidden, targets, sample_weight):
        """float32, of the shape of the targets."""
        mask = getattr(hidden, "_keras_mask", None)  # where Keras keeps what a layer masks
        weights = product_of_weights(targets, sample_weight, mask)
        return self.head.target_weights(targets, weights)

    def likeliest(self, hidden, k):
        return self.head.top_k(hidden, min(k, self.head.clusters.vocab_size)).ids

    def predict_step(self, data):
        x, _, _ = keras.utils.unpack_x_y_sample_weight(data)
        return self.serve(x)

    def serve(self, inputs) -> TopK:
        """The likeliest ids for inputs, as `predict` and the exported model return them.

        Args:
          inputs: the backbone's, tensors.

        Returns:
          `TopK`, `[..., top_k]` each.
        """
        hidden = self(inputs, training=False)
        return self.head.top_k(hidden, min(self.top_k, self.head.clusters.vocab_size))

    def get_metrics_result(self):
        # Called on the host at the end of an epoch, where reading is free.
        if self.head.clusters.num_tails:
            seen = int(np.asarray(self._tail_share.count))
            in_tails = int(np.asarray(self._tail_share.total))
            self.head.tail_share.add(seen, in_tails)
            self._tail_share.reset_state()
        return super().get_metrics_result()

    def export(self, filepath, format="tf_saved_model", verbose=None, input_signature=None):
        """Writes a SavedModel that plain TensorFlow loads.

        Its endpoint `serve`, the default signature, returns a dict of `ids` and
        `log_probabilities`, `[..., top_k]` each.

        Args:
          filepath: of the folder to write.
          format: must be "tf_saved_model".
          verbose: whether to print what was written; None for yes.
          input_signature: one `tf.TensorSpec` in a list; None for the backbone's input, int32
            where it embeds ids, and int32 `[None, None]` where it does not say.

        Raises:
          ValueError: for another format.
        """
        if format != "tf_saved_model":
            raise ValueError(
                f'SoftmaxModel exports to "tf_saved_model". Received: format={format!r}.'
            )
        archive = keras.export.ExportArchive()
        archive.track(self)
        signature = input_signature or [self._serving_spec()]
        archive.add_endpoint("serve", lambda inputs: self.serve(inputs)._asdict(), signature)
        archive.write_out(filepath, verbose=verbose is not False)

    def _serving_spec(self):
        inputs = getattr(self.backbone, "inputs", None)
        if not inputs:
            return tf.TensorSpec([None, None], tf.int32, name="inputs")
        if len(inputs) != 1:
            raise ValueError(
                "A backbone with several inputs needs an input_signature. "
                f"Received: {len(inputs)} inputs."
            )
        # Keras declares ids as floats where nobody says otherwise.
        dtype = tf.int32 if embeds(self.backbone) else inputs[0].dtype
        return tf.TensorSpec((None, *inputs[0].shape[1:]), dtype, name="inputs")

    def get_config(self):
        head = keras.saving.serialize_keras_object(self.head)
        if self.head.tied_to is not None:
            head["config"]["tied_to"] = None
        return {
            **super().get_config(),
            "backbone": keras.saving.serialize_keras_object(self.backbone),
            "head": head,
            "top_k": self.top_k,
            "tied_to": path_of(self.backbone, self.head.tied_to),
        }

    @classmethod
    def from_config(cls, config, custom_objects=None):
        config = {**config}
        backbone = keras.saving.deserialize_keras_object(config.pop("backbone"), custom_objects)
        head, path = config.pop("head"), config.pop("tied_to")
        if path is not None:
            tied_to = layer_at(backbone, path)
            head = {**head, "config": {**head["config"], "tied_to": tied_to}}
        head = keras.saving.deserialize_keras_object(head, custom_objects)
        return cls(backbone, head, **config)
