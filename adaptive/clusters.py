"""The split of a frequency-sorted vocabulary into clusters; the only home of cutoff arithmetic."""

import dataclasses
import numbers

import numpy as np
import tensorflow as tf


@dataclasses.dataclass(frozen=True)
class Clusters:
    """A vocabulary whose ids fall in frequency, cut into a head and tails.

    Cluster 0, the head, holds ids `0 .. cutoffs[0] - 1`; cluster `i` holds the ids from
    `cutoffs[i - 1]` up to the next cutoff, the last one up to `vocab_size`. Without cutoffs there
    is one cluster: an ordinary embedding, an ordinary softmax.

    Grave et al. (2017), "Efficient softmax approximation for GPUs", section 4.

    Args:
      vocab_size: number of ids.
      cutoffs: rising ids where a new cluster begins; the vocabulary size is not among them.

    Raises:
      ValueError: if the vocabulary size is not a positive integer, or the cutoffs are not whole,
        rising, distinct numbers from 1 to `vocab_size - 1`.

    Example:
      >>> Clusters(10, (2, 5)).sizes
      (2, 3, 5)
    """

    vocab_size: int
    cutoffs: tuple[int, ...] = ()

    def __post_init__(self):
        if not _is_whole(self.vocab_size) or self.vocab_size < 1:
            raise ValueError(
                f"The vocabulary size must be a positive integer. Received: {self.vocab_size!r}."
            )
        if _is_whole(self.cutoffs):
            raise ValueError(
                f"Cutoffs must be a list. Received: {self.cutoffs}. Try: [{self.cutoffs}]."
            )
        cutoffs = () if self.cutoffs is None else tuple(self.cutoffs)
        if not all(_is_whole(cutoff) for cutoff in cutoffs):
            raise ValueError(f"Cutoffs must be integers. Received: cutoffs={list(cutoffs)}.")
        if any(low >= high for low, high in zip(cutoffs, cutoffs[1:])):
            raise ValueError(
                "Cutoffs must rise, each one once. "
                f"Received: cutoffs={list(cutoffs)}. Try: {sorted(set(cutoffs))}."
            )
        if cutoffs and (cutoffs[0] < 1 or cutoffs[-1] >= self.vocab_size):
            raise ValueError(
                f"Cutoffs must lie between 1 and vocabulary size - 1 = {self.vocab_size - 1}. "
                f"Received: cutoffs={list(cutoffs)}. Leave the vocabulary size itself out; "
                "with no cutoffs there is one cluster."
            )
        object.__setattr__(self, "vocab_size", int(self.vocab_size))
        object.__setattr__(self, "cutoffs", tuple(int(cutoff) for cutoff in cutoffs))

    @property
    def num_clusters(self) -> int:
        return len(self.cutoffs) + 1

    @property
    def num_tails(self) -> int:
        return len(self.cutoffs)

    @property
    def starts(self) -> tuple[int, ...]:
        """The first id of each cluster."""
        return (0, *self.cutoffs)

    @property
    def sizes(self) -> tuple[int, ...]:
        """How many ids each cluster has."""
        ends = (*self.cutoffs, self.vocab_size)
        return tuple(end - start for start, end in zip(self.starts, ends))

    @property
    def shortlist(self) -> int:
        """The size of the head's own vocabulary; the columns of the tails stand after it."""
        return self.sizes[0]

    def widths(self, embed_dim: int, div_val: float = 1, name="div_val") -> tuple[int, ...]:
        """The embedding width of each cluster, `embed_dim // div_val**i`.

        `name` is what the caller's users call the divisor.

        Raises:
          ValueError: if `div_val` is below 1 or a width would be 0.
        """
        if not _is_whole(embed_dim) or embed_dim < 1:
            raise ValueError(
                f"The embedding width must be a positive integer. Received: {embed_dim!r}."
            )
        if isinstance(div_val, bool) or not isinstance(div_val, numbers.Real) or not div_val >= 1:
            raise ValueError(f"{name} must be at least 1. Received: {name}={div_val!r}.")
        widths = tuple(int(embed_dim // div_val**i) for i in range(self.num_clusters))
        if widths[-1] < 1:
            raise ValueError(
                "Every cluster needs an embedding width of at least 1. "
                f"Received: embed_dim={embed_dim}, {name}={div_val}, {self.num_clusters} clusters,"
                f" so widths {list(widths)}. Use fewer cutoffs, a smaller {name} or a larger "
                "embed_dim."
            )
        return widths

    def cluster_of(self, ids):
        """The cluster of each id: int32, of the shape of `ids`."""
        cluster = tf.zeros_like(ids, dtype=tf.int32)
        for cutoff in self.cutoffs:
            cluster += tf.cast(ids >= cutoff, tf.int32)
        return cluster

    def local(self, ids, cluster: int):
        """Ids as positions inside one cluster; ids of other clusters are clipped to its range."""
        return tf.clip_by_value(ids - self.starts[cluster], 0, self.sizes[cluster] - 1)

    def outside(self, ids):
        """Which ids are none of the vocabulary: bool, of the shape of `ids`, which are wide.

        See `widened`. NaN is outside, too.
        """
        return ~((ids >= 0) & (ids < self.vocab_size))

    def check_ids(self, ids, what: str):
        """Refuses ids outside the vocabulary, where they can be looked at without waiting.

        Compiled code cannot raise, and a gather on a GPU returns zeros for such ids in silence;
        so this looks at eager tensors only, and data is checked when it is prepared.

        Raises:
          ValueError: if `ids` is an eager tensor with an id below 0 or not below `vocab_size`.
        """
        if not tf.is_symbolic_tensor(ids) and tf.executing_eagerly():
            values = np.asarray(ids)
            if values.size and (values.min() < 0 or values.max() >= self.vocab_size):
                raise ValueError(
                    f"{what} must be ids from 0 to {self.vocab_size - 1}. "
                    f"Received ids from {values.min()} to {values.max()}."
                )


def projected(
    widths: tuple[int, ...], output_dim: int, force_projection: bool | None, div_val: float
) -> tuple[bool, ...]:
    """Which clusters have a projection `[E, D]` between their table and the hidden states.

    Args:
      widths: the embedding width of each cluster.
      output_dim: width of the hidden states.
      force_projection: True for every cluster; False only for those whose width differs from
        `output_dim`; None for every cluster, except that at `div_val=1` with tables as wide as
        the hidden states there is none.
      div_val: the divisor of the widths.
    """
    if force_projection is None:
        force_projection = div_val > 1 or widths[0] != output_dim
    return tuple(force_projection or width != output_dim for width in widths)


def per_cluster(value: bool | tuple[bool, ...], num_clusters: int, name: str) -> tuple[bool, ...]:
    """One bool per cluster, from one bool for all or one bool each.

    Raises:
      ValueError: if there are not as many as clusters.
    """
    if isinstance(value, (bool, np.bool_)):
        return (bool(value),) * num_clusters
    values = tuple(bool(one) for one in value)
    if len(values) != num_clusters:
        raise ValueError(
            f"{name} must be one bool, or one for each of the {num_clusters} clusters. "
            f"Received: {list(values)}."
        )
    return values


def _is_whole(value) -> bool:
    return isinstance(value, numbers.Integral) and not isinstance(value, bool)
