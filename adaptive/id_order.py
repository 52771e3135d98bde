"""Ids that are not sorted by frequency: the order that sorts them, kept inside the layers.

A rank is the place of an id when ids are sorted by falling frequency; clusters are runs of ranks.
"""

import numpy as np
import tensorflow as tf


def id_order_from_counts(counts):
    """The ids from the commonest to the rarest, for the argument `id_order` of the layers.

    Args:
      counts: `[V]` real, at least 0: how often each id occurs.

    Returns:
      int32 `[V]`; of ids that are equally common the lower one comes first.

    Raises:
      ValueError: if the counts are not one finite number, at least 0, for each id.

    Example:
      >>> id_order_from_counts([5, 90, 7]).tolist()
      [1, 2, 0]
    """
    counts = np.asarray(counts)
    if counts.ndim != 1 or not counts.size or counts.dtype.kind not in "iuf":
        raise ValueError(
            "Counts must be one number for each id, shape [V]. "
            f"Received: shape {counts.shape}, dtype {counts.dtype}."
        )
    if not np.all(np.isfinite(counts)) or counts.min() < 0:
        raise ValueError(
            "Counts must be finite and at least 0. "
            f"Received: counts from {counts.min()} to {counts.max()}."
        )
    # Unsigned counts have no negative: sorted rising from the far end instead.
    rising_from_the_end = np.argsort(counts[::-1], kind="stable")
    return (counts.size - 1 - rising_from_the_end[::-1]).astype(np.int32)


class IdOrder:
    """Translates between the caller's ids and ranks.

    Args:
      order: `order[rank]` is the id of that rank: each of 0 to V - 1 once. None: ids are ranks.
      vocab_size: V.

    Raises:
      ValueError: if `order` is not a permutation of the ids.
    """

    def __init__(self, order, vocab_size: int):
        self.ids = None
        if order is None:
            return
        ids = np.asarray(order)
        whole = ids.dtype.kind in "iu" and ids.shape == (vocab_size,)
        if not whole or not np.array_equal(np.sort(ids), np.arange(vocab_size)):
            raise ValueError(
                f"id_order must hold each id from 0 to {vocab_size - 1} once, the commonest "
                f"first. Received: shape {ids.shape}, dtype {ids.dtype}. "
                "id_order_from_counts(counts) makes one."
            )
        self.ids = ids.astype(np.int32)
        self.ranks = np.argsort(self.ids).astype(np.int32)

    def to_ranks(self, ids):
        """Ids within the vocabulary to ranks, of the same shape."""
        return ids if self.ids is None else tf.gather(self.ranks, ids)

    def to_ids(self, ranks):
        """Ranks to ids, of the same shape."""
        return ranks if self.ids is None else tf.gather(self.ids, ranks)

    def columns_by_id(self, by_rank):
        """`[..., V]` with a column for each rank, to one for each id."""
        return by_rank if self.ids is None else tf.gather(by_rank, self.ranks, axis=-1)

    def rising(self, start: int, size: int):
        """The places in a run of ranks from `start`, such that their ids rise; None as they are."""
        return None if self.ids is None else np.argsort(self.ids[start : start + size])

    def config(self):
        return None if self.ids is None else self.ids.tolist()

    def __repr__(self):
        return "none" if self.ids is None else f"the order that begins with {self.ids[:5].tolist()}"

    def __eq__(self, other):
        return isinstance(other, IdOrder) and self.config() == other.config()

    __hash__ = None
