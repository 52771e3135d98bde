"""The layers against numbers made by PyTorch and by keras-adaptive-softmax."""

import json
import pathlib
import re

import keras
import numpy as np
import pytest
import tensorflow as tf

from adaptive import AdaptiveEmbedding, AdaptiveLogSoftmaxWithLoss, AdaptiveSoftmax

GOLDEN = pathlib.Path(__file__).parent / "golden"
TORCH = sorted(path.stem for path in GOLDEN.glob("adaptive_log_softmax_with_loss_*.npz"))
KERAS = sorted(path.stem for path in GOLDEN.glob("keras_adaptive_*.npz"))


def load(case):
    with np.load(GOLDEN / f"{case}.npz") as data:
        return json.loads(str(data["config"])), {name: data[name] for name in data.files}


def test_the_files_are_there():
    assert len(TORCH) == 3 and len(KERAS) == 4


def torch_weights(layer):
    """The layer's weights by PyTorch's names."""
    weights = {"head.weight": layer.head_kernel}
    if layer.head_bias:
        weights["head.bias"] = layer.head_biases
    for i in range(1, layer.clusters.num_clusters):
        weights[f"tail.{i - 1}.0.weight"] = layer.projections[i]
        weights[f"tail.{i - 1}.1.weight"] = layer.tables[i]
    return weights


@pytest.mark.parametrize("case", TORCH)
def test_pytorch(case):
    config, golden = load(case)
    layer = AdaptiveLogSoftmaxWithLoss(**config)
    layer.build(None)
    weights = torch_weights(layer)
    assert {f"weight/{name}" for name in weights} == {k for k in golden if k.startswith("weight/")}
    for name, weight in weights.items():
        weight.assign(golden[f"weight/{name}"])
    hidden = tf.constant(golden["input"])
    with tf.GradientTape() as tape:
        tape.watch(hidden)
        output, loss = layer(hidden, golden["target"])
    np.testing.assert_allclose(output, golden["output"], rtol=0, atol=1e-5)
    np.testing.assert_allclose(loss, golden["loss"], rtol=0, atol=1e-5)
    np.testing.assert_allclose(layer.log_prob(hidden), golden["log_prob"], rtol=0, atol=1e-5)
    np.testing.assert_allclose(layer(hidden), golden["log_prob"], rtol=0, atol=1e-5)
    np.testing.assert_array_equal(layer.predict(hidden), golden["predict"])

    recorded = [name for name in weights if f"gradient/{name}" in golden]
    gradients = tape.gradient(loss, [hidden, *(weights[name].value for name in recorded)])
    np.testing.assert_allclose(gradients[0], golden["input_gradient"], rtol=0, atol=1e-5)
    for name, gradient in zip(recorded, gradients[1:]):
        expected = golden[f"gradient/{name}"]
        np.testing.assert_allclose(gradient, expected, rtol=0, atol=1e-5, err_msg=name)


def keras_model(config):
    """The model that made the numbers, with the layers of this project."""
    tokens = keras.Input((None,), dtype="int32")
    embedding = AdaptiveEmbedding(
        input_dim=30,
        output_dim=32,
        return_embeddings=True,
        return_projections=True,
        mask_zero=True,
        **config["common"],
        **config["embedding"],
    )
    softmax = AdaptiveSoftmax(input_dim=32, output_dim=30, **config["common"], **config["softmax"])
    embedded, *tables = embedding(tokens)
    dense = keras.layers.Dense(32, activation="tanh", name="dense")
    model = keras.Model(tokens, [embedded, softmax([dense(embedded), *tables])])
    return model, embedding, dense, softmax


def place(golden, embedding, dense, softmax):
    """Puts the recorded weights where they belong; returns how many."""
    single = {
        "kernel-cluster": (softmax.cluster_kernel, np.transpose),
        "bias-cluster": (softmax.cluster_bias, np.asarray),
        "kernel": (dense.kernel, np.asarray),
        "bias": (dense.bias, np.asarray),
    }
    by_cluster = {
        ("embedding", "embeddings"): embedding.tables,
        ("embedding", "kernel"): embedding.projections,
        ("softmax", "embeddings"): softmax._own_tables,
        ("softmax", "kernel"): softmax._own_projections,
        ("softmax", "bias"): softmax.biases,
    }
    names = [name for name in golden if name.startswith("weight/")]
    for name in names:
        layer, weight = re.fullmatch(
            r"weight/(?:adaptive_)?([a-z]+)(?:_\d+)?/(.+):0", name
        ).groups()
        if weight in single:
            variable, change = single[weight]
            variable.assign(change(golden[name]))
        else:
            kind, cluster = weight.rsplit("-", 1)
            by_cluster[layer, kind][int(cluster)].assign(golden[name])
    return len(names)


@pytest.mark.parametrize("case", KERAS)
def test_keras_adaptive_softmax(case):
    config, golden = load(case)
    model, embedding, dense, softmax = keras_model(config)
    assert place(golden, embedding, dense, softmax) == len(model.weights)
    embedded, probabilities = model.predict(golden["tokens"], verbose=0)
    np.testing.assert_allclose(embedded, golden["embedded"], rtol=0, atol=1e-5)
    np.testing.assert_allclose(probabilities, golden["probabilities"], rtol=0, atol=1e-5)
