"""Losses and shares of the targets by cluster, as training reports them."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from adaptive import Clusters
from transformer_xl import ModelConfig, TrainConfig, TransformerXL
from transformer_xl.training.cluster_losses import cluster_report, cluster_sums
from transformer_xl.training.optimizer import make_optimizer
from transformer_xl.training.steps import make_train_step

pytestmark = pytest.mark.usefixtures("graphs_as_written")

B, L, V, CUTOFFS = 4, 6, 30, (5, 12)


def batch(seed):
    random = np.random.default_rng(seed)
    tokens = random.integers(0, V, (B, L + 1)).astype("int32")
    weights = random.integers(0, 3, (B, L)).astype("float32")
    return tokens[:, :-1], tokens[:, 1:], weights


def by_hand(nll, targets, weights):
    """Means and shares of steps that count alike, in NumPy."""
    losses, hits = np.zeros(3), np.zeros(3)
    for step in range(len(nll)):
        share = weights[step] / weights[step].sum()
        for cluster, (low, high) in enumerate(((0, 5), (5, 12), (12, V))):
            inside = (targets[step] >= low) & (targets[step] < high)
            losses[cluster] += (share * nll[step])[inside].sum()
            hits[cluster] += share[inside].sum()
    return losses / hits, hits / hits.sum()


def test_sums_against_numpy():
    random = np.random.default_rng(1)
    nll, weights = random.random((2, B, L)).astype("float32"), random.random((2, B, L))
    weights = weights.astype("float32")
    targets = random.integers(0, V, (2, B, L)).astype("int32")
    clusters = Clusters(V, CUTOFFS)
    sums = [
        cluster_sums(clusters, targets[step], scale * weights[step], nll[step])
        for step, scale in ((0, 1.0), (1, 1024.0))  # as with a loss scale
    ]
    report = cluster_report(sums)
    losses, hits = by_hand(nll, targets, weights)
    np.testing.assert_allclose(report["cluster_loss"], losses, rtol=1e-6)
    np.testing.assert_allclose(report["cluster_hit_rate"], hits, rtol=1e-6)


def test_what_counts_for_nothing_and_clusters_without_targets():
    targets = np.array([[0, 1, 20]], "int32")
    losses = np.array([[1.0, np.nan, 3.0]], "float32")
    shares = np.array([[1.0, 0.0, 3.0]], "float32")
    sums = cluster_sums(Clusters(V, CUTOFFS), targets, shares, losses)
    bad = tf.fill([3, 2], np.float32(np.nan))
    report = cluster_report([sums, bad])
    assert report == {"cluster_loss": [1.0, None, 3.0], "cluster_hit_rate": [0.25, 0.0, 0.75]}
    assert cluster_report([tf.ones([1, 2])]) == {}


@pytest.mark.parametrize("parts", [pytest.param(1, marks=pytest.mark.slow), 2])
def test_a_training_step_sums_its_own_losses(parts):
    """Without dropout these are the losses of `nll`, whose weighted mean is the step's."""
    config = ModelConfig(
        V,
        num_layers=1,
        model_dim=8,
        num_heads=2,
        feed_forward_dim=8,
        cutoffs=CUTOFFS,
        div_val=2,
        memory_length=4,
        dropout=0.0,
    )
    keras.utils.set_random_seed(3)
    model = TransformerXL(config)
    tokens, targets, weights = batch(2)
    memory = model.initial_memory(B)
    nll, _ = model.nll(tokens, targets, memory)
    step = make_train_step(model, make_optimizer(TrainConfig()), 0.25, accumulate_steps=parts)
    _, metrics = step(tokens, targets, weights, memory)
    report = cluster_report([metrics.cluster_sums])
    losses, hits = by_hand(nll.numpy()[None], targets[None], weights[None])
    np.testing.assert_allclose(report["cluster_loss"], losses, rtol=1e-5)
    np.testing.assert_allclose(report["cluster_hit_rate"], hits, rtol=1e-6)
    mean = np.dot(report["cluster_loss"], report["cluster_hit_rate"])
    np.testing.assert_allclose(mean, float(metrics.loss), rtol=1e-5)
