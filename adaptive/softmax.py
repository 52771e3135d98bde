"""AdaptiveSoftmax: a softmax over a frequency-sorted vocabulary that is cheap in training.

T tokens after flattening, D width of the hidden states, V vocabulary, C clusters, E a cluster's
embedding width.
"""

import numbers
import warnings

import keras
import numpy as np
import tensorflow as tf

from .clusters import Clusters, per_cluster, projected
from .cutoffs import compare_with_full_softmax, optimal_cutoffs
from .factored import Linear
from .head import SoftmaxHead
from .hidden_states import check_width
from .id_order import id_order_from_counts
from .tying import bound_tensors, check_tie, tied_layer_from, with_tied
from .weights import add_weight, weight_config


@keras.saving.register_keras_serializable(package="adaptive")
class AdaptiveSoftmax(SoftmaxHead):
    """The distribution over ids sorted by falling frequency, factored by clusters.

    The head is a softmax over the commonest words and one column for each tail;
    `log p(w in tail i) = log p(column i | head) + log p(w | tail i)`. Training computes the head
    for every token and a tail only for the tokens whose target is in it.

    Cluster `i` has a table `[size_i, E_i]` with `E_i = embed_dim // div_val**i`, a bias `[size_i]`
    and, where needed, a projection `[E_i, input_dim]` that brings the hidden states to the
    table's width. The head's further columns are `cluster_kernel [C - 1, E_0]` and
    `cluster_bias [C - 1]`; column `shortlist + i - 1` stands for tail `i`.

    Grave et al. (2017), "Efficient softmax approximation for GPUs", section 4; tying as in
    Baevski and Auli (2019), section 3. `nll`, `loss`, `log_prob`, `predict`, `top_k` and `sample`
    take tensors `[..., input_dim]`; `SoftmaxModel` trains with them.

    Args:
      input_dim: width of the hidden states, `D`.
      output_dim: number of ids, `V`.
      embed_dim: width of the first cluster's table; None means `input_dim`.
      cutoffs: rising ids where a new cluster begins, without the vocabulary size; None or empty
        for an ordinary softmax.
      div_val: by how much a cluster's table is narrower than the one before; at least 1.
      use_bias: whether words and tails have biases.
      force_projection: True puts a projection before every table, False only before those that
        are not `input_dim` wide; None does as True, except at `div_val=1` with
        `embed_dim == input_dim`, where there is none.
      bind_embeddings: whether to use the tables of an embedding, one bool or one for each
        cluster; None means wherever there is a layer to tie to. They come from `tied_to`, or,
        without it, with each call: see below.
      bind_projections: the same for the projections. A cluster without a projection has none to
        bind.
      tied_to: the `AdaptiveEmbedding` whose weights are used. The layer itself is passed, not its
        variables, so that saving and loading keeps one copy of each and the tie. Two layers that
        are made anew outside of a file, by `from_config` or `clone_model`, cannot find each
        other: that is an error.
      embeddings_initializer, embeddings_regularizer, embeddings_constraint: of the tables.
      kernel_initializer, kernel_regularizer, kernel_constraint: of the projections and of
        `cluster_kernel`.
      bias_initializer, bias_regularizer, bias_constraint: of the biases and of `cluster_bias`.
      cluster_initializer: of `cluster_kernel`; None means `kernel_initializer`.
      id_order: `[V]`, the ids from the commonest to the rarest, for ids that are not sorted by
        frequency; see `id_order_from_counts`. Row `r` of the tables, counted through the
        clusters, is then that of id `id_order[r]`.
      ignore_index: a target that costs nothing and has no gradient; None for none.
      label_smoothing: the share of each target that training spreads evenly over all ids, in
        `nll` and `loss` with `training=True`. Exact, so that training computes the whole
        vocabulary.

    Call arguments:
      inputs: hidden states `[..., input_dim]`; or the list of hidden states and the tensors that
        an `AdaptiveEmbedding(return_embeddings=True, return_projections=True)` returned after its
        first: its tables where `bind_embeddings`, then its projections where `bind_projections`.

    Returns:
      Probabilities, float32 `[..., output_dim]`; for training use `loss` or `nll`, which do not
      compute the whole vocabulary.

    Raises:
      ValueError: for unusable cutoffs or widths, or if what is to be bound does not fit.

    Example:
      >>> head = AdaptiveSoftmax(32, 30, cutoffs=[5, 15, 25], div_val=2)
      >>> head.nll(tf.zeros([2, 3, 32]), tf.constant([[0, 7, 29], [1, 2, 3]])).shape
      TensorShape([2, 3])
    """

    def __init__(
        self,
        input_dim,
        output_dim,
        embed_dim=None,
        cutoffs=None,
        div_val=1,
        use_bias=True,
        force_projection=None,
        embeddings_initializer="uniform",
        embeddings_regularizer=None,
        embeddings_constraint=None,
        kernel_initializer="glorot_uniform",
        kernel_regularizer=None,
        kernel_constraint=None,
        bias_initializer="zeros",
        bias_regularizer=None,
        bias_constraint=None,
        bind_embeddings=None,
        bind_projections=None,
        tied_to=None,
        cluster_initializer=None,
        id_order=None,
        ignore_index=None,
        label_smoothing=0.0,
        **kwargs,
    ):
        clusters = Clusters(output_dim, cutoffs)
        super().__init__(input_dim, clusters, id_order, ignore_index, label_smoothing, **kwargs)
        self.output_dim = output_dim
        self.embed_dim = input_dim if embed_dim is None else embed_dim
        self.cutoffs = clusters.cutoffs
        self.div_val = div_val
        self.use_bias = use_bias
        self.force_projection = force_projection
        self.embeddings_initializer = keras.initializers.get(embeddings_initializer)
        self.embeddings_regularizer = keras.regularizers.get(embeddings_regularizer)
        self.embeddings_constraint = keras.constraints.get(embeddings_constraint)
        self.kernel_initializer = keras.initializers.get(kernel_initializer)
        self.kernel_regularizer = keras.regularizers.get(kernel_regularizer)
        self.kernel_constraint = keras.constraints.get(kernel_constraint)
        self.bias_initializer = keras.initializers.get(bias_initializer)
        self.bias_regularizer = keras.regularizers.get(bias_regularizer)
        self.bias_constraint = keras.constraints.get(bias_constraint)
        self.cluster_initializer = keras.initializers.get(cluster_initializer)
        self.tied_to = tied_to
        self.widths = clusters.widths(self.embed_dim, div_val)
        self.projected = projected(self.widths, input_dim, force_projection, div_val)
        tied, count = tied_to is not None, clusters.num_clusters
        self.bind_embeddings = per_cluster(
            tied if bind_embeddings is None else bind_embeddings, count, "bind_embeddings"
        )
        self.bind_projections = per_cluster(
            tied if bind_projections is None else bind_projections, count, "bind_projections"
        )
        check_tie(self)

    @classmethod
    def from_counts(
        cls,
        counts,
        input_dim,
        num_clusters=None,
        div_val=4,
        batch_size=1024,
        cost_model=None,
        **kwargs,
    ):
        """A layer for ids of known counts, with the cutoffs that make a training step fastest.

        Ids that are not sorted by falling count get an `id_order`. If a full softmax is expected
        to be faster, a warning says so.

        Args:
          counts: `[V]`, how often each id occurs in training.
          input_dim: width of the hidden states.
          num_clusters: the head and the tails together; None for 4, or for as many as there are
            words and as the width of the first table allows, divided by `div_val` for each tail.
          div_val: as of the layer.
          batch_size: tokens in a training step.
          cost_model: what the device takes; None means `CostModel()`, see `measure_cost_model`.
          **kwargs: of the layer.

        Returns:
          An `AdaptiveSoftmax`. An embedding to tie to needs the same `cutoffs`, `div_val` and
          `id_order`: make it with `optimal_cutoffs` first.

        Raises:
          ValueError: as `optimal_cutoffs`, and as the layer.
        """
        counts = np.asarray(counts)
        settings = {
            "embed_dim": kwargs.get("embed_dim"),
            "batch_size": batch_size,
            "cost_model": cost_model,
        }
        if num_clusters is None:
            width = kwargs.get("embed_dim") or input_dim
            num_clusters = _usual_clusters(width, div_val, counts.size)
        cutoffs = optimal_cutoffs(counts, num_clusters, input_dim, div_val, **settings)
        comparison = compare_with_full_softmax(counts, cutoffs, input_dim, div_val, **settings)
        if comparison.speedup < 1:
            warnings.warn(str(comparison), stacklevel=2)
        if np.any(np.diff(counts.astype(np.float64)) > 0):
            kwargs.setdefault("id_order", id_order_from_counts(counts))
        return cls(input_dim, len(counts), cutoffs=cutoffs, div_val=div_val, **kwargs)

    def build(self, input_shape=None):
        del input_shape  # the weights do not depend on it
        if self.built:
            return
        if self.tied_to is not None and not self.tied_to.built:
            self.tied_to.build(None)

        # Only weights of its own are attributes: Keras would save tied ones a second time here.
        self._own_tables = tuple(
            None if bind else add_weight(self, f"table_{i}", (size, width), "embeddings", i)
            for i, (bind, size, width) in enumerate(
                zip(self.bind_embeddings, self.clusters.sizes, self.widths)
            )
        )
        self._own_projections = tuple(
            add_weight(self, f"projection_{i}", (width, self.input_dim), "kernel", i)
            if has_projection and not bind
            else None
            for i, (bind, has_projection, width) in enumerate(
                zip(self.bind_projections, self.projected, self.widths)
            )
        )
        self.biases = tuple(
            add_weight(self, f"bias_{i}", (size,), "bias", i) if self.use_bias else None
            for i, size in enumerate(self.clusters.sizes)
        )
        tails = self.clusters.num_tails
        self.cluster_kernel = self.cluster_bias = None
        if tails:
            shape = (tails, self.widths[0])
            self.cluster_kernel = add_weight(
                self, "cluster_kernel", shape, "kernel", tails + 1, self.cluster_initializer
            )
            self.cluster_bias = (
                add_weight(self, "cluster_bias", (tails,), "bias", tails + 1)
                if self.use_bias
                else None
            )

    @property
    def tables(self):
        """The table of each cluster, `[size_i, E_i]`, its own or the embedding's."""
        return with_tied(self._own_tables, self.bind_embeddings, self.tied_to, "tables")

    @property
    def projections(self):
        """The projection of each cluster, `[E_i, D]`, its own or the embedding's, or None."""
        return with_tied(
            self._own_projections, self._bound_projections, self.tied_to, "projections"
        )

    @property
    def _bound_projections(self):
        return tuple(bind and has for bind, has in zip(self.bind_projections, self.projected))

    @property
    def _needs_tensors(self):
        return self.tied_to is None and any(self.bind_embeddings + self._bound_projections)

    def linears(self):
        return self._linears(self.tables, self.projections)

    def _linears(self, tables, projections):
        weights = zip(tables, self.biases, projections)
        head, *tails = (Linear(*map(_tensor, one)) for one in weights)
        columns = (_tensor(self.cluster_kernel), _tensor(self.cluster_bias))
        return Linear(*head[:3], *columns), *tails

    def call(self, inputs):
        hidden, *given = inputs if isinstance(inputs, (list, tuple)) else [inputs]
        check_width(self, hidden)
        if given or self._needs_tensors:
            linears = self._linears(*bound_tensors(self, given))
        else:
            linears = self.linears()
        return tf.exp(self._log_prob(hidden, linears))

    def compute_mask(self, inputs, mask=None):
        return mask[0] if isinstance(mask, (list, tuple)) else mask

    def compute_output_spec(self, inputs, **kwargs):
        hidden, *given = inputs if isinstance(inputs, (list, tuple)) else [inputs]
        check_width(self, hidden)
        if given or self._needs_tensors:
            bound_tensors(self, given)
        return keras.KerasTensor((*hidden.shape[:-1], self.output_dim), dtype="float32")

    def get_config(self):
        kinds = ("embeddings", "kernel", "bias")
        return {
            **super().get_config(),
            **weight_config(self, (*kinds, "cluster"), kinds),
            "input_dim": self.input_dim,
            "output_dim": self.output_dim,
            "embed_dim": self.embed_dim,
            "cutoffs": list(self.cutoffs),
            "div_val": self.div_val,
            "use_bias": self.use_bias,
            "force_projection": self.force_projection,
            "bind_embeddings": list(self.bind_embeddings),
            "bind_projections": list(self.bind_projections),
            "tied_to": keras.saving.serialize_keras_object(self.tied_to),
            "label_smoothing": self.label_smoothing,
        }

    @classmethod
    def from_config(cls, config):
        return cls(**{**config, "tied_to": tied_layer_from(config["tied_to"], cls.__name__)})


def _usual_clusters(embed_dim, div_val, vocab_size) -> int:
    """How many clusters, at most 4, have words, and tables of at least one column."""
    fitting = 1
    # What is no number at all is refused with the cutoffs.
    numbers_given = all(isinstance(one, numbers.Real) for one in (embed_dim, div_val))
    while numbers_given and fitting < min(4, vocab_size) and embed_dim >= div_val**fitting:
        fitting += 1
    return fitting


def _tensor(weight):
    return None if weight is None else tf.convert_to_tensor(weight)
