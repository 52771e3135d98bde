"""A softmax in clusters: `log p(w in tail i) = log p(column i | head) + log p(w | tail i)`.

Pure functions of hidden states and weights. Ids are ranks here: 0 is the commonest.

T tokens after flattening, D width of the hidden states, V vocabulary, C clusters, E a cluster's
embedding width.
"""

from typing import NamedTuple

import tensorflow as tf

from .clusters import Clusters
from .cross_entropy import Rows, Smoothing


class Linear(NamedTuple):
    """The weights of one cluster's logits; the head's have a row for each tail at the end."""

    table: tf.Tensor  # [size, E]
    bias: tf.Tensor | None  # [size]
    projection: tf.Tensor | None  # [E, D]


class Part(NamedTuple):
    """One of the softmaxes whose losses add up to the tokens'."""

    inputs: tf.Tensor  # [T, E]
    table: tf.Tensor  # [size, E]
    bias: tf.Tensor  # [size]
    targets: tf.Tensor  # int32 [T], inside this softmax
    rows: Rows | None  # the tokens it is needed for; None for all
    smoothing: Smoothing | None


def projected_inputs(features, linear: Linear):
    """Hidden states `[T, D]` at the width of a cluster's table, `[T, E]`."""
    if linear.projection is None:
        return features
    return tf.matmul(features, tf.cast(linear.projection, features.dtype), transpose_b=True)


def logits_of(features, linear: Linear):
    """float32 `[T, size]`."""
    inputs = projected_inputs(features, linear)
    logits = tf.matmul(inputs, tf.cast(linear.table, inputs.dtype), transpose_b=True)
    logits = tf.cast(logits, tf.float32)
    return logits if linear.bias is None else logits + tf.cast(linear.bias, tf.float32)


def log_prob(features, linears: tuple[Linear, ...], clusters: Clusters):
    """The log-probability of every rank, float32 `[T, V]`."""
    head = tf.nn.log_softmax(logits_of(features, linears[0]))
    parts = [head[:, : clusters.shortlist]]
    for i in range(1, clusters.num_clusters):
        column = clusters.shortlist + i - 1
        tail = tf.nn.log_softmax(logits_of(features, linears[i]))
        parts.append(head[:, column : column + 1] + tail)
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

    def part(i, targets, inside, rows):
        linear = linears[i]
        bias = linear.bias
        if bias is None:
            bias = tf.zeros(linear.table.shape[:1])
        labels = None
        if smoothing:
            columns = tf.fill([clusters.sizes[i]], share)
            if i == 0:
                columns = tf.concat([columns, [share * size for size in clusters.sizes[1:]]], 0)
            labels = Smoothing((1.0 - smoothing) * tf.cast(inside, tf.float32), columns)
        return Part(projected_inputs(features, linear), linear.table, bias, targets, rows, labels)

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
