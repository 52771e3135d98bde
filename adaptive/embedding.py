"""AdaptiveEmbedding: word vectors whose width falls with the frequency of the word.

B batch, L length, D output width, C clusters, E a cluster's embedding width.
"""

import keras
import numpy as np
import tensorflow as tf

from .clusters import Clusters, projected
from .dense_tensors import refuse_uneven
from .id_order import IdOrder
from .rows import rows_of
from .weights import add_weight, weight_config
from .wide_ids import widened


@keras.saving.register_keras_serializable(package="adaptive")
class AdaptiveEmbedding(keras.layers.Layer):
    """Embeds ids sorted by falling frequency; rarer clusters get narrower tables.

    Cluster `i` has a table `[size_i, E_i]` with `E_i = embed_dim // div_val**i` and, where needed,
    a projection `[E_i, output_dim]`. Each cluster is a variable of its own, also at `div_val=1`:
    slices of one large table would each bring a dense gradient of the whole table.

    Baevski and Auli (2019), "Adaptive input representations for neural language modeling",
    section 3.

    Args:
      input_dim: number of ids.
      output_dim: width of the result, `D`.
      embed_dim: width of the first cluster's table; None means `output_dim`.
      cutoffs: rising ids where a new cluster begins, without the vocabulary size; None or empty
        for one cluster.
      div_val: by how much a cluster's table is narrower than the one before; at least 1.
      force_projection: True puts a projection behind every table, False only behind those that
        are not `output_dim` wide; None does as True, except at `div_val=1` with
        `embed_dim == output_dim`, where there is none.
      embeddings_initializer, embeddings_regularizer, embeddings_constraint: of the tables.
      kernel_initializer, kernel_regularizer, kernel_constraint: of the projections.
      mask_zero: whether id 0 is padding, which later layers are told to skip by a mask. Mind that
        ids are sorted by frequency, where 0 is the commonest word unless padding was put there.
      return_embeddings: whether to return the tables after the vectors, for an
        `AdaptiveSoftmax` in a functional model that binds them.
      return_projections: the same for the projections.
      id_order: `[input_dim]`, the ids from the commonest to the rarest, for ids that are not
        sorted by frequency; see `id_order_from_counts`.

    Call arguments:
      ids: int tensor `[...]`, from 0 to `input_dim - 1`.

    Returns:
      `[..., output_dim]` in the compute dtype. With `return_embeddings` or `return_projections`
      a list: this first, then the C tables, float32 `[size_i, E_i]`, then, if any cluster has
      one, C projections, float32 `[E_i, output_dim]`, a scalar 0 for a cluster without.

    Raises:
      ValueError: for unusable cutoffs or widths, for ids that are not integers, and, in eager
        calls, for ids outside the vocabulary. Compiled code cannot raise: there such an id's
        vector is NaN.

    Example:
      >>> embedding = AdaptiveEmbedding(30, 32, cutoffs=[5, 15, 25], div_val=2)
      >>> embedding(tf.constant([[0, 7, 29]])).shape
      TensorShape([1, 3, 32])
    """

    def __init__(
        self,
        input_dim,
        output_dim,
        embed_dim=None,
        cutoffs=None,
        div_val=1,
        force_projection=None,
        embeddings_initializer="uniform",
        embeddings_regularizer=None,
        embeddings_constraint=None,
        kernel_initializer="glorot_uniform",
        kernel_regularizer=None,
        kernel_constraint=None,
        mask_zero=False,
        return_embeddings=False,
        return_projections=False,
        id_order=None,
        **kwargs,
    ):
        # Rows are cast, not tables; the weights say so too, since a model around this layer may
        # have a mixed policy and cast whatever is read inside it.
        super().__init__(autocast=False, **kwargs)
        self.supports_masking = True
        self.input_dim = input_dim
        self.output_dim = output_dim
        self.embed_dim = output_dim if embed_dim is None else embed_dim
        self.div_val = div_val
        self.force_projection = force_projection
        self.embeddings_initializer = keras.initializers.get(embeddings_initializer)
        self.embeddings_regularizer = keras.regularizers.get(embeddings_regularizer)
        self.embeddings_constraint = keras.constraints.get(embeddings_constraint)
        self.kernel_initializer = keras.initializers.get(kernel_initializer)
        self.kernel_regularizer = keras.regularizers.get(kernel_regularizer)
        self.kernel_constraint = keras.constraints.get(kernel_constraint)
        self.mask_zero = mask_zero
        self.return_embeddings = return_embeddings
        self.return_projections = return_projections
        self.clusters = Clusters(input_dim, cutoffs)
        self.id_order = IdOrder(id_order, input_dim)
        self.cutoffs = self.clusters.cutoffs
        self.widths = self.clusters.widths(self.embed_dim, div_val)
        self.projected = projected(self.widths, output_dim, force_projection, div_val)

    def build(self, input_shape=None):
        del input_shape  # the weights do not depend on it
        if self.built:
            return  # a head that is tied to this layer may have come first
        self.tables = tuple(
            add_weight(self, f"table_{i}", (size, width), "embeddings", i)
            for i, (size, width) in enumerate(zip(self.clusters.sizes, self.widths))
        )
        self.projections = tuple(
            add_weight(self, f"projection_{i}", (width, self.output_dim), "kernel", i)
            if has
            else None
            for i, (width, has) in enumerate(zip(self.widths, self.projected))
        )

    def load_own_variables(self, store):
        if not self.built and store.keys():
            self.build(None)
        super().load_own_variables(store)

    def call(self, ids):
        refuse_uneven(ids, "The inputs of AdaptiveEmbedding")
        # Keras' own models hand on ids as floats where their input does not say otherwise, so
        # whole numbers are taken for what they are, where they can be looked at.
        dtype = tf.as_dtype(ids.dtype)
        if tf.executing_eagerly() and not dtype.is_integer:
            values = np.asarray(ids)
            if not dtype.is_floating or not np.array_equal(values, np.rint(values)):
                raise ValueError(
                    f"AdaptiveEmbedding embeds integer ids. Received: dtype {dtype}. "
                    "Cast the ids to int32."
                )
        self.clusters.check_ids(ids, "The inputs of AdaptiveEmbedding")
        ids = widened(tf.convert_to_tensor(ids))
        outside = self.clusters.outside(ids)
        ranks = self.id_order.to_ranks(tf.where(outside, 0, tf.cast(ids, tf.int32)))
        cluster_of_id = self.clusters.cluster_of(ranks)
        parts = [tf.where(outside, tf.constant(np.nan, self.compute_dtype), 0)[..., None]]
        for i, (table, projection) in enumerate(zip(self.tables, self.projections)):
            rows = rows_of(tf.convert_to_tensor(table), self.clusters.local(ranks, i))
            rows = tf.cast(rows, self.compute_dtype)
            if self.clusters.num_clusters > 1:
                # Zeros for ids of other clusters, so that the parts can be added up: static
                # shapes, and a zero row has a zero gradient.
                rows = tf.where((cluster_of_id == i)[..., None], rows, tf.zeros((), rows.dtype))
            if projection is not None:
                rows = tf.tensordot(rows, tf.cast(projection, self.compute_dtype), 1)
            parts.append(rows)
        vectors = tf.add_n(parts[1:]) + parts[0]
        if not self._returns_weights:
            return vectors
        return [vectors, *(tf.convert_to_tensor(weight) for weight in self._returned())]

    @property
    def _returns_weights(self):
        return self.return_embeddings or self.return_projections

    def _returned(self):
        """The weights that a call returns after the vectors."""
        tables = self.tables if self.return_embeddings else ()
        with_projections = self.return_projections and any(self.projected)
        projections = self.projections if with_projections else ()
        return [*tables, *(0.0 if weight is None else weight for weight in projections)]

    def compute_mask(self, inputs, mask=None):
        mask = keras.ops.not_equal(inputs, 0) if self.mask_zero else None
        if not self._returns_weights:
            return mask
        return [mask, *([None] * len(self._returned()))]

    def compute_output_spec(self, ids):
        refuse_uneven(ids, "The inputs of AdaptiveEmbedding")
        vectors = keras.KerasTensor((*ids.shape, self.output_dim), dtype=self.compute_dtype)
        if not self._returns_weights:
            return vectors
        return [
            vectors,
            *(
                keras.KerasTensor(tuple(getattr(weight, "shape", ())), dtype="float32")
                for weight in self._returned()
            ),
        ]

    def get_config(self):
        kinds = ("embeddings", "kernel")
        return {
            **super().get_config(),
            "input_dim": self.input_dim,
            "output_dim": self.output_dim,
            "embed_dim": self.embed_dim,
            "cutoffs": list(self.cutoffs),
            "div_val": self.div_val,
            "force_projection": self.force_projection,
            **weight_config(self, kinds, kinds),
            "mask_zero": self.mask_zero,
            "return_embeddings": self.return_embeddings,
            "return_projections": self.return_projections,
            "id_order": self.id_order.config(),
        }
