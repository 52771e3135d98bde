"""What the model expected at each token of a text, to be looked at.

T tokens, L segment length, V vocabulary, C clusters, K candidates.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from transformer_xl.memory import Memory


class Expectations(NamedTuple):
    """Arrays over the tokens of a text; nats.

    Attributes:
      nll: float32 `[T]`, of each token.
      rank: int32 `[T]`, its place among all ids, 1 for the likeliest.
      entropy: float32 `[T]`, of the distribution it was drawn from.
      cluster_nll: float32 `[T]`, of its cluster; the rest of `nll` is of the token inside it.
      cluster: int32 `[T]`, 0 for the head.
      candidate_log_prob: float32 `[T, K]`, of the likeliest ids, falling.
      candidate_ids: int32 `[T, K]`.
    """

    nll: np.ndarray
    rank: np.ndarray
    entropy: np.ndarray
    cluster_nll: np.ndarray
    cluster: np.ndarray
    candidate_log_prob: np.ndarray
    candidate_ids: np.ndarray


def make_explore_step(model, num_candidates: int, jit_compile: bool = False, **lengths) -> Callable:
    """A compiled function of (tokens, targets, memory).

    Args:
      model: a `TransformerXL`.
      num_candidates: K, at most V.
      jit_compile: whether XLA compiles it.
      **lengths: `clamp_length`, `same_length`, where they differ from the configuration.

    Returns:
      A function of int32 `[1, L]` tokens, int32 `[1, L]` targets and the `Memory` before, which
      returns the pair (`Expectations` of tensors over the L targets, next `Memory`).
    """
    clusters = model.embedding.clusters

    @tf.function(jit_compile=jit_compile, autograph=False)
    def explore_step(tokens, targets, memory: Memory):
        log_prob_1LV, memory = model.log_prob(tokens, memory, **lengths)
        log_prob_LV, targets = log_prob_1LV[0], targets[0]
        own = tf.gather(log_prob_LV, targets, batch_dims=1)
        rank = 1 + tf.reduce_sum(tf.cast(log_prob_LV > own[:, None], tf.int32), -1)
        # What cannot be (a bias of -inf) adds nothing.
        entropy = -tf.reduce_sum(tf.math.multiply_no_nan(log_prob_LV, tf.exp(log_prob_LV)), -1)
        of_clusters_LC = tf.stack(
            [
                tf.reduce_logsumexp(log_prob_LV[:, start : start + size], -1)
                for start, size in zip(clusters.starts, clusters.sizes)
            ],
            -1,
        )
        cluster = clusters.cluster_of(targets)
        of_cluster = tf.gather(of_clusters_LC, cluster, batch_dims=1)
        best = tf.math.top_k(log_prob_LV, num_candidates)
        return Expectations(-own, rank, entropy, -of_cluster, cluster, *best), memory

    return explore_step


def explore(step: Callable, ids, memory: Memory, eos_id: int, segment_length: int) -> Expectations:
    """What the model expected at each token of a text, after all tokens before it.

    Args:
      step: of `make_explore_step`.
      ids: int `[T]`, T at least 1.
      memory: before the first token, of one row.
      eos_id: stands before the first token.
      segment_length: L, tokens at a time.

    Raises:
      ValueError: for a text without tokens.
    """
    ids = np.asarray(ids, np.int32)
    if ids.ndim != 1 or not len(ids):
        raise ValueError(f"A text must have the shape [T], T > 0. Received: shape {ids.shape}.")
    before = np.concatenate([[eos_id], ids[:-1]]).astype(np.int32)
    parts = []
    for start in range(0, len(ids), segment_length):
        now = slice(start, start + segment_length)
        count = len(ids[now])
        # Behind the end stand zeros, which nothing before them sees.
        padding = (0, segment_length - count)
        tokens, targets = (np.pad(row[now], padding)[None] for row in (before, ids))
        expected, memory = step(tf.constant(tokens), tf.constant(targets), memory)
        parts.append([array.numpy()[:count] for array in expected])
    return Expectations(*(np.concatenate(arrays) for arrays in zip(*parts)))
