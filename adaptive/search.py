"""The likeliest ids, exactly, without computing the clusters that cannot hold one.

T tokens, D width of the hidden states, V vocabulary, C clusters, k how many are wanted.
"""

import functools
from typing import NamedTuple

import tensorflow as tf

from . import few_rows
from .clusters import Clusters
from .cross_entropy import rows_per_chunk
from .factored import Linear, logits_of, logits_of_columns, normaliser, projected_inputs
from .id_order import IdOrder
from .tail_bounds import TailBounds, bound_by_norm, bound_by_products

# Tables of at most so many columns.
_NARROW = 32


class TopK(NamedTuple):
    """The likeliest ids, in falling order; of equally likely ones the lower id comes first."""

    log_probabilities: tf.Tensor  # float32 [..., k]
    ids: tf.Tensor  # int32 [..., k]


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
    follows a closer bound (`tail_bounds`), and only where that exceeds it too are the tail's words
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

    shortlist = clusters.shortlist
    # Where ids are not ranks, or places are empty, a tie is not decided by position alone.
    by_id = order.ids is not None or k > shortlist
    # Where neither a normaliser nor `top_k` needs a token's logits in one row.
    words_first = shift and k == 1 and order.ids is None and linears[0].turned is None

    def head(index, _start, *_state):
        rows = tf.gather(features, index)
        if words_first:
            values, ids, columns = _likeliest(rows, linears[0])
        else:
            words, columns = logits_of(rows, linears[0])
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
    columns = tf.unstack(columns[0], axis=1) if columns else []

    def exceeds(bound, least):
        return (bound >= least) if by_id else (bound > least) | tf.math.is_inf(least)

    def closer_bound(i, column):
        """Of tail i's words, `[T]`, and for how many tokens it took the tail's logits."""
        linear, size = linears[i], clusters.sizes[i]
        of_weights = None if bounds is None else bounds[i - 1]

        def by_norm():
            return column + bound_by_norm(projected_inputs(features, linear), linear, of_weights)

        def by_products():
            def compute(index, _start, bound):
                inputs = projected_inputs(tf.gather(features, index), linear)
                return [bound + bound_by_products(inputs, linear, of_weights)]

            return compute

        bound, possible = column, exceeds(column, values[:, -1])
        if of_weights is not None:
            bound = by_norm()  # next to nothing, where the norms are known
        elif linear.table.shape[1] <= _NARROW:
            # The norms of the table's rows cost less than their products with many tokens.
            many = tf.reduce_sum(tf.cast(possible, tf.int32)) > num_rows // 4
            bound = tf.cond(many, by_norm, lambda: column)
        possible &= exceeds(bound, values[:, -1])
        (closer,) = _where(possible, by_products, [column], size)
        return tf.minimum(bound, closer), tf.reduce_sum(tf.cast(possible, tf.int32))

    # All bounds first, by the head alone: in most calls no tail is left by them, which is asked
    # once for all tails.
    closer = [closer_bound(i, column) for i, column in enumerate(columns, 1)]

    def compare_all():
        best, counts = (values, ids), []
        for i, (column, (bound, _)) in enumerate(zip(columns, closer), 1):

            def compare(index, _start, *state, i=i, column=column):
                words, _ = logits_of(tf.gather(features, index), linears[i])
                more, more_ids = _top(words, k, clusters, order, i)
                more += tf.gather(column, index)[:, None] - normaliser(words, None)
                return _merge(*state, more, more_ids, k, by_id)

            likely = exceeds(bound, best[0][:, -1])
            best = _where(likely, lambda compare=compare: compare, best, clusters.sizes[i])
            counts.append(tf.reduce_sum(tf.cast(likely, tf.int32)))
        return *best, tf.stack(counts)

    rows = ()
    if columns:
        none = tf.zeros([len(columns)], tf.int32)
        some = tf.reduce_any(exceeds(tf.stack([bound for bound, _ in closer], 1), values[:, -1:]))
        values, ids, compared = tf.cond(some, compare_all, lambda: (values, ids, none))
        rows = tuple((count, of) for (_, count), of in zip(closer, tf.unstack(compared)))
    # An empty place is left only where hidden states are NaN.
    return Found(TopK(values, tf.minimum(ids, clusters.vocab_size - 1)), rows)


