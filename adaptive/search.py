"""The likeliest ids, exactly, without computing the clusters that cannot hold one.

T tokens, D width of the hidden states, V vocabulary, C clusters, k how many are wanted.
"""

from typing import NamedTuple

import tensorflow as tf

from .clusters import Clusters
from .cross_entropy import rows_per_chunk
from .factored import Linear, projected_inputs
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
        words, columns = _scores(tf.gather(features, index), linears[0])
        values, ids = _top(words, k, clusters, order, 0)
        if not shift:
            below = _normaliser(words, columns, values[:, 0])[:, None]
            values, columns = values - below, None if columns is None else columns - below
        missing = [[0, 0], [0, k - values.shape[1]]]
        values = tf.pad(values, missing, constant_values=float("-inf"))
        ids = tf.pad(ids, missing, constant_values=clusters.vocab_size)
        # No tails, no columns: a scatter does not take rows of no width.
        return (values, ids) if columns is None else (values, ids, columns)

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

        def tail(index, _start, *state, i=i, bound=bound):
            words, _ = _scores(tf.gather(features, index), linears[i])
            more, more_ids = _top(words, k, clusters, order, i)
            less = tf.gather(bound, index) - _normaliser(words, None, more[:, 0])
            return _merge(*state, more + less[:, None], more_ids, k, by_id)

        size = rows_per_chunk(num_rows, clusters.sizes[i], few=True, share=4, least=32)
        some = (tail, (values, ids), needed, count, size)
        most = rows_per_chunk(num_rows, clusters.sizes[i], few=False)
        if isinstance(num_rows, int) and num_rows <= most:
            # One pass over all costs less than several over most of them.
            values, ids = tf.cond(
                count > num_rows // 2,
                lambda tail=tail, state=(values, ids): tail(everyone, 0, *state),
                lambda some=some: _of_needed(*some),
            )
        else:
            values, ids = _of_needed(*some)
        rows.append(count)
    # An empty place is left only where hidden states are NaN.
    return Found(TopK(values, tf.minimum(ids, clusters.vocab_size - 1)), tuple(rows))


def _of_needed(compute, state, needed, count, size):
    """`compute` for the rows that are needed."""
    first = tf.argsort(tf.cast(~needed, tf.int32), stable=True)
    return tuple(in_chunks(compute, state, first, count, size))


def _scores(features, linear: Linear):
    """Logits by word, float32 `[size, T]`, and by token those of the columns, `[T, C - 1]` or None.

    A product of few tokens with a large table is faster this way round, table first.
    """
    inputs = projected_inputs(features, linear)

    def scores(table, bias):
        products = tf.matmul(tf.cast(table, inputs.dtype), inputs, transpose_b=True)
        products = tf.cast(products, tf.float32)
        return products if bias is None else products + tf.cast(bias, tf.float32)[:, None]

    words = scores(linear.table, linear.bias)
    if linear.column_table is None:
        return words, None
    return words, tf.transpose(scores(linear.column_table, linear.column_bias))


def _normaliser(words, columns, largest):
    """`[T]`, the logarithm of the sum of exponentials; `largest` is that of the words."""
    if columns is not None:
        largest = tf.maximum(largest, tf.reduce_max(columns, -1))
    # Logits may all be -infinity, and the difference of two infinities is NaN.
    largest = tf.where(tf.math.is_inf(largest), 0.0, largest)
    width = max(1, int(words.shape[0] ** 0.5))
    blocks, rest = _in_blocks(tf.exp(words - largest), width)
    # Sums of sums: down a long column one by one, float32 loses digits.
    total = tf.reduce_sum(tf.reduce_sum(blocks, 1), 0) + tf.reduce_sum(rest, 0)
    if columns is not None:
        total += tf.reduce_sum(tf.exp(columns - largest[:, None]), -1)
    return largest + tf.math.log(total)


def _in_blocks(words, width):
    """`[size, T]` as blocks `[size // width, width, T]` and the rest `[size % width, T]`."""
    count = words.shape[0] // width
    shape = [count, width, tf.shape(words)[1]]
    return tf.reshape(words[: count * width], shape), words[count * width :]


def _top(words, k, clusters, order, i):
    """The best of one cluster, at most k, as values and ids, `[T, k]`."""
    start, size = clusters.starts[i], clusters.sizes[i]
    rising = order.rising(start, size)
    if rising is not None:
        # Of equal values `top_k` takes the first: so the words go by id.
        words = tf.gather(words, rising)
    values, places = _largest(words, min(k, size))
    if rising is not None:
        places = tf.gather(tf.constant(rising, tf.int32), places)
    return values, order.to_ids(start + places)


def _largest(words, k):
    """The k largest of each column of `[size, T]`, as values and places `[T, k]`.

    Short blocks first: the k largest are in the k blocks with the largest maxima, of equal ones
    the first, since each of these has at least one. Only those are searched, in the order of
    their places, so that of equal values the first is taken, as `top_k` does.
    """
    size = words.shape[0]
    width = max(8, int((size / k) ** 0.5))
    if size // width <= 2 * k:
        return tf.math.top_k(tf.transpose(words), k)
    blocks, rest = _in_blocks(words, width)
    _, best = tf.math.top_k(tf.transpose(tf.reduce_max(blocks, 1)), k)
    best = tf.sort(best) if k > 1 else best
    tokens = tf.shape(words)[1]
    searched = tf.reshape(best[..., None] * width + tf.range(width), [tokens, k * width])
    place = tf.stack([searched, tf.broadcast_to(tf.range(tokens)[:, None], tf.shape(searched))], -1)
    candidates = tf.concat([tf.gather_nd(words, place), tf.transpose(rest)], -1)
    values, found = tf.math.top_k(candidates, k)
    # What follows the blocks stands at the end.
    after = blocks.shape[0] * width + found - k * width
    inside = tf.gather(searched, tf.minimum(found, k * width - 1), batch_dims=1)
    return values, tf.where(found < k * width, inside, after)


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
