"""Sixty training steps, against the same steps of HuggingFace's TransfoXL."""

import json

import numpy as np
import pytest

from tests.reference import golden
from transformer_xl import TransformerXL
from transformer_xl.pretrained import assign_huggingface_weights, config_from_huggingface
from transformer_xl.training.adam import Adam
from transformer_xl.training.steps import make_train_step


@pytest.fixture(scope="module")
def curve():
    with np.load(golden.DIRECTORY / "training_curve.npz") as file:
        return dict(file)


@pytest.mark.parametrize(
    ("jit_compile", "tolerance"), [(False, 1e-5), pytest.param(True, 1e-4, marks=pytest.mark.slow)]
)
def test_losses_and_gradient_norms(curve, jit_compile, tolerance):
    model = TransformerXL(config_from_huggingface(json.loads(str(curve["config"]))))
    prefix = "weight/"
    weights = {n.removeprefix(prefix): w for n, w in curve.items() if n.startswith(prefix)}
    assign_huggingface_weights(model, weights)
    optimizer = Adam(float(curve["learning_rate"]), epsilon=1e-8)
    step = make_train_step(model, optimizer, float(curve["clip_norm"]), jit_compile)
    tokens, length = curve["tokens"], int(curve["segment_length"])
    memory, weights = model.initial_memory(len(tokens)), np.ones((len(tokens), length), "float32")
    losses, norms = [], []
    for start in range(0, tokens.shape[1] - 1, length):
        inputs = tokens[:, start : start + length]
        targets = tokens[:, start + 1 : start + length + 1]
        memory, metrics = step(inputs, targets, weights, memory)
        losses.append(float(metrics.loss))
        norms.append(float(metrics.gradient_norm))
    assert len(losses) == 60
    # Keras' Adam and ours add epsilon to the uncorrected root.
    np.testing.assert_allclose(losses, curve["losses_keras_epsilon"], rtol=tolerance)
    np.testing.assert_allclose(norms, curve["gradient_norms_keras_epsilon"], rtol=tolerance)
