"""AdaptiveSoftmax: a softmax over a frequency-sorted vocabulary that is cheap in training.

T tokens after flattening, D width of the hidden states, V vocabulary, C clusters, E a cluster's
embedding width.
"""

import keras
import tensorflow as tf

from .clusters import Clusters, per_cluster, projected
from .cross_entropy import Rows, linear_loss, linear_nll
from .initializers import fresh
from .tying import check_tie, with_tied


@keras.saving.register_keras_serializable(package="adaptive")
class AdaptiveSoftmax(keras.layers.Layer):
    """The distribution over ids sorted by falling frequency, factored by clusters.

    The head is a softmax over the commonest words and one column for each tail;
    `log p(w in tail i) = log p(column i | head) + log p(w | tail i)`. Training computes the head
    for every token and a tail only for the tokens whose target is in it.

    Cluster `i` has a table `[size_i, E_i]` with `E_i = embed_dim // div_val**i`, a bias `[size_i]`
    and, where needed, a projection `[E_i, input_dim]` that brings the hidden states to the
    table's width. The head's further columns are `cluster_kernel [C - 1, E_0]` and
    `cluster_bias [C - 1]`; column `shortlist + i - 1` stands for tail `i`.

    Grave et al. (2017), "Efficient softmax approximation for GPUs", section 4; tying as in
    Baevski and Auli (2019), section 3.

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
      bind_embeddings: whether to use the tables of `tied_to`, one bool or one for each cluster;
        None means wherever there is a layer to tie to.
      bind_projections: the same for the projections. A cluster without a projection has none to
        bind.
      tied_to: the `AdaptiveEmbedding` whose weights are used. The layer itself is passed, not its
        variables, so that saving and loading keeps one copy of each and the tie.
      kernel_initializer: of the tables and of `cluster_kernel`.
      bias_initializer: of the biases and of `cluster_bias`.
      projections_initializer: of the projections.

    Call arguments:
      hidden: float tensor `[..., input_dim]`.

    Returns:
      Probabilities, float32 `[..., output_dim]`; for training use `loss` or `nll`, which do not
      compute the whole vocabulary.

    Raises:
      ValueError: for unusable cutoffs or widths, or if `tied_to` does not fit.

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
        bind_embeddings=None,
        bind_projections=None,
        tied_to=None,
        kernel_initializer="glorot_uniform",
        bias_initializer="zeros",
        projections_initializer="glorot_uniform",
        **kwargs,
    ):
        # Weights are cast where they are used; see `cross_entropy`.
        super().__init__(autocast=False, **kwargs)
        self.input_spec = keras.layers.InputSpec(min_ndim=1, axes={-1: input_dim})
        self.input_dim = input_dim
        self.output_dim = output_dim
        self.embed_dim = input_dim if embed_dim is None else embed_dim
        self.div_val = div_val
        self.use_bias = use_bias
        self.force_projection = force_projection
        self.tied_to = tied_to
        self.kernel_initializer = keras.initializers.get(kernel_initializer)
        self.bias_initializer = keras.initializers.get(bias_initializer)
        self.projections_initializer = keras.initializers.get(projections_initializer)
        self.clusters = Clusters(output_dim, cutoffs)
        self.cutoffs = self.clusters.cutoffs
        self.widths = self.clusters.widths(self.embed_dim, div_val)
        self.projected = projected(self.widths, input_dim, force_projection, div_val)
        num_clusters, tied = self.clusters.num_clusters, tied_to is not None
        self.bind_embeddings = per_cluster(
            tied if bind_embeddings is None else bind_embeddings, num_clusters, "bind_embeddings"
        )
        self.bind_projections = per_cluster(
            tied if bind_projections is None else bind_projections, num_clusters, "bind_projections"
        )
        check_tie(self)

    def build(self, input_shape=None):
        del input_shape  # the weights do not depend on it
        if self.tied_to is not None and not self.tied_to.built:
            self.tied_to.build(None)
        kernel, bias = self.kernel_initializer, self.bias_initializer

        def weight(name, shape, init):
            return self.add_weight(name=name, shape=shape, initializer=fresh(init), autocast=False)

        shapes = tuple(zip(self.clusters.sizes, self.widths))
        # Only weights of its own are attributes: Keras would save tied ones a second time here.
        self._own_tables = tuple(
            None if bind else weight(f"table_{i}", shapes[i], kernel)
            for i, bind in enumerate(self.bind_embeddings)
        )
        self._own_projections = tuple(
            weight(
                f"projection_{i}", (self.widths[i], self.input_dim), self.projections_initializer
            )
            if has_projection and not bind
            else None
            for i, (bind, has_projection) in enumerate(zip(self.bind_projections, self.projected))
        )
        self.biases = tuple(
            weight(f"bias_{i}", (size,), bias) if self.use_bias else None
            for i, size in enumerate(self.clusters.sizes)
        )
        tails = self.clusters.num_tails
        self.cluster_kernel = self.cluster_bias = None
        if tails:
            self.cluster_kernel = weight("cluster_kernel", (tails, self.widths[0]), kernel)
            self.cluster_bias = weight("cluster_bias", (tails,), bias) if self.use_bias else None

    @property
    def tables(self):
        return with_tied(self._own_tables, self.bind_embeddings, self.tied_to, "tables")

    @property
    def projections(self):
        bind = [bind and has for bind, has in zip(self.bind_projections, self.projected)]
        return with_tied(self._own_projections, bind, self.tied_to, "projections")

    def load_own_variables(self, store):
        # Not built yet in a model whose `call` does not use this layer, only `nll` or `loss`.
        if not self.built and store.keys():
            self.build(None)
        super().load_own_variables(store)

    def call(self, hidden):
        return tf.exp(self._log_prob(hidden))

    def log_prob(self, hidden):
        """The log-probability of every id.

        Args:
          hidden: `[..., D]`.

        Returns:
          float32 `[..., V]`.
        """
        self._prepare(hidden)
        return self._log_prob(hidden)

    def nll(self, hidden, targets, training=None):
        """The negative log-likelihood of each target, in the order of the input.

        Right for any upstream gradient; the backward pass computes the logits a second time. Of
        the tails, only what the targets need is computed.

        Args:
          hidden: `[..., D]`.
          targets: int `[...]`, ids from 0 to V - 1.
          training: not used; here so that every head can be called alike.

        Returns:
          float32 `[...]`.

        Raises:
          ValueError: if the shapes do not fit, or, in eager calls, for ids outside the vocabulary.
        """
        del training
        features, targets, shape = self._flatten(hidden, targets)
        nll = tf.zeros(tf.shape(targets))
        for inputs, table, bias, local, rows in self._softmaxes(features, targets):
            nll += linear_nll(inputs, table, bias, local, rows)
        return tf.reshape(nll, shape)

    def loss(self, hidden, targets, sample_weight=None, training=None):
        """The weighted sum of the negative log-likelihoods, by the path made for training.

        With `training=True` the gradients are formed together with the loss, so that each logit
        is computed once; otherwise none is formed unless a tape asks.

        Args:
          hidden: `[..., D]`.
          targets: int `[...]`, ids from 0 to V - 1.
          sample_weight: float `[...]`, what each token counts for; None means 1. It has no
            gradient.
          training: whether gradients will be wanted.

        Returns:
          float32 scalar.

        Raises:
          ValueError: as `nll`.
        """
        features, targets, shape = self._flatten(hidden, targets)
        weights = tf.ones(tf.shape(targets))
        if sample_weight is not None:
            sample_weight = tf.cast(tf.convert_to_tensor(sample_weight), tf.float32)
            _check_leading_shape("sample_weight", sample_weight, hidden)
            known = sample_weight.shape.is_fully_defined() and targets.shape.is_fully_defined()
            if not known:
                # Sizes known only when it runs, where one weight would stand for all.
                tf.debugging.assert_equal(tf.shape(sample_weight), shape, "sample_weight")
            weights = tf.stop_gradient(tf.reshape(sample_weight, [-1]))
        total = tf.zeros([])
        for inputs, table, bias, local, rows in self._softmaxes(features, targets):
            if training:
                total += linear_loss(inputs, table, bias, local, weights, rows)
            else:
                total += tf.reduce_sum(weights * linear_nll(inputs, table, bias, local, rows))
        return total

    def _softmaxes(self, hidden, targets):
        """The softmaxes whose losses add up to the tokens': the head, then each tail.

        Yields:
          inputs `[T, E_i]`, table, bias, targets inside it `[T]`, the `Rows` that need it.
        """
        clusters = self.clusters
        cluster_of_target = clusters.cluster_of(targets)
        columns = tf.where(
            cluster_of_target == 0, targets, clusters.shortlist + cluster_of_target - 1
        )
        yield (*self._linear(hidden, 0), columns, None)
        if not clusters.num_tails:
            return
        # Tokens in the order of their clusters: each tail's are then one run of that order.
        order = tf.argsort(cluster_of_target, stable=True)
        start = tf.reduce_sum(tf.cast(cluster_of_target == 0, tf.int32))
        for i in range(1, clusters.num_clusters):
            count = tf.reduce_sum(tf.cast(cluster_of_target == i, tf.int32))
            rows = Rows(order, start, count)
            yield (*self._linear(hidden, i), clusters.local(targets, i), rows)
            start += count

    def _linear(self, hidden, i):
        """Cluster `i`'s inputs, table and bias; the head's with a row for each tail."""
        if self.projections[i] is not None:
            projection = tf.cast(self.projections[i], self.compute_dtype)
            hidden = tf.matmul(hidden, projection, transpose_b=True)
        table = tf.convert_to_tensor(self.tables[i])
        bias = tf.convert_to_tensor(self.biases[i]) if self.use_bias else tf.zeros(table.shape[:1])
        if i == 0 and self.clusters.num_tails:
            table = tf.concat([table, self.cluster_kernel], 0)
            more = self.cluster_bias if self.use_bias else tf.zeros([self.clusters.num_tails])
            bias = tf.concat([bias, more], 0)
        return hidden, table, bias

    def _log_prob(self, hidden):
        hidden = tf.cast(hidden, self.compute_dtype)
        leading = tf.shape(hidden)[:-1]
        features = tf.reshape(hidden, [-1, self.input_dim])

        def log_softmax(i):
            inputs, table, bias = self._linear(features, i)
            logits = tf.matmul(inputs, tf.cast(table, inputs.dtype), transpose_b=True)
            return tf.nn.log_softmax(tf.cast(logits, tf.float32) + tf.cast(bias, tf.float32))

        shortlist = self.clusters.shortlist
        head = log_softmax(0)
        parts = [head[:, :shortlist]]
        for i in range(1, self.clusters.num_clusters):
            column = shortlist + i - 1
            parts.append(head[:, column : column + 1] + log_softmax(i))
        log_prob = tf.reshape(tf.concat(parts, -1), tf.concat([leading, [self.output_dim]], 0))
        return tf.ensure_shape(log_prob, [*hidden.shape[:-1], self.output_dim])

    def _flatten(self, hidden, targets):
        """Hidden states `[T, D]` in the compute dtype, int32 targets `[T]`, the targets' shape."""
        self._prepare(hidden)
        hidden, targets = tf.convert_to_tensor(hidden), tf.convert_to_tensor(targets)
        if not targets.dtype.is_integer:
            raise ValueError(f"Targets must be integer ids. Received: dtype {targets.dtype}.")
        _check_leading_shape("targets", targets, hidden)
        self.clusters.check_ids(targets, "The targets of AdaptiveSoftmax")
        shape = tf.shape(targets)
        targets = tf.cast(tf.reshape(targets, [-1]), tf.int32)
        hidden = tf.cast(tf.reshape(hidden, [-1, self.input_dim]), self.compute_dtype)
        return hidden, targets, shape

    def _prepare(self, hidden):
        if isinstance(hidden, keras.KerasTensor):
            raise ValueError(
                f"{type(self).__name__}'s methods compute on tensors; in a functional model call "
                "the layer itself. Received a symbolic KerasTensor."
            )
        if hidden.shape[-1] != self.input_dim:
            raise ValueError(
                f"Hidden states must be input_dim={self.input_dim} wide. "
                f"Received: shape {hidden.shape}."
            )
        if not self.built:
            self.build(None)

    def compute_output_spec(self, hidden):
        return keras.KerasTensor((*hidden.shape[:-1], self.output_dim), dtype="float32")

    def get_config(self):
        return {
            **super().get_config(),
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
            "kernel_initializer": keras.initializers.serialize(self.kernel_initializer),
            "bias_initializer": keras.initializers.serialize(self.bias_initializer),
            "projections_initializer": keras.initializers.serialize(self.projections_initializer),
        }

    @classmethod
    def from_config(cls, config):
        tied_to = keras.saving.deserialize_keras_object(config["tied_to"])
        return cls(**{**config, "tied_to": tied_to})


def _check_leading_shape(name, tensor, hidden):
    if not tensor.shape.is_compatible_with(hidden.shape[:-1]):
        raise ValueError(
            f"{name} must have the shape of the hidden states without the last axis. "
            f"Received: {name} {tensor.shape}, hidden {hidden.shape}."
        )
