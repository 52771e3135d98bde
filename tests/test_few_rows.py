"""linear_nll where few of the rows are wanted, as in evaluation's tails, against NumPy."""

import numpy as np
import pytest
import tensorflow as tf

from adaptive import cross_entropy
from adaptive.cross_entropy import Rows, linear_nll
from tests.test_cross_entropy import draw, expected, tensors
from transformer_xl.attention import attention_weights
from transformer_xl.training.devices import compiles_with_xla


@pytest.mark.parametrize("outside_xla", [False, True])
@pytest.mark.parametrize("count", [0, 1, 11, 40, 64])
def test_losses_and_gradients(count, outside_xla):
    data = draw(64)
    *sources, targets, weights = tensors(*data)
    order = np.random.default_rng(1).permutation(64).astype(np.int32)
    rows = Rows(tf.constant(order), tf.constant(0), tf.constant(count))

    @tf.function
    def run():
        with tf.GradientTape() as tape:
            tape.watch(sources)
            nll = linear_nll(*sources, targets, rows, outside_xla=outside_xla)
            total = tf.reduce_sum(nll * weights)
        return nll, *tape.gradient(total, sources)

    for one, other in zip(run(), expected(*data, order[:count]), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=2e-5)


@pytest.mark.parametrize(
    ("outside_xla", "count", "sizes"),
    [
        (False, 3, [16]),
        (False, 17, [16, 16]),
        (True, 3, [8]),
        (True, 17, [24]),
        (True, 64, [64]),
    ],
)
def test_chunks_are_as_small_as_the_rows_are_few(monkeypatch, outside_xla, count, sizes):
    inputs, table, bias, targets, _ = tensors(*draw(64))
    found, chunk = [], cross_entropy._chunk

    def spy(inputs, *others):
        found.append(len(inputs))
        return chunk(inputs, *others)

    monkeypatch.setattr(cross_entropy, "_chunk", spy)
    rows = Rows(tf.range(64), tf.constant(0), tf.constant(count))
    linear_nll(inputs, table, bias, targets, rows, outside_xla=outside_xla)
    assert found == sizes


def test_keys_that_are_not_visible_have_no_weight_and_no_gradient():
    random = np.random.default_rng(2)
    scores = random.normal(size=(2, 3, 4, 5)).astype(np.float32)
    visible = np.tril(np.ones((4, 5), bool), 1)[None, None] & (random.random((2, 1, 4, 5)) < 0.7)
    visible[..., 0] = True
    exponentials = np.where(visible, np.exp(np.float64(scores)), 0)
    upstream = random.normal(size=scores.shape)
    weights = exponentials / exponentials.sum(-1, keepdims=True)
    slopes = weights * (upstream - (upstream * weights).sum(-1, keepdims=True))
    scores = tf.constant(scores)
    with tf.GradientTape() as tape:
        tape.watch(scores)
        found = attention_weights(scores, tf.constant(visible))
        total = tf.reduce_sum(found * tf.constant(upstream, tf.float32))
    np.testing.assert_allclose(found, weights, rtol=1e-5)
    np.testing.assert_allclose(tape.gradient(total, scores), slopes, rtol=1e-4, atol=1e-6)
    unseen = ~np.broadcast_to(visible, scores.shape)
    assert not found.numpy()[unseen].any()


def test_what_auto_chooses(monkeypatch):
    devices = []
    monkeypatch.setattr(tf.config, "list_physical_devices", lambda kind: devices)
    assert not compiles_with_xla("auto")
    assert compiles_with_xla("auto", trains_without_dropout=True)
    assert compiles_with_xla("true") and not compiles_with_xla("false", True)
    devices.append("a GPU")
    assert compiles_with_xla("auto") and not compiles_with_xla("false")
