"""The likeliest ids, exactly, without computing the clusters that cannot hold one.

T tokens, D width of the hidden states, V vocabulary, C clusters, k how many are wanted.
"""

from typing import NamedTuple

import tensorflow as tf

from .clusters import Clusters
from .cross_entropy import rows_per_chunk
from .factored import Linear, logits_of, normaliser, projected_inputs
from .id_order import IdOrder

# In a chunk of tokens, where few are wanted.
_LEAST_ROWS = 32


class TopK(NamedTuple):
    """The likeliest ids, in falling order; of equally likely ones the lower id comes first."""

    log_probabilities: tf.Tensor  # float32 [..., k]
    ids: tf.Tensor  # int32 [..., k]


class TailBounds(NamedTuple):
    """What bounds the words of a tail and depends on its weights alone."""

    longest: tf.Tensor  # float32 scalar, the longest row of the table, squared
    mean: tf.Tensor  # float32 [E, 1], the rows' mean, weighted with softmax(bias)
    log_weight: tf.Tensor  # float32 scalar, the logarithm of the largest of these weights


class Found(NamedTuple):
    """What a search gives."""

    best: TopK  # [T, k] each
    # For each tail, int32: for how many tokens its logits were computed, and for how many of
    # these its words were compared.
    rows: tuple[tuple[tf.Tensor, tf.Tensor], ...]


def search(
    features,
    linears: tuple[Linear, ...],
    clusters: Clusters,
    order: IdOrder,
    k: int,
    shift=False,
    bounds: tuple[TailBounds, ...] | None = None,
) -> Found:
    """The k likeliest ids of each token.

    The head is computed for all tokens. A tail's column is an upper bound of its words, so its
    logits are computed where the column exceeds the k-th best so far; from the largest of them
    follows a closer bound (`_bound`), and only where that exceeds it too are the tail's words
    normalised and compared.

    Args:
      features: `[T, D]` in the compute dtype.
      linears: one for each cluster.
      clusters: of the vocabulary.
      order: of the ids.
      k: from 1 to V.
      shift: whether the values may lack the head's normaliser, which is the same for all ids of
        a token and saves its computation where only the order matters.
      bounds: of each tail, where they are known already.
    """

    def of_weights(i):
        return bounds_of(linears[i]) if bounds is None else bounds[i - 1]

    shortlist = clusters.shortlist
    # Where ids are not ranks, or places are empty, a tie is not decided by position alone.
    by_id = order.ids is not None or k > shortlist

    def head(index, _start, *_state):
        words, columns = logits_of(tf.gather(features, index), linears[0])
        values, ids = _top(words, k, clusters, order, 0)
        if not shift:
            below = normaliser(words, columns)
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
    values, ids, *columns = in_chunks(head, empty, tf.range(num_rows), num_rows, size)
    found, columns = [], tf.unstack(columns[0], axis=1) if columns else []

    def exceeds(bound, least):
        return (bound >= least) if by_id else (bound > least) | tf.math.is_inf(least)

    # All bounds first, by the head alone, so that they can be computed at the same time.
    for i, column in enumerate(columns, 1):

        def closer_bound(index, _start, _, i=i, column=column):
            inputs = projected_inputs(tf.gather(features, index), linears[i])
            return [tf.gather(column, index) + _bound(inputs, linears[i], of_weights(i))]

        bound = column
        if linears[i].table.shape[1] <= _LEAST_ROWS:
            # The norms of the table's rows cost less than their products with a chunk of tokens.
            bound += _bound(projected_inputs(features, linears[i]), linears[i], of_weights(i), True)
        possible = exceeds(bound, values[:, -1])
        (closer,) = _where(possible, closer_bound, [bound], clusters.sizes[i])
        found.append((column, possible, closer))
    rows = []
    for i, (column, possible, closer) in enumerate(found, 1):

        def compare(index, _start, *state, i=i, column=column):
            words, _ = logits_of(tf.gather(features, index), linears[i])
            more, more_ids = _top(words, k, clusters, order, i)
            more += tf.gather(column, index)[:, None] - normaliser(words, None)
            return _merge(*state, more, more_ids, k, by_id)

        likely = possible & exceeds(closer, values[:, -1])
        values, ids = _where(likely, compare, (values, ids), clusters.sizes[i])
        rows.append(tuple(tf.reduce_sum(tf.cast(some, tf.int32)) for some in (possible, likely)))
    # An empty place is left only where hidden states are NaN.
    return Found(TopK(values, tf.minimum(ids, clusters.vocab_size - 1)), tuple(rows))


