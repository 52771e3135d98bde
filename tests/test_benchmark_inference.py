"""The benchmark of evaluation and generation runs, and its comparison finds what differs."""

import json
import math

import keras
import numpy as np
import pytest

from benchmarks import inference, inference_checks
from benchmarks.inference_checks import check_evaluation, check_greedy
from benchmarks.inference_worker import biases, shares
from transformer_xl import ModelConfig, TransformerXL
from transformer_xl.decoding import Decoder, Sampling
from transformer_xl.training.devices import Stretches

SIZES = {"vocab_size": 60, "cutoffs": [10, 30]}


@pytest.fixture(scope="module")
def model():
    keras.utils.set_random_seed(2)
    # Untied, so that a text is not one token for ever.
    return TransformerXL(
        ModelConfig(
            **SIZES, num_layers=2, model_dim=8, num_heads=2, tie_tables=False, init_stddev=0.4
        )
    )


def ids(*shape):
    return np.random.default_rng(3).integers(0, 60, shape).astype(np.int32)


@pytest.mark.slow
def test_it_runs_and_reports(tmp_path, capsys):
    arguments = ["--quick", "--repeats=2", "--threads=1", f"--output_dir={tmp_path}"]
    inference.main([*arguments, "--task=greedy, B = 1, M = 150", "--task=evaluation"])
    result = json.loads((tmp_path / "inference.json").read_text())
    assert set(result["samples"]) == {"greedy, B = 1, M = 150", "evaluation, 64/640"}
    for name, samples in result["samples"].items():
        seconds = samples["ours"]["seconds"]
        assert len(seconds) == len(samples["ours"]["processor_seconds"]) == 2
        tokens = 48 if name.startswith("greedy") else 24 * 64
        rate = result["tokens_per_second"][name]["ours"]
        assert math.isclose(rate, tokens / np.median(seconds), rel_tol=1e-6)
    checks = result["beside_the_uncached_model"]
    assert checks["evaluation, 64/640"]["difference"] < 1e-5
    assert checks["evaluation, 64/640"]["tokens"] == 20 * 64
    for prompt in ("", ", as timed"):
        assert checks["greedy, B = 1, M = 150" + prompt]["different"] == 0
    assert "of 48 tokens" in capsys.readouterr().out
    assert (tmp_path / "inference.png").stat().st_size > 5_000


def test_ratios_are_to_the_peer():
    name = "greedy, B = 1, M = 150"
    found = {
        name: {
            "ours": {"seconds": [2.0, 1.0, 9.0], "processor_seconds": [2.0]},
            "huggingface": {"seconds": [8.0], "processor_seconds": [12.0]},
        }
    }
    tasks = {name: inference.TASKS[name]}
    by_task = inference.rates(found, tasks)
    text = inference.table(by_task, inference.rates(found, tasks, "processor_seconds"))
    row = text.splitlines()[1].removeprefix(name).split()
    assert row == ["ours", "24.0", "4.00", "24.0", "6.00"]


@pytest.mark.slow
def test_losses_are_compared_token_for_token(model, monkeypatch):
    # All four in a step, of two stretches; by itself a step would have room for forty.
    monkeypatch.setattr(inference_checks, "stretches", lambda *sizes: Stretches(2, 2))
    segments = [ids(2, 6) for _ in range(4)]
    found = check_evaluation(model, segments, 12)
    assert found["tokens"] == 2 * 5 * 4
    assert found["mean_difference"] <= found["difference"] < 1e-5
    # With another memory they are not the same.
    right = model.initial_cache
    monkeypatch.setattr(model, "initial_cache", lambda batch, memory, length: right(batch, 2))
    assert check_evaluation(model, segments, 12)["difference"] > 1e-3


@pytest.mark.parametrize(
    "length", [3, *(pytest.param(n, marks=pytest.mark.slow) for n in (512, 517))]
)
def test_texts_are_compared_token_for_token(model, length):
    prompt = ids(2, length)
    # What XLA compiles is compared by the benchmark itself.
    settings = {"jit_compile": False}
    decoders = [Decoder(model, Sampling(temperature=0), memory, **settings) for memory in (12, 2)]
    found, other = (check_greedy(model, decoder, prompt, 12, 9) for decoder in decoders)
    assert found["tokens"] == 18 and found["distinct"] > 2
    assert found["different"] == found["tied"] == 0 < found["closest"]
    assert other["different"] > 0


def test_both_models_get_the_frequencies_of_words():
    clusters, columns = biases(SIZES)
    assert [len(one) for one in clusters] == [10, 20, 30]
    head = np.exp(np.concatenate([clusters[0], columns]))
    # The head's words and the tails' columns have all of the probability.
    np.testing.assert_allclose(head.sum(), 1, rtol=1e-6)
    np.testing.assert_allclose(head[:10], shares(SIZES)[:10], rtol=1e-6)
