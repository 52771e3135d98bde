"""A column's bias of -inf takes a tail out of the distribution and leaves the others right."""

import numpy as np
import pytest
import tensorflow as tf

from adaptive import AdaptiveSoftmax
from tests.reference import adaptive as oracle


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_a_banned_tail(smoothing):
    random = np.random.default_rng(0)
    head = AdaptiveSoftmax(4, 12, cutoffs=[3, 7], label_smoothing=smoothing)
    head.build(None)
    for weight in head.weights:
        weight.assign(random.normal(size=weight.shape))
    head.cluster_bias.assign([0.5, -np.inf])
    hidden, targets = random.normal(size=(4, 4)).astype(np.float32), np.array([0, 3, 6, 8])
    tables, biases = ([one.numpy() for one in kind] for kind in (head.tables, head.biases))
    columns = head.cluster_kernel.numpy(), head.cluster_bias.numpy()
    expected = oracle.nll(hidden, targets, tables, biases, None, *columns)
    assert np.isinf(expected[3]) and np.isfinite(expected[:3]).all()
    np.testing.assert_allclose(head.nll(hidden, targets), expected, rtol=1e-5)
    if smoothing:  # every word has its share of each label, the banned ones, too
        expected = np.full(4, np.inf)
        np.testing.assert_array_equal(head.nll(hidden, targets, training=True), expected)
        return
    hidden = tf.constant(hidden[:3])
    with tf.GradientTape() as tape:
        tape.watch(hidden)
        loss = head.loss(hidden, targets[:3], training=True)
    np.testing.assert_allclose(loss, expected[:3].sum(), rtol=1e-5)
    gradients = oracle.nll_gradients(
        hidden.numpy(), targets[:3], np.ones(3), tables, biases, None, *columns
    )
    np.testing.assert_allclose(tape.gradient(loss, hidden), gradients.hidden, rtol=1e-5, atol=1e-6)
