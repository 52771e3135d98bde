"""SampledSoftmax: a softmax that training computes over a sample of the classes.

T tokens after flattening, D width of the hidden states, V classes, n sampled classes.
"""

import numbers

import keras
import numpy as np
import tensorflow as tf

from .clusters import Clusters
from .cost_model import check_positive
from .factored import Linear
from .head import SoftmaxHead
from .id_order import IdOrder
from .rows import rows_of
from .sampling import gumbel
from .tying import check_one_table, tied_layer_from
from .weights import add_weight, weight_config

SAMPLERS = ("log_uniform", "uniform", "unigram")


@keras.saving.register_keras_serializable(package="adaptive")
class SampledSoftmax(SoftmaxHead):
    """A softmax over V classes, trained on the targets and `num_sampled` other classes.

    `nll` and `loss` with `training=True` estimate the sum over all classes in
    `-log(exp(x_t) / sum_j exp(x_j))` from one sample for the whole batch, drawn without
    replacement; everything else is the exact softmax, from the same weights.

    The sample is made of the `n` largest of `log q_j + g_j`, with `q` the sampler's distribution
    and `g_j` Gumbel noise. Given the next largest, `k`, class `j` is in it with probability
    `p_j = 1 - exp(-exp(log q_j - k))`, so that the expectation of
    `exp(x_t) + sum_{j in sample, j != t} exp(x_j) / p_j` is the sum over all classes: a class is
    in the sample at most once, a target that was drawn too (an accidental hit) is counted once,
    and with `num_sampled = V` the loss is that of the full softmax.

    Sampled softmax: Jean et al. (2015), "On using very large target vocabulary for neural machine
    translation", section 3; the sample and its weights: Kool et al. (2019), "Stochastic beams and
    where to find them", section 4.2, and Duffield et al. (2007), "Priority sampling".

    Args:
      num_sampled: classes in the sample, `n`; from 1 to `num_classes`.
      num_classes: number of classes, `V`.
      input_dim: width of the hidden states, `D`; None takes it from the first call.
      sampler: `"log_uniform"`, `log(1 + 1 / (rank + 1)) / log(V + 1)`, for classes sorted by
        falling frequency or with `id_order`; `"uniform"`; or `"unigram"`, in proportion to
        `counts`.
      counts: `[V]`, how often each class occurs, for the unigram sampler; a class of count 0 is
        drawn like one of half the smallest other count.
      use_bias: whether classes have biases.
      tied_to: an embedding whose table is the kernel: a `keras.layers.Embedding` or an
        `AdaptiveEmbedding` without cutoffs and projection. See `AdaptiveSoftmax`.
      kernel_initializer, kernel_regularizer, kernel_constraint: of the kernel `[V, D]`.
      bias_initializer, bias_regularizer, bias_constraint: of the biases `[V]`.
      id_order: `[V]`, the classes from the commonest to the rarest, for the log-uniform sampler,
        where they are not sorted; see `id_order_from_counts`. The kernel's rows are by class.
      ignore_index: a target that costs nothing and has no gradient; None for none.
      seed: of the samples, an int; None for a random one.

    Call arguments:
      hidden: `[..., D]`.

    Returns:
      Probabilities, float32 `[..., V]`.

    Raises:
      ValueError: for a value outside its rule, or a layer that cannot be tied to.

    Example:
      >>> head = SampledSoftmax(num_sampled=8, num_classes=1000, input_dim=32)
      >>> head.loss(tf.zeros([4, 32]), tf.constant([5, 1, 999, 0]), training=True).shape
      TensorShape([])
    """

    def __init__(
        self,
        num_sampled,
        num_classes,
        input_dim=None,
        sampler="log_uniform",
        counts=None,
        use_bias=True,
        tied_to=None,
        kernel_initializer="glorot_uniform",
        kernel_regularizer=None,
        kernel_constraint=None,
        bias_initializer="zeros",
        bias_regularizer=None,
        bias_constraint=None,
        id_order=None,
        ignore_index=None,
        seed=None,
        **kwargs,
    ):
        if "label_smoothing" in kwargs:
            raise ValueError(
                "A sample cannot give label smoothing exactly, so SampledSoftmax does not have it. "
                f"Received: label_smoothing={kwargs['label_smoothing']}. Use an AdaptiveSoftmax."
            )
        # Rows of the kernel are by class: ranks matter to the sampler only.
        super().__init__(input_dim, Clusters(num_classes), None, ignore_index, **kwargs)
        if input_dim is not None:
            check_positive(input_dim=input_dim)
        if not isinstance(num_sampled, numbers.Integral) or not 1 <= num_sampled <= num_classes:
            raise ValueError(
                f"num_sampled must be an integer from 1 to num_classes={num_classes}. "
                f"Received: {num_sampled!r}."
            )
        self.num_sampled = num_sampled
        self.num_classes = num_classes
        self.sampler = sampler
        self.counts = None if counts is None else np.asarray(counts, np.float64)
        self.use_bias = use_bias
        self.tied_to = tied_to
        self.kernel_initializer = keras.initializers.get(kernel_initializer)
        self.kernel_regularizer = keras.regularizers.get(kernel_regularizer)
        self.kernel_constraint = keras.constraints.get(kernel_constraint)
        self.bias_initializer = keras.initializers.get(bias_initializer)
        self.bias_regularizer = keras.regularizers.get(bias_regularizer)
        self.bias_constraint = keras.constraints.get(bias_constraint)
        self.frequency_order = IdOrder(id_order, num_classes)
        self.seed = seed
        self.seed_generator = keras.random.SeedGenerator(seed, name="sample_seed")
        self._log_q = _log_distribution(sampler, num_classes, self.counts, self.frequency_order)
        if tied_to is not None:
            check_one_table(tied_to, num_classes, input_dim)

    def build(self, input_shape=None):
        if self.built:
            return
        width = self.input_dim if self.input_dim is not None else (input_shape or [None])[-1]
        if width is None:
            raise ValueError(
                "SampledSoftmax needs the width of the hidden states. "
                f"Received: shape {input_shape}. Pass input_dim."
            )
        if self.tied_to is not None:
            check_one_table(self.tied_to, self.num_classes, width)
            if not self.tied_to.built:
                self.tied_to.build(None)
        self.width = width
        shape = (self.num_classes, width)
        tied = self.tied_to is not None
        self._own_kernel = None if tied else add_weight(self, "kernel", shape, "kernel")
        self.bias = add_weight(self, "bias", shape[:1], "bias") if self.use_bias else None

    @property
    def kernel(self):
        """The table, `[V, D]`, its own or the embedding's."""
        if self.tied_to is None:
            return self._own_kernel
        if isinstance(self.tied_to, keras.layers.Embedding):
            return self.tied_to.embeddings
        return self.tied_to.tables[0]

    def linears(self):
        bias = None if self.bias is None else tf.convert_to_tensor(self.bias)
        return (Linear(tf.convert_to_tensor(self.kernel), bias, None),)

    def draw_sample(self):
        """The classes of the next training call.

        Returns:
          The pair (ids, int32 `[n]`; the logarithm of each one's probability of being in the
          sample, float32 `[n]`).
        """
        seed = tf.bitcast(tf.cast(self.seed_generator.next(), tf.uint32), tf.int32)
        log_q = tf.constant(self._log_q)
        perturbed = log_q + gumbel([self.num_classes], seed)
        if self.num_sampled == self.num_classes:
            return tf.range(self.num_classes), tf.zeros([self.num_classes])
        # Which classes are in it matters, and the next largest value, but not their order.
        values, ids = tf.math.top_k(perturbed, self.num_sampled + 1)
        ids = ids[:-1]
        excess = tf.gather(log_q, ids) - values[-1]
        return ids, tf.math.log(-tf.math.expm1(-tf.exp(excess)))

    def _nll(self, features, ranks, training, outside_xla=False):
        if not training:
            return super()._nll(features, ranks, training, outside_xla)
        sample, log_inclusion = self.draw_sample()
        ids = tf.concat([ranks, sample], 0)
        # One look at the table, so that its gradient has each row once.
        rows = tf.cast(rows_of(tf.convert_to_tensor(self.kernel), ids), features.dtype)
        count = tf.shape(ranks)[0]
        true = tf.cast(tf.reduce_sum(features * rows[:count], -1), tf.float32)
        others = tf.cast(tf.matmul(features, rows[count:], transpose_b=True), tf.float32)
        if self.bias is not None:
            bias = tf.cast(rows_of(tf.convert_to_tensor(self.bias), ids), tf.float32)
            true += bias[:count]
            others += bias[count:]
        hit = ranks[:, None] == sample
        others = tf.where(hit, float("-inf"), others - log_inclusion)
        return tf.reduce_logsumexp(tf.concat([true[:, None], others], -1), -1) - true

    def _loss(self, features, ranks, weights, training, outside_xla=False):
        if not training:
            return super()._loss(features, ranks, weights, training)
        nll = self._nll(features, ranks, training, outside_xla)
        return tf.reduce_sum(weights * nll), nll

    def save_own_variables(self, store):
        super().save_own_variables(store)
        # Keras leaves seeds out, so that a loaded model would draw its first samples again.
        store["sample_seed"] = np.asarray(self.seed_generator.state)

    def load_own_variables(self, store):
        values = {name: store[name] for name in list(store.keys())}
        if "sample_seed" in values:
            self.seed_generator.state.assign(np.asarray(values.pop("sample_seed")))
        if not self.built and self.input_dim is None and values:
            # Keras passes over an error here in silence, so the width is found in what there is.
            tied = self.tied_to is not None
            self.build((None, self.tied_to.output_dim if tied else values["0"].shape[-1]))
        super().load_own_variables(values)

    def get_config(self):
        kinds = ("kernel", "bias")
        return {
            **super().get_config(),
            "num_sampled": self.num_sampled,
            "num_classes": self.num_classes,
            "input_dim": self.input_dim,
            "sampler": self.sampler,
            "counts": None if self.counts is None else self.counts.tolist(),
            "use_bias": self.use_bias,
            "tied_to": keras.saving.serialize_keras_object(self.tied_to),
            **weight_config(self, kinds, kinds),
            "id_order": self.frequency_order.config(),
            "seed": self.seed,
        }

    @classmethod
    def from_config(cls, config):
        return cls(**{**config, "tied_to": tied_layer_from(config["tied_to"], cls.__name__)})


