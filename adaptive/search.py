"""The likeliest ids, exactly, without computing the clusters that cannot hold one.

T tokens, D width of the hidden states, V vocabulary, C clusters, k how many are wanted.
"""

from typing import NamedTuple

import tensorflow as tf

from .clusters import Clusters
from .cross_entropy import rows_per_chunk
from .factored import Linear, logits_of
from .id_order import IdOrder


class TopK(NamedTuple):
    """The likeliest ids, in falling order; of equally likely ones the lower id comes first."""

    log_probabilities: tf.Tensor  # float32 [..., k]
    ids: tf.Tensor  # int32 [..., k]


class Found(NamedTuple):
    """What a search gives."""

    best: TopK  # [T, k] each
    rows: tuple[tf.Tensor, ...]  # for each tail, int32: how many tokens it was computed for


def search(
    features, linears: tuple[Linear, ...], clusters: Clusters, order: IdOrder, k: int, shift=False
) -> Found:
    """The k likeliest ids of each token.

    The head is computed for all tokens, a tail where a word of it can be among the best: its
    column is an upper bound of its words.

    Args:
      features: `[T, D]` in the compute dtype.
      linears: one for each cluster.
      clusters: of the vocabulary.
      order: of the ids.
      k: from 1 to V.
      shift: whether the values may lack the head's normaliser, which is the same for all ids of
        a token and saves its computation where only the order matters.
    """
    shortlist = clusters.shortlist
    # Where ids are not ranks, or places are empty, a tie is not decided by position alone.
    by_id = order.ids is not None or k > shortlist

    def head(index, _start, *_state):
        logits = logits_of(tf.gather(features, index), linears[0])
        if not shift:
            logits = tf.nn.log_softmax(logits)
        values, ids = _top(logits[:, :shortlist], k, clusters, order, 0)
        missing = [[0, 0], [0, k - values.shape[1]]]
        values = tf.pad(values, missing, constant_values=float("-inf"))
        ids = tf.pad(ids, missing, constant_values=clusters.vocab_size)
        # No tails, no columns: a scatter does not take rows of no width.
        return (values, ids, logits[:, shortlist:])[: len(empty)]

    num_rows = features.shape[0] if features.shape[0] is not None else tf.shape(features)[0]
    empty = (
        tf.zeros([num_rows, k]),
        tf.zeros([num_rows, k], tf.int32),
        tf.zeros([num_rows, clusters.num_tails]),
    )[: 3 if clusters.num_tails else 2]
    size = rows_per_chunk(num_rows, shortlist + clusters.num_tails, few=False)
    everyone = tf.range(num_rows)
    values, ids, *columns = in_chunks(head, empty, everyone, num_rows, size)
    rows = []
    for i in range(1, clusters.num_clusters):
        bound, least = columns[0][:, i - 1], values[:, -1]
        needed = (bound >= least) if by_id else (bound > least) | tf.math.is_inf(least)
        count = tf.reduce_sum(tf.cast(needed, tf.int32))
        first = tf.argsort(tf.cast(~needed, tf.int32), stable=True)

        def tail(index, _start, *state, i=i, bound=bound):
            logits = logits_of(tf.gather(features, index), linears[i])
            normaliser = tf.reduce_logsumexp(logits, -1, keepdims=True)
            more, more_ids = _top(logits, k, clusters, order, i)
            more += tf.gather(bound, index)[:, None] - normaliser
            return _merge(*state, more, more_ids, k, by_id)

        size = rows_per_chunk(num_rows, clusters.sizes[i], few=True, least=8)
        values, ids = in_chunks(tail, (values, ids), first, count, size)
        rows.append(count)
    # An empty place is left only where hidden states are NaN.
    return Found(TopK(values, tf.minimum(ids, clusters.vocab_size - 1)), tuple(rows))


def _top(logits, k, clusters, order, i):
    """The best of one cluster, at most k, as values and ids."""
    start, size = clusters.starts[i], clusters.sizes[i]
    rising = order.rising(start, size)
    if rising is not None:
        # Of equal values `top_k` takes the first: so the columns go by id.
        logits = tf.gather(logits, rising, axis=-1)
    values, places = tf.math.top_k(logits, min(k, size))
    if rising is not None:
        places = tf.gather(tf.constant(rising, tf.int32), places)
    return values, order.to_ids(start + places)


def _merge(values, ids, more, more_ids, k, by_id):
    values, ids = tf.concat([values, more], -1), tf.concat([ids, more_ids], -1)
    if by_id:
        rising = tf.argsort(ids, stable=True)
        values = tf.gather(values, rising, batch_dims=1)
        ids = tf.gather(ids, rising, batch_dims=1)
    values, places = tf.math.top_k(values, k)
    return values, tf.gather(ids, places, batch_dims=1)


def in_chunks(compute, state, order, count, size):
    """`compute` for the rows `order[:count]`, so many at a time; the others keep their state.

    Args:
      compute: from the index of rows, the place of the first in `order` and the state of each to
        the new state of each.
      state: tensors `[T, ...]`.
      order: int32 `[T]`.
      count: int or int32 scalar.
      size: rows at a time.
    """
    if isinstance(count, int) and isinstance(size, int) and count <= size:
        return compute(order, tf.constant(0), *state)

    def body(start, *state):
        # Rows past the end repeat the last one, with the same result.
        index = tf.gather(order, tf.minimum(start + tf.range(size), count - 1))
        new = compute(index, start, *(tf.gather(one, index) for one in state))
        state = [
            tf.tensor_scatter_nd_update(one, index[:, None], rows) for one, rows in zip(state, new)
        ]
        return start + size, *state

    _, *state = tf.while_loop(
        lambda start, *_: start < count, body, (tf.constant(0), *state), parallel_iterations=1
    )
    return state
