"""What the model expected at each token of a text, to be looked at.

T tokens, L segment length, V vocabulary, C clusters, K candidates.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from transformer_xl.config_rules import is_whole
from transformer_xl.memory import Memory
from transformer_xl.score import checking_ids
from transformer_xl.shapes import checked_ids, checked_segment_length, known


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
      A function of int `[1, L]` tokens, int `[1, L]` targets and the `Memory` before, which
      returns the pair (`Expectations` of tensors over the L targets, next `Memory`). It raises a
      `ValueError` for ids outside the vocabulary, where it is called eagerly.

    Raises:
      ValueError: for a number of candidates that is not from 1 to V.
    """
    clusters = model.embedding.clusters
    num_candidates = known(num_candidates)
    if not is_whole(num_candidates) or not 1 <= num_candidates <= clusters.vocab_size:
        raise ValueError(
            "num_candidates must be an integer from 1 to the size of the vocabulary, "
            f"{clusters.vocab_size}. Received: {num_candidates!r}."
        )

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

    return checking_ids(model, explore_step)


def explore(step: Callable, ids, memory: Memory, eos_id: int, segment_length: int) -> Expectations:
    """What the model expected at each token of a text, after all tokens before it.

    Args:
      step: of `make_explore_step`.
      ids: int `[T]`, T at least 1.
      memory: before the first token, of one row.
      eos_id: stands before the first token.
      segment_length: L, tokens at a time.

    Raises:
      ValueError: for a text without tokens, or of what are no ids of the vocabulary, and for a
        segment length below 1.
    """
    segment_length = checked_segment_length(segment_length)
    ids = checked_ids(ids, "A text")
    if not len(ids):
        raise ValueError("A text must have at least one token. Received: none.")
    before = np.concatenate([[eos_id], ids[:-1]])
    parts = []
    for start in range(0, len(ids), segment_length):
        now = slice(start, start + segment_length)
        count = len(ids[now])
        # Behind the end stand zeros, which nothing before them sees.
        padding = (0, segment_length - count)
        tokens, targets = (np.pad(row[now], padding)[None] for row in (before, ids))
        expected, memory = step(tokens, targets, memory)
        parts.append([array.numpy()[:count] for array in expected])
    return Expectations(*(np.concatenate(arrays) for arrays in zip(*parts)))