def _log_distribution(sampler, num_classes, counts, order):
    """`log q` of each class, float32 `[V]`."""
    if sampler not in SAMPLERS:
        raise ValueError(f"sampler must be one of {SAMPLERS}. Received: {sampler!r}.")
    if (counts is not None) != (sampler == "unigram"):
        raise ValueError(
            "The unigram sampler needs counts, the others take none. "
            f"Received: sampler={sampler!r}, counts {'given' if counts is not None else 'None'}."
        )
    if sampler == "uniform":
        return np.full(num_classes, -np.log(num_classes), np.float32)
    if sampler == "log_uniform":
        ranks = np.arange(num_classes) if order.ids is None else order.ranks
        log_q = np.log(np.log1p(1 / (ranks + 1.0))) - np.log(np.log(num_classes + 1.0))
        return log_q.astype(np.float32)
    usable = counts.shape == (num_classes,) and np.all(np.isfinite(counts) & (counts >= 0))
    if not usable or not counts.any():
        raise ValueError(
            f"counts must be {num_classes} finite numbers of at least 0, not all 0. "
            f"Received: shape {counts.shape}, from {counts.min()} to {counts.max()}."
        )
    positive = np.where(counts > 0, counts, counts[counts > 0].min() / 2)
    return np.log(positive / positive.sum()).astype(np.float32)
