"""The whole model against golden numbers of HuggingFace's TransfoXL; see golden/README.md.

The NumPy oracles are compared with the same files in test_reference.py.
"""

import functools
import json

import numpy as np
import pytest
import tensorflow as tf

from tests.reference import golden
from transformer_xl import TransformerXL
from transformer_xl.pretrained import assign_huggingface_weights, config_from_huggingface

SEGMENTS, LENGTH = 4, 7
FILES = sorted(golden.DIRECTORY.glob("transformer_xl_*.npz"))
CASES = [path.stem.removeprefix("transformer_xl_") for path in FILES]


@functools.cache
def load(case):
    with np.load(golden.DIRECTORY / f"transformer_xl_{case}.npz") as file:
        return dict(file)


def config_of(arrays):
    return json.loads(str(arrays["config"]))


def weights_of(arrays):
    prefix = "weight/"
    return {
        name.removeprefix(prefix): value
        for name, value in arrays.items()
        if name.startswith(prefix)
    }


@functools.cache
def model_of(case):
    arrays = load(case)
    model = TransformerXL(config_from_huggingface(config_of(arrays)))
    assign_huggingface_weights(model, weights_of(arrays))
    return model


def assert_close(actual, expected):
    """Within 5e-5 absolute or 1e-5 relative, whichever is larger."""
    assert actual.shape == expected.shape
    bound = np.maximum(5e-5, 1e-5 * np.abs(expected))
    assert np.max(np.abs(np.asarray(actual, np.float64) - expected) / bound) < 1


def test_every_golden_file_is_there():
    assert len(CASES) == 9


@pytest.mark.parametrize(
    ("case", "jit_compile"),
    [
        # Each is read by the same operations without tracing them, which takes most of the time.
        *((case, None) for case in CASES if case != "div4"),
        *(
            pytest.param(case, jit_compile, marks=() if case == "div4" else pytest.mark.slow)
            for case in CASES
            for jit_compile in (False, True)
        ),
    ],
)
def test_four_segments(case, jit_compile):
    arrays, model = load(case), model_of(case)

    def step(tokens, targets, memory):
        hidden, memory = model(tokens, memory)
        nll = model.head.nll(hidden, targets)
        return hidden, nll, model.head.log_prob(hidden[:, -1]), memory

    if jit_compile is not None:
        step = tf.function(step, jit_compile=jit_compile, autograph=False)
    tokens = arrays["tokens"].astype("int32")
    memory = model.initial_memory(len(tokens))
    for segment in range(SEGMENTS):
        now = slice(segment * LENGTH, (segment + 1) * LENGTH)
        inputs, targets = tokens[:, now], tokens[:, 1:][:, now]
        hidden, nll, log_prob_last, memory = step(tf.constant(inputs), tf.constant(targets), memory)
        assert_close(hidden, arrays[f"hidden_{segment}"])
        assert_close(nll, arrays[f"nll_{segment}"])
    assert jit_compile is None or step.experimental_get_tracing_count() == 1
    for n, layer in enumerate(memory.hidden):
        assert_close(layer, arrays[f"memory_{n}"])
    assert_close(log_prob_last, arrays["log_prob_last"])


def with_weight(name, change):
    """A change of a state dict: `change` of one weight, which may be new; None takes it out."""

    def changed(weights):
        value = change(weights.get(name))
        rest = {other: weight for other, weight in weights.items() if other != name}
        return rest if value is None else {**rest, name: value}

    return changed


R_NET = "transformer.layers.{}.dec_attn.r_net.weight"


@pytest.mark.parametrize(
    "changed, message",
    [
        (
            with_weight("crit.cluster_weight", lambda _: None),
            r"the state dict do not fit the model\. It lacks: crit\.cluster_weight\.",
        ),
        (
            with_weight(R_NET.format(1), lambda _: None),
            f"It lacks: {R_NET.format(1)}",
        ),
        (
            with_weight(R_NET.format(3), lambda _: np.ones([64, 64])),
            f"no place for: {R_NET.format(3)}",
        ),
        (
            with_weight("transformer.layers.0.pos_ff.CoreNet.0.bias", lambda bias: bias[1:]),
            r"layers\.0\.pos_ff\.CoreNet\.0\.bias is \(95,\), must be \(96,\)",
        ),
        (
            with_weight("transformer.word_emb.emb_layers.0.weight", lambda table: table[:, 1:]),
            r"emb_layers\.0\.weight is \(20, 63\), must be \(20, 64\)",
        ),
        (
            with_weight("crit.out_layers.1.weight", lambda table: table + 1),
            r"not equal: transformer\.word_emb\.emb_layers\.1\.weight and crit\.out_layers\.1",
        ),
        (
            with_weight("crit.out_projs.1", lambda projection: projection + 1),
            r"not equal: transformer\.word_emb\.emb_projs\.1 and crit\.out_projs\.1",
        ),
    ],
)
def test_mapping_refuses_weights_that_do_not_fit(changed, message):
    with pytest.raises(ValueError, match=message):
        assign_huggingface_weights(model_of("div4"), changed(weights_of(load("div4"))))


def test_mapping_does_without_the_frequencies():
    # Some versions write this constant into the state dict and some do not.
    without = with_weight("transformer.pos_emb.inv_freq", lambda _: None)
    assign_huggingface_weights(model_of("div4"), without(weights_of(load("div4"))))


@pytest.mark.parametrize("name, value", [("attn_type", 1), ("sample_softmax", 5)])
def test_models_of_another_kind_are_refused(name, value):
    with pytest.raises(ValueError, match=f"Only relative attention .*{name}={value}"):
        config_from_huggingface({**config_of(load("div4")), name: value})
