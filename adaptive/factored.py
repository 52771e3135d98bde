"""A softmax in clusters: `log p(w in tail i) = log p(column i | head) + log p(w | tail i)`.

Pure functions of hidden states and weights. Ids are ranks here: 0 is the commonest.

T tokens after flattening, D width of the hidden states, V vocabulary, C clusters, E a cluster's
embedding width.
"""

from typing import NamedTuple

import tensorflow as tf

from . import few_rows
from .chunk import Columns, Smoothing
from .clusters import Clusters
from .cross_entropy import Rows

# Products of so narrow tables cost less than to cast the logits from another dtype.
_NARROW = 32


class Linear(NamedTuple):
    """The weights of one cluster's logits, and, in the head, of the tails' columns."""

    table: tf.Tensor  # [size, E]
    bias: tf.Tensor | None  # [size]
    projection: tf.Tensor | None  # [E, D]
    column_table: tf.Tensor | None = None  # [C - 1, E]
    column_bias: tf.Tensor | None = None  # [C - 1]
    # Table and bias with the columns at the end, where the weights are held so.
    joined: tuple[tf.Tensor, tf.Tensor | None] | None = None
    # The table with its sides changed, [E, size]: a product of few rows reads it twice as fast.
    turned: tf.Tensor | None = None


class Part(NamedTuple):
    """One of the softmaxes whose losses add up to the tokens'."""

    inputs: tf.Tensor  # [T, E]
    table: tf.Tensor  # [size, E]
    bias: tf.Tensor | None  # [size]
    targets: tf.Tensor  # int32 [T], inside this softmax
    rows: Rows | None  # the tokens it is needed for; None for all
    smoothing: Smoothing | None
    columns: Columns | None  # those of the tails, where they are not part of the table


def projected_inputs(features, linear: Linear):
    """Hidden states `[T, D]` at the width of a cluster's table, `[T, E]`."""
    if linear.projection is None:
        return features
    return tf.matmul(features, tf.cast(linear.projection, features.dtype), transpose_b=True)


def all_projected_inputs(features, linears: tuple[Linear, ...]) -> list:
    """`projected_inputs` of each cluster, by one product for all.

    In the backward pass that is one gradient `[T, D]`, and not one of each cluster until their sum
    is made.
    """
    projections = [one.projection for one in linears if one.projection is not None]
    if len(projections) < 2:
        return [projected_inputs(features, one) for one in linears]
    joined = tf.concat([tf.cast(one, features.dtype) for one in projections], 0)
    products = tf.matmul(features, joined, transpose_b=True)
    parts = iter(tf.split(products, [one.shape[0] for one in projections], -1))
    return [features if one.projection is None else next(parts) for one in linears]


def logits_of(features, linear: Linear):
    """A cluster's logits, float32 `[T, size]`, and the tails' columns, `[T, C - 1]` or None."""
    inputs = projected_inputs(features, linear)
    # Apart, since to put them together would copy the head's whole table or all its logits.
    words = _logits(inputs, linear.table, linear.bias, linear.turned)
    return words, logits_of_columns(inputs, linear)


def logits_of_columns(inputs, linear: Linear):
    """The tails' columns, float32 `[T, C - 1]`, of projected inputs; None if there are none."""
    if linear.column_table is None:
        return None
    return _logits(inputs, linear.column_table, linear.column_bias)


def _logits(inputs, table, bias, turned=None):
    if turned is not None:
        products = tf.matmul(inputs, tf.cast(turned, inputs.dtype))
        products = few_rows.on_all_cores(products, inputs.shape[0])
    elif _is_faster_with_the_table_first(inputs, bias):
        return few_rows.product(inputs, tf.cast(table, tf.float32), tf.cast(bias, tf.float32))
    else:
        products = tf.matmul(inputs, tf.cast(table, inputs.dtype), transpose_b=True)
    products = tf.cast(products, tf.float32)
    return products if bias is None else products + tf.cast(bias, tf.float32)


def _is_faster_with_the_table_first(inputs, bias):
    num_rows = inputs.shape[0]
    return (
        num_rows is not None
        and num_rows <= few_rows.FEW
        and inputs.dtype == tf.float32
        and bias is not None  # which keeps XLA from turning the product back
        and not tf.config.list_logical_devices("GPU")
    )


def normaliser(words, columns):
    """The logarithm of the sum of the exponentials of both, float32 `[T, 1]`.

    Args:
      words: `[T, size]`.
      columns: `[T, C - 1]` or None.
    """
    of_words = tf.reduce_logsumexp(words, -1, keepdims=True)
    if columns is None:
        return of_words
    return tf.reduce_logsumexp(tf.concat([of_words, columns], -1), -1, keepdims=True)


def log_prob(features, linears: tuple[Linear, ...], clusters: Clusters):
    """The log-probability of every rank, float32 `[T, V]`."""
    words, columns = logits_of(features, linears[0])
    if columns is None:
        return tf.nn.log_softmax(words)
    head = normaliser(words, columns)
    parts = [words - head]
    for i in range(1, clusters.num_clusters):
        words, _ = logits_of(features, linears[i])
        # One pass: the logits less what normalises them, plus the column.
        parts.append(words + (columns[:, i - 1 : i] - head - normaliser(words, None)))
    return tf.concat(parts, -1)


def parts_of_loss(
    features, linears: tuple[Linear, ...], clusters: Clusters, targets, smoothing: float = 0.0
):
    """The softmaxes whose losses add up to the tokens': the head, then each tail.

    Without smoothing a tail is needed only for the tokens whose target is in it. Label smoothing
    takes the share `smoothing` of each target and spreads it evenly over the vocabulary, so that
    every tail is needed for every token.

    Args:
      features: `[T, D]`.
      linears: one for each cluster.
      clusters: of the vocabulary.
      targets: int32 `[T]`, ranks.
      smoothing: from 0 to 1.

    Yields:
      `Part`s.
    """
    cluster_of_target = clusters.cluster_of(targets)
    columns = tf.where(cluster_of_target == 0, targets, clusters.shortlist + cluster_of_target - 1)
    share = smoothing / clusters.vocab_size
    all_inputs = all_projected_inputs(features, linears)

    def part(i, targets, inside, rows):
        linear = linears[i]
        table, bias, more = linear.table, linear.bias, None
        if linear.joined is not None:
            table, bias = linear.joined
        elif linear.column_table is not None:
            more = Columns(linear.column_table, linear.column_bias)
        labels = None
        if smoothing:
            columns = tf.fill([clusters.sizes[i]], share)
            if i == 0:
                columns = tf.concat([columns, [share * size for size in clusters.sizes[1:]]], 0)
            labels = Smoothing((1.0 - smoothing) * tf.cast(inside, tf.float32), columns)
        inputs = all_inputs[i]
        if inputs.shape[-1] <= _NARROW:
            inputs = tf.cast(inputs, tf.float32)
        return Part(inputs, table, bias, targets, rows, labels, more)

    yield part(0, columns, tf.ones_like(targets), None)
    if not clusters.num_tails:
        return
    # Tokens in the order of their clusters: each tail's are then one run of that order.
    order = tf.argsort(cluster_of_target, stable=True)
    start = tf.reduce_sum(tf.cast(cluster_of_target == 0, tf.int32))
    for i in range(1, clusters.num_clusters):
        inside = cluster_of_target == i
        count = tf.reduce_sum(tf.cast(inside, tf.int32))
        rows = None if smoothing else Rows(order, start, count)
        yield part(i, clusters.local(targets, i), inside, rows)
        start += count
