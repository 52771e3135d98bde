"""The benchmarks of the training step and of the loss' memory run and report."""

import argparse
import json
import math

import numpy as np
import pytest

from benchmarks import growth, loss_memory, training_step
from benchmarks.training_step_methods import Case, zipf_ids


@pytest.mark.slow
def test_it_runs_and_says_what_is_not_installed(tmp_path, capsys):
    # This interpreter has no torch.
    pytest.importorskip("matplotlib")
    training_step.main(
        [
            "--quick",
            "--methods=ours,huggingface",
            "--div_vals=2",
            "--repeats=2",
            "--threads=1",
            f"--output_dir={tmp_path}",
        ]
    )
    (cell,) = json.loads((tmp_path / "training_step.json").read_text())["cells"]
    ours = cell["methods"]["ours"]
    assert ours["status"] == "ok", ours
    assert len(ours["seconds"]["samples"]) == 2
    assert math.isclose(
        ours["tokens_per_second"], 4 * 8 / np.median(ours["seconds"]["samples"]), rel_tol=1e-6
    )
    # Two steps of training leave the loss near that of equal chances.
    assert abs(ours["loss"] - math.log(500)) < 1
    assert ours["peak_memory_bytes"] > ours["before_memory_bytes"]
    assert cell["methods"]["huggingface"]["status"] == "not installed"
    assert "not installed" in capsys.readouterr().out
    assert (tmp_path / "training_step.png").stat().st_size > 5_000


def test_ratios_are_to_the_peer():
    def method(seconds, processor, peak):
        return {
            "status": "ok",
            "seconds": {"median": seconds},
            "processor_seconds": processor,
            "tokens_per_second": 600 / seconds,
            "peak_memory_bytes": peak,
        }

    methods = {"ours": method(2.0, 3.0, 3e9), "huggingface": method(5.0, 9.0, 4e9)}
    text = training_step.table({"case": vars(Case("")), "methods": methods})
    (row,) = [line.split() for line in text.splitlines() if line.startswith("ours")]
    assert row == ["ours", "2,000", "300", "2.50", "3,000", "3.00", "3,000", "0.75"]


def test_ids_follow_zipfs_law_and_differ_from_step_to_step():
    case = Case("", batch_size=100, segment_length=199, vocab_size=1000, cutoffs=())
    first, second = zipf_ids(case, 0), zipf_ids(case, 1)
    assert first.shape == (100, 200)
    assert np.any(first != second)
    harmonic = np.sum(1 / np.arange(1, 1001))
    assert abs(np.mean(first == 0) - 1 / harmonic) < 0.01


def test_growth_changes_one_size_at_a_time():
    settings = argparse.Namespace(quick=True, doublings=2, threads=1)
    cases = growth.sizes(settings)
    base = vars(cases["base"])
    assert len(cases) == 1 + 4 * 2
    for name, letter in growth.DIRECTIONS.items():
        changed = vars(cases[f"{letter} x4"])
        others = {key for key in base if changed[key] != base[key]} - {name, "cutoffs"}
        assert changed[name] == 4 * base[name]
        assert not others


def test_operations_grow_as_they_must():
    cases = growth.sizes(argparse.Namespace(quick=True, doublings=1, threads=1))
    base = growth.flops(cases["base"])
    # All but the projection of positions, which the rows of a batch share.
    assert 1.8 < growth.flops(cases["B x2"]) / base < 2
    # Twice the tokens, and more keys for each.
    assert growth.flops(cases["L x2"]) / base > 1.9
    assert 1 < growth.flops(cases["M x2"]) / base < 1.5
    assert 1 < growth.flops(cases["V x2"]) / base < 2


def test_memory_of_the_loss_is_reported_with_its_growth():
    cells = [
        {"method": "adaptive", "vocab_size": 10, "status": "ok", "bytes": 100, "gradient_bytes": 7},
        {"method": "torch", "vocab_size": 10, "status": "not installed"},
        {"method": "adaptive", "vocab_size": 20, "status": "ok", "bytes": 105, "gradient_bytes": 9},
        {"method": "torch", "vocab_size": 20, "status": "not installed"},
    ]
    assert loss_memory.growth(cells) == "with twice the vocabulary: adaptive +5.0%"
    assert loss_memory.line(cells[1]).split() == ["10", "torch", "not", "installed"]
