"""AdaptiveEmbedding: word vectors whose width falls with the frequency of the word.

B batch, L length, D output width, C clusters, E a cluster's embedding width.
"""

import keras
import tensorflow as tf

from .clusters import Clusters, projected
from .initializers import fresh


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
      embeddings_initializer: of the tables.
      projections_initializer: of the projections.

    Call arguments:
      ids: int tensor `[...]`, from 0 to `input_dim - 1`.

    Returns:
      `[..., output_dim]` in the compute dtype.

    Raises:
      ValueError: for unusable cutoffs or widths, for ids that are not integers, and, in eager
        calls, for ids outside the vocabulary.

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
        projections_initializer="glorot_uniform",
        **kwargs,
    ):
        # Rows are cast, not tables; the weights say so too, since a model around this layer may
        # have a mixed policy and cast whatever is read inside it.
        super().__init__(autocast=False, **kwargs)
        self.input_dim = input_dim
        self.output_dim = output_dim
        self.embed_dim = output_dim if embed_dim is None else embed_dim
        self.div_val = div_val
        self.force_projection = force_projection
        self.embeddings_initializer = keras.initializers.get(embeddings_initializer)
        self.projections_initializer = keras.initializers.get(projections_initializer)
        self.clusters = Clusters(input_dim, cutoffs)
        self.cutoffs = self.clusters.cutoffs
        self.widths = self.clusters.widths(self.embed_dim, div_val)
        self.projected = projected(self.widths, output_dim, force_projection, div_val)

    def build(self, input_shape=None):
        del input_shape  # the weights do not depend on it
        self.tables = tuple(
            self.add_weight(
                shape=(size, width),
                initializer=fresh(self.embeddings_initializer),
                autocast=False,
                name=f"table_{i}",
            )
            for i, (size, width) in enumerate(zip(self.clusters.sizes, self.widths))
        )
        self.projections = tuple(
            self.add_weight(
                shape=(width, self.output_dim),
                initializer=fresh(self.projections_initializer),
                autocast=False,
                name=f"projection_{i}",
            )
            if has_projection
            else None
            for i, (width, has_projection) in enumerate(zip(self.widths, self.projected))
        )

    def load_own_variables(self, store):
        if not self.built and store.keys():
            self.build(None)
        super().load_own_variables(store)

    def call(self, ids):
        # Keras builds a subclassed model that it loads by calling it on symbolic floats, and where
        # that fails the weights are not loaded, in silence: so only eager calls are refused.
        if tf.executing_eagerly() and not tf.as_dtype(ids.dtype).is_integer:
            raise ValueError(
                f"AdaptiveEmbedding embeds integer ids. Received: dtype {ids.dtype}. "
                "Cast the ids to int32."
            )
        self.clusters.check_ids(ids, "The inputs of AdaptiveEmbedding")
        ids = tf.cast(ids, tf.int32)
        cluster_of_id = self.clusters.cluster_of(ids)
        parts = []
        for i, (table, projection) in enumerate(zip(self.tables, self.projections)):
            rows = tf.gather(tf.convert_to_tensor(table), self.clusters.local(ids, i))
            rows = tf.cast(rows, self.compute_dtype)
            if self.clusters.num_clusters > 1:
                # Zeros for ids of other clusters, so that the parts can be added up: static
                # shapes, and a zero row has a zero gradient.
                rows = tf.where((cluster_of_id == i)[..., None], rows, tf.zeros((), rows.dtype))
            if projection is not None:
                rows = tf.tensordot(rows, tf.cast(projection, self.compute_dtype), 1)
            parts.append(rows)
        return tf.add_n(parts)

    def compute_output_shape(self, input_shape):
        return (*input_shape, self.output_dim)

    def get_config(self):
        return {
            **super().get_config(),
            "input_dim": self.input_dim,
            "output_dim": self.output_dim,
            "embed_dim": self.embed_dim,
            "cutoffs": list(self.cutoffs),
            "div_val": self.div_val,
            "force_projection": self.force_projection,
            "embeddings_initializer": keras.initializers.serialize(self.embeddings_initializer),
            "projections_initializer": keras.initializers.serialize(self.projections_initializer),
        }