def _where(wanted, compute_of, state, num_columns: int):
    """The state, with the rows that are wanted, and perhaps others, computed anew.

    Args:
      wanted: bool `[T]`.
      compute_of: makes `compute` of `in_chunks`; called only where some row is wanted.
      state: tensors `[T, ...]`.
      num_columns: of the logits in `compute`.
    """
    num_rows = wanted.shape[0] if wanted.shape[0] is not None else tf.shape(wanted)[0]
    count = tf.reduce_sum(tf.cast(wanted, tf.int32))
    _, first = tf.math.top_k(tf.cast(wanted, tf.float32), num_rows)  # in rising order

    def as_it_is():
        return tuple(state)

    def in_loop():
        size = rows_per_chunk(num_rows, num_columns, few=True, share=4, least=32)
        return tuple(in_chunks(compute_of(), state, first, count, size))

    def at_once(size):
        index = first[:size]
        new = compute_of()(index, 0, *(tf.gather(one, index) for one in state))
        return tuple(
            tf.tensor_scatter_nd_update(one, index[:, None], rows) for one, rows in zip(state, new)
        )

    if not isinstance(num_rows, int) or num_rows > rows_per_chunk(num_rows, num_columns, few=False):
        return tf.cond(count > 0, in_loop, as_it_is)
    # A loop, its counter and the rows that fill up its last chunk cost more than a choice of sizes.
    # Products take 16 rows at a time: fewer are not faster.
    sizes = sorted({min(num_rows, -(-num_rows // share // 16) * 16) for share in (4, 2, 1)})
    chosen = functools.partial(at_once, sizes.pop())
    # Not `switch_case`, which XLA takes minutes to compile.
    for size in reversed((0, *sizes)):
        smaller = functools.partial(at_once, size) if size else as_it_is
        chosen = functools.partial(tf.cond, count <= size, smaller, chosen)
    return chosen()


def _top(words, k, clusters, order, i):
    """The best of one cluster, at most k, as values and ids, `[T, k]`."""
    start, size = clusters.starts[i], clusters.sizes[i]
    rising = order.rising(start, size)
    if rising is not None:
        # Of equal values the first is taken: so the words go by id.
        words = tf.gather(words, rising, axis=1)
    values, places = _largest(words) if k == 1 else tf.math.top_k(words, min(k, size))
    if rising is not None:
        places = tf.gather(tf.constant(rising, tf.int32), places)
    return values, order.to_ids(start + places)


def _largest(words):
    """The largest of each row and the first place where it stands, `[T, 1]` both.

    By blocks: maxima are vectorised, places are not.
    """
    num_columns = words.shape[1]
    width = _block_width(num_columns)
    blocks = tf.reshape(words, [-1, num_columns // width, width])
    block = tf.argmax(tf.reduce_max(blocks, -1), -1, output_type=tf.int32)
    block_of_row = tf.gather(blocks, block, batch_dims=1)
    place = tf.argmax(block_of_row, -1, output_type=tf.int32)
    return tf.reduce_max(block_of_row, -1, keepdims=True), (block * width + place)[:, None]


def _likeliest(features, linear: Linear):
    """As `_largest` of the logits, and the columns, as `logits_of`.

    The logits are `[size, T]`: a product of some tokens with a large table is faster this way
    round, table first.
    """
    inputs = projected_inputs(features, linear)
    table = tf.cast(linear.table, inputs.dtype)
    words = few_rows.on_all_cores(tf.matmul(table, inputs, transpose_b=True), inputs.shape[0])
    words = tf.cast(words, tf.float32)
    if linear.bias is not None:
        words += tf.cast(linear.bias, tf.float32)[:, None]
    width, num_tokens = _block_width(words.shape[0]), tf.shape(words)[1]
    maxima = tf.reduce_max(tf.reshape(words, [-1, width, num_tokens]), 1)
    first = tf.argmax(maxima, 0, output_type=tf.int32)[:, None] * width
    # The block of each token, flat: `[T, width]`.
    index = (first + tf.range(width)) * num_tokens + tf.range(num_tokens)[:, None]
    block_of_token = tf.gather(tf.reshape(words, [-1]), index)
    place = tf.argmax(block_of_token, -1, output_type=tf.int32)[:, None]
    values = tf.reduce_max(block_of_token, -1, keepdims=True)
    return values, first + place, logits_of_columns(inputs, linear)


def _block_width(size: int) -> int:
    return max(width for width in range(1, 129) if size % width == 0)


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
    if order.shape[0] == 0:
        return state  # a chunk would look for its rows where there are none
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
