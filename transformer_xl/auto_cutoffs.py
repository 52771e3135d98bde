"""Cutoffs for a model, from the counts of its vocabulary: `--cutoffs=auto`."""

import math

from adaptive import expected_cost, optimal_cutoffs
from transformer_xl.config import ModelConfig


def auto_cutoffs(
    counts, max_clusters: int, config: ModelConfig, tokens_per_step: int
) -> tuple[int, ...]:
    """The cutoffs that make training fastest, by the cost model of `adaptive`.

    Args:
      counts: int `[V]`, how often each token occurs in training.
      max_clusters: the most clusters, the head included. Fewer are taken where that is faster, or
        where another would have embeddings of no width.
      config: of the model, for its widths; its cutoffs do not matter.
      tokens_per_step: batch size times segment length.

    Returns:
      Rising ids where clusters begin; none where one cluster is fastest.

    Raises:
      ValueError: for counts that are no counts, and numbers below 1.
    """
    if max_clusters < 1:
        raise ValueError(f"There is at least one cluster. Received: {max_clusters}.")
    width, div_val = config.embedding_dim or config.model_dim, config.div_val
    if div_val > 1:
        max_clusters = min(max_clusters, 1 + int(math.log(width, div_val) + 1e-9))
    settings = {
        "hidden_dim": config.model_dim,
        "div_val": div_val,
        "embed_dim": width,
        "batch_size": tokens_per_step,
    }
    candidates = [
        optimal_cutoffs(counts, clusters, **settings)
        for clusters in range(1, min(max_clusters, len(counts)) + 1)
    ]
    return min(candidates, key=lambda cutoffs: expected_cost(counts, cutoffs, **settings))
