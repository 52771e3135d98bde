"""The loss and the share of the targets in each cluster of the vocabulary, for reports.

Summed on the device with each step, and read with the reports. B batch, L segment length,
C clusters.
"""

from collections.abc import Sequence

import numpy as np
import tensorflow as tf


def cluster_sums(clusters, targets, shares, losses):
    """What a batch adds, float32 `[C, 2]`: weighted losses, and weights, of the targets there.

    Args:
      clusters: the `Clusters` of the vocabulary.
      targets: int `[B, L]`.
      shares: float32 `[B, L]`, what each counts for.
      losses: float32 `[B, L]`, nats.
    """
    pairs = tf.stack([shares * losses, shares], -1)
    # A target that counts for nothing has no part in it, whatever its loss is.
    pairs = tf.where((shares != 0)[..., None], pairs, 0.0)
    inside = tf.one_hot(clusters.cluster_of(tf.cast(targets, tf.int32)), clusters.num_clusters)
    return tf.reduce_sum(inside[..., None] * pairs[:, :, None], [0, 1])


def cluster_report(sums: list, tokens: Sequence[int] | None = None) -> dict[str, list]:
    """What a report says of the steps since the last one, from `cluster_sums` of each.

    Steps whose sums are not finite are left out.

    Args:
      sums: float32 `[C, 2]` of each step.
      tokens: how many each step had; None: equally many.

    Returns:
      By name, lists of C numbers: `cluster_loss`, nats per token, None for a cluster without
      targets; `cluster_hit_rate`, which part of the targets is there. Nothing where there is only
      one cluster.
    """
    steps = tf.stack(sums).numpy().astype(np.float64)
    if steps.shape[1] == 1:
        return {}
    # Each token counts alike, whatever the loss of its step was scaled by.
    scales = np.maximum(steps[:, :, 1].sum(1), 1e-30)
    steps *= ((1.0 if tokens is None else np.asarray(tokens)) / scales)[:, None, None]
    nll, weight = steps[np.isfinite(steps).all((1, 2))].sum(0).T
    return {
        "cluster_loss": [n / w if w else None for n, w in zip(nll, weight)],
        "cluster_hit_rate": (weight / max(weight.sum(), 1e-30)).tolist(),
    }
