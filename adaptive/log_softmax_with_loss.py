"""AdaptiveLogSoftmaxWithLoss: the adaptive softmax with PyTorch's interface and weights.

D width of the hidden states, V classes, C clusters.
"""

import keras
import tensorflow as tf

from .clusters import Clusters
from .factored import Linear
from .head import SoftmaxHead
from .hidden_states import check_width
from .weights import add_weight, weight_config


@keras.saving.register_keras_serializable(package="adaptive")
class AdaptiveLogSoftmaxWithLoss(SoftmaxHead):
    """The adaptive softmax as `torch.nn.AdaptiveLogSoftmaxWithLoss` has it.

    The head sees the hidden states as they are; tail `i` brings them to the width
    `in_features // div_value**i`; tails have no biases, the head has them if asked to. Weights
    have PyTorch's shapes: `head_kernel [cutoffs[0] + C - 1, D]`, and for tail `i`
    `projections[i] [E_i, D]` and `tables[i] [size_i, E_i]`.

    Grave et al. (2017), "Efficient softmax approximation for GPUs", section 4.

    Args:
      in_features: width of the hidden states, `D`.
      n_classes: number of classes, `V`, sorted by falling frequency.
      cutoffs: rising classes where a new cluster begins, without `n_classes`.
      div_value: by how much a cluster is narrower than the one before; at least 1.
      head_bias: whether the head's columns have biases.
      kernel_initializer, kernel_regularizer, kernel_constraint: of all weights but the biases.
        PyTorch starts with `VarianceScaling(1 / 3, "fan_out", "uniform")`, as Keras calls the
        width of the hidden states here: the weights are `[out, in]`.
      bias_initializer, bias_regularizer, bias_constraint: of the head's biases.
      id_order: `[n_classes]`, the classes from the commonest to the rarest, where they are not
        sorted; see `id_order_from_counts`.
      ignore_index: a target that counts neither in the sum nor in the mean; None for none.
      label_smoothing: the share of each target that training spreads evenly over all classes, in
        `nll` and `loss` with `training=True`.

    Call arguments:
      input: hidden states `[..., D]`.
      target: int `[...]`, classes; None for the log-probabilities of all.

    Returns:
      The pair `(output, loss)`, as PyTorch does: the log-probability of each target, float32
      `[...]` (0 where ignored), and the mean of their negatives, a float32 scalar. Without a
      target, `log_prob(input)`: float32 `[..., V]`.

    Raises:
      ValueError: for unusable cutoffs or widths; as `nll` for the call.

    Example:
      >>> layer = AdaptiveLogSoftmaxWithLoss(32, 30, cutoffs=[5, 15, 25], div_value=2.0)
      >>> output, loss = layer(tf.zeros([3, 32]), tf.constant([0, 7, 29]))
      >>> output.shape, loss.shape
      (TensorShape([3]), TensorShape([]))
    """

    def __init__(
        self,
        in_features,
        n_classes,
        cutoffs,
        div_value=4.0,
        head_bias=False,
        kernel_initializer="glorot_uniform",
        kernel_regularizer=None,
        kernel_constraint=None,
        bias_initializer="zeros",
        bias_regularizer=None,
        bias_constraint=None,
        id_order=None,
        ignore_index=None,
        label_smoothing=0.0,
        **kwargs,
    ):
        clusters = Clusters(n_classes, cutoffs)
        super().__init__(in_features, clusters, id_order, ignore_index, label_smoothing, **kwargs)
        self.in_features = in_features
        self.n_classes = n_classes
        self.cutoffs = clusters.cutoffs
        self.div_value = div_value
        self.head_bias = head_bias
        self.kernel_initializer = keras.initializers.get(kernel_initializer)
        self.kernel_regularizer = keras.regularizers.get(kernel_regularizer)
        self.kernel_constraint = keras.constraints.get(kernel_constraint)
        self.bias_initializer = keras.initializers.get(bias_initializer)
        self.bias_regularizer = keras.regularizers.get(bias_regularizer)
        self.bias_constraint = keras.constraints.get(bias_constraint)
        self.widths = clusters.widths(in_features, div_value, name="div_value")

    def build(self, input_shape=None):
        del input_shape  # the weights do not depend on it
        if self.built:
            return
        columns = self.clusters.shortlist + self.clusters.num_tails
        tails = list(zip(self.clusters.sizes, self.widths))[1:]
        self.head_kernel = add_weight(self, "head_kernel", (columns, self.width), "kernel")
        self.head_biases = (
            add_weight(self, "head_bias", (columns,), "bias") if self.head_bias else None
        )
        self.projections = (None,) + tuple(
            add_weight(self, f"projection_{i}", (width, self.width), "kernel", 2 * i - 1)
            for i, (_, width) in enumerate(tails, 1)
        )
        self.tables = (None,) + tuple(
            add_weight(self, f"table_{i}", (size, width), "kernel", 2 * i)
            for i, (size, width) in enumerate(tails, 1)
        )

    def linears(self):
        kernel, size = tf.convert_to_tensor(self.head_kernel), self.clusters.shortlist
        biases = None if self.head_biases is None else tf.convert_to_tensor(self.head_biases)
        head = Linear(kernel, biases, None)
        if self.clusters.num_tails:
            bias, column_bias = (None, None) if biases is None else (biases[:size], biases[size:])
            head = Linear(
                kernel[:size], bias, None, kernel[size:], column_bias, joined=(kernel, biases)
            )
        tails = zip(self.tables[1:], self.projections[1:])
        return (
            head,
            *(
                Linear(tf.convert_to_tensor(table), None, tf.convert_to_tensor(projection))
                for table, projection in tails
            ),
        )

    def call(self, input, target=None):
        check_width(self, input)
        if target is None:
            return self._log_prob(input, self.linears())
        nll = self.nll(input, target)
        count = tf.reduce_sum(self.target_weights(target))
        return -nll, tf.math.divide_no_nan(tf.reduce_sum(nll), count)

    def compute_output_spec(self, input, target=None):
        if target is None:
            return super().compute_output_spec(input)
        return (
            keras.KerasTensor(tuple(target.shape), dtype="float32"),
            keras.KerasTensor((), dtype="float32"),
        )

    def compute_mask(self, input, mask=None):
        return mask

    def get_config(self):
        kinds = ("kernel", "bias")
        return {
            **super().get_config(),
            "in_features": self.in_features,
            "n_classes": self.n_classes,
            "cutoffs": list(self.cutoffs),
            "div_value": self.div_value,
            "head_bias": self.head_bias,
            **weight_config(self, kinds, kinds),
            "label_smoothing": self.label_smoothing,
        }