def bounds_of(linear: Linear) -> TailBounds:
    """A tail's `TailBounds`; takes a pass over its table."""
    table = tf.cast(tf.convert_to_tensor(linear.table), tf.float32)
    bias = tf.zeros(table.shape[:1]) if linear.bias is None else tf.cast(linear.bias, tf.float32)
    weights = tf.nn.softmax(bias)
    return TailBounds(
        tf.reduce_max(tf.reduce_sum(tf.square(table), -1)),
        tf.matmul(table, weights[:, None], transpose_a=True),
        # That is `max(bias) - logsumexp(bias)`.
        tf.math.log(tf.reduce_max(weights)),
    )


def _bound(inputs, linear: Linear, of_weights: TailBounds, by_norm=False):
    """At least the log-probability, inside a tail, of its likeliest word; float32 `[T]`.

    That is `max(x + b) - logsumexp(x + b)` of the products `x = table @ input` and the biases `b`.
    The first is at most `max(x) + max(b)`; the second, with weights `softmax(b)`, at least
    `logsumexp(b) + sum(softmax(b) * x)` by Jensen's inequality. So no exponential of a logit is
    computed, and no pass over the logits is made but the one for their maximum.

    Args:
      inputs: `[T, E]`.
      linear: the tail's weights.
      of_weights: its `TailBounds`.
      by_norm: whether `max(x)` is bounded in its turn, by the longest row of the table times the
        input's length: no product at all, and less close.
    """
    table, inputs_f32 = tf.convert_to_tensor(linear.table), tf.cast(inputs, tf.float32)
    if by_norm:
        largest = tf.sqrt(of_weights.longest * tf.reduce_sum(tf.square(inputs_f32), -1))
    else:
        # A product of few tokens with a large table is faster this way round, table first.
        products = tf.matmul(tf.cast(table, inputs.dtype), inputs, transpose_b=True)
        largest = tf.cast(tf.reduce_max(products, 0), tf.float32)
    middle = tf.matmul(inputs_f32, of_weights.mean)[:, 0]
    bound = largest + of_weights.log_weight - middle
    # Room for rounding, of the logits too, whose products are made again where they are compared.
    bound += 0.01 + (1e-4 if inputs.dtype == tf.float32 else 0.02) * tf.abs(largest)
    # Infinite weights make this NaN, which bounds nothing.
    return tf.where(bound < 0, bound, 0.0)


def _where(wanted, compute, state, num_columns: int):
    """`compute` for the rows that are wanted; the others keep their state."""
    num_rows = wanted.shape[0] if wanted.shape[0] is not None else tf.shape(wanted)[0]
    count = tf.reduce_sum(tf.cast(wanted, tf.int32))

    def some():
        first = tf.argsort(tf.cast(~wanted, tf.int32), stable=True)
        size = rows_per_chunk(num_rows, num_columns, few=True, share=4, least=_LEAST_ROWS)
        return tuple(in_chunks(compute, state, first, count, size))

    if isinstance(num_rows, int) and num_rows <= rows_per_chunk(num_rows, num_columns, few=False):
        # One pass over all costs less than several over most of them.
        everyone = tf.range(num_rows)
        return tf.cond(count > num_rows // 2, lambda: tuple(compute(everyone, 0, *state)), some)
    return some()


def _top(words, k, clusters, order, i):
    """The best of one cluster, at most k, as values and ids, `[T, k]`."""
    start, size = clusters.starts[i], clusters.sizes[i]
    rising = order.rising(start, size)
    if rising is not None:
        # Of equal values the first is taken: so the words go by id.
        words = tf.gather(words, rising, axis=1)
    if k == 1:
        places = tf.argmax(words, -1, output_type=tf.int32)[:, None]
        values = tf.gather(words, places, batch_dims=1)
    else:
        values, places = tf.math.top_k(words, min(k, size))
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
