"""SampledSoftmax under policies of one dtype, and loaded before it knows its width.

D width, V classes.
"""

import keras
import numpy as np
import pytest
import tensorflow as tf

from adaptive import SampledSoftmax, SoftmaxModel

D, V = 3, 11


@pytest.mark.parametrize("policy", ["bfloat16", "float16", "float64"])
def test_training_under_a_policy_of_one_dtype(policy):
    """With all classes in the sample the loss is the full softmax's; no product is rounded."""
    random = np.random.default_rng(0)
    hidden = random.integers(-2, 3, (4, D)).astype(np.float64)
    kernel, bias = random.integers(-2, 3, (V, D)), random.integers(-2, 3, V)
    head = SampledSoftmax(V, V, D, dtype=policy)
    head.build(None)
    head.kernel.assign(kernel)
    head.bias.assign(bias)
    targets = np.array([0, 10, 4, 4])
    logits = hidden @ kernel.T + bias
    expected = np.log(np.exp(logits).sum(-1)) - logits[range(4), targets]
    with tf.GradientTape() as tape:
        nll = head.nll(hidden, targets, training=True)
    assert nll.dtype == tf.float32
    np.testing.assert_allclose(nll, expected, rtol=1e-5)
    assert tape.gradient(nll, head.bias.value).dtype == policy
    np.testing.assert_allclose(head.loss(hidden, targets, training=True), expected.sum(), rtol=1e-5)


@pytest.mark.parametrize("tied", [False, True])
def test_weights_are_loaded_before_the_first_call(tmp_path, tied):
    def make():
        embedding = keras.layers.Embedding(V, D)
        head = SampledSoftmax(4, V, tied_to=embedding if tied else None)
        model = SoftmaxModel(embedding, head)
        model.build((None, 5))
        return model

    first, loaded = make(), make()
    first(np.zeros([1, 5], np.int32))
    first.head.bias.assign(np.arange(V))
    first.save_weights(tmp_path / "model.weights.h5")
    assert not loaded.head.built
    loaded.load_weights(tmp_path / "model.weights.h5")
    np.testing.assert_array_equal(loaded.head.bias, np.arange(V))
    np.testing.assert_array_equal(loaded.head.kernel, first.head.kernel)
    loaded(np.zeros([1, 5], np.int32))
    np.testing.assert_array_equal(loaded.head.bias, np.arange(V))
