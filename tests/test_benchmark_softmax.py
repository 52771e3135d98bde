"""The benchmark of the softmaxes runs, reports what it could not measure, and writes its files."""

import json
import math
import struct
import subprocess
import sys

import numpy as np
import pytest

from benchmarks import softmax
from benchmarks.softmax_methods import Case, zipf_targets
from benchmarks.softmax_plot import draw, spread
from benchmarks.softmax_processes import Worker, WorkerError, measure_cell
from benchmarks.softmax_table import NAMES, format_cell, format_highlight, short_reason

PEERS = ("torch", "keras_adaptive_softmax")
CASE = Case("full", 50, 8, 64, (10, 20, 30), 4, num_sampled=5, threads=1)


@pytest.fixture
def bare_python(tmp_path):
    """An interpreter that has nothing but NumPy."""
    python = tmp_path / "python"
    # -S: without the packages of this environment.
    python.write_text(
        f'#!/bin/sh\nPYTHONPATH="{tmp_path}" exec "{sys.executable}" -S "$@"\n', encoding="utf-8"
    )
    python.chmod(0o755)
    numpy_folder = str(np.__path__[0])
    (tmp_path / "numpy").symlink_to(numpy_folder)
    libraries = f"{numpy_folder}.libs"
    (tmp_path / "numpy.libs").symlink_to(libraries)
    return str(python)


@pytest.mark.slow
def test_it_runs_and_reports(tmp_path, capsys, bare_python):
    arguments = [
        "--quick",
        "--methods=full,adaptive,torch,keras_adaptive_softmax",
        "--vocab_sizes=300",
        "--batch_vocab_size=300",
        "--batch_sizes=32",
        "--tokens=32",
        "--repeats=2",
        "--threads=1",
        f"--output_dir={tmp_path}",
        *(f"--{peer}_python={bare_python}" for peer in PEERS),
    ]
    softmax.main(arguments)

    printed = capsys.readouterr().out
    results = json.loads((tmp_path / "softmax_comparison.json").read_text())
    (cell,) = results["cells"]
    assert (cell["vocab_size"], cell["tokens"]) == (300, 32)
    assert math.isclose(sum(cell["cluster_shares"]), 1)
    for name in ("full", "adaptive"):
        result = cell["methods"][name]
        assert result["status"] == "ok", result
        for what in ("forward", "step", "fit"):
            figures = result[f"{what}_seconds"]
            assert len(figures["samples"]) == 2
            assert np.isfinite([figures["median"], *figures["samples"]]).all()
        assert math.isfinite(result["backward_seconds"]["median"])
        assert math.isfinite(result["speedup"])
        assert abs(result["step_loss"] - math.log(300)) < 2
        assert result["parameters"] > 0
        assert result["versions"]["tensorflow"]
    for peer in PEERS:
        assert cell["methods"][peer]["status"] == "not installed"
        assert f"{NAMES[peer]} not installed" in " ".join(printed.split())
    assert results["highlight"]["ratios"]["torch_over_adaptive"] is None
    assert results["highlight"]["ratios"]["fit_full_over_adaptive"] > 0
    for row in (NAMES["full"], NAMES["adaptive"], "one step of fit"):
        assert row in printed
    assert _png_size(tmp_path / "softmax_comparison.png") > (1000, 700)


def _png_size(path):
    start = path.read_bytes()[:24]
    assert start[:8] == b"\x89PNG\r\n\x1a\n"
    return struct.unpack(">II", start[16:])


def test_a_worker_that_dies_is_reported(bare_python):
    worker = Worker(bare_python, CASE)
    worker._process.kill()
    with pytest.raises(WorkerError, match="SIGKILL, as the system does when memory runs out"):
        worker.ask(do="load")
    worker.stop()


def test_a_wrong_case_fails_with_its_reason(bare_python):
    case = Case("torch", 50, 8, 64, (10, 20, 30), 4, num_sampled=5, threads=1)
    found = measure_cell({"torch": case}, {"torch": bare_python}, repeats=1, seconds=1)
    assert found["torch"]["status"] == "not installed"
    assert "torch" in found["torch"]["reason"]


def test_failures_are_in_table_and_picture(tmp_path):
    reason = "ResourceExhaustedError: OOM when allocating tensor with shape[4096,267735]"
    failed = {"status": "failed", "reason": reason}
    assert short_reason(failed) == "failed: out of memory"
    assert short_reason({"status": "failed", "reason": "no answer"}) == "failed: no answer"
    figures = {
        f"{what}_seconds": {"median": 0.1, "samples": [0.1]}
        for what in ("forward", "backward", "step", "fit")
    }
    cell = {
        "vocab_size": 100,
        "tokens": 8,
        "cutoffs": [10],
        "cluster_sizes": [10, 90],
        "cluster_shares": [0.6, 0.4],
        "methods": {
            "full": failed,
            "adaptive": {
                "status": "ok",
                "speedup": None,
                "peak_memory_bytes": 1e6,
                "step_loss": 4.0,
                **figures,
            },
        },
    }
    assert "failed: out of memory" in format_cell(cell)
    settings = vars(softmax.parse(["--tokens=8", "--batch_vocab_size=100"]))
    assert "failed: out of memory" in format_highlight(cell, settings)
    results = {"cells": [cell], "settings": settings, "device": "CPU"}
    results["highlight"] = softmax.highlight(cell)
    draw(results, str(tmp_path / "picture.png"))
    assert _png_size(tmp_path / "picture.png") > (1000, 700)


def test_targets_fall_in_frequency_and_are_the_same_for_every_method():
    targets = zipf_targets(1000, 20_000, 1.0, [1, 2])
    counts = np.bincount(targets, minlength=1000)
    assert targets.dtype == np.int32
    assert counts[0] > counts[9] > counts[500:].max()
    np.testing.assert_array_equal(targets, zipf_targets(1000, 20_000, 1.0, [1, 2]))


def test_the_largest_size_comes_first_and_each_once():
    settings = softmax.parse(
        ["--vocab_sizes=100,5_000", "--tokens=64", "--batch_sizes=64,128", "--batch_vocab_size=100"]
    )
    assert softmax.sizes(settings) == [(5000, 64), (100, 128), (100, 64)]


def test_cutoffs_keep_their_proportions():
    settings = softmax.parse([])
    assert softmax.cutoffs_for(267_735, 1024, settings) == (20_000, 40_000, 200_000)
    assert softmax.cutoffs_for(26_774, 1024, settings) == (2000, 4000, 20_000)


def test_flags_win_over_the_quick_sizes():
    settings = softmax.parse(["--quick", "--repeats=7"])
    assert settings.repeats == 7
    assert settings.hidden_dim == softmax.QUICK["hidden_dim"]


def test_a_wrong_method_is_refused():
    with pytest.raises(SystemExit):
        softmax.parse(["--methods=full,softmax"])


def test_names_of_lines_keep_apart():
    assert spread([0.1, 0.5, 0.9], 0.1) == pytest.approx([0.1, 0.5, 0.9])
    assert spread([0.5, 0.5, 0.52, 0.9], 0.1) == pytest.approx(
        [0.4067, 0.5067, 0.6067, 0.9], abs=1e-3
    )


def test_help_says_how_long_it_takes():
    shown = subprocess.run(
        [sys.executable, "-m", "benchmarks.softmax", "--help"],
        cwd=softmax.pathlib.Path(__file__).parent.parent,
        capture_output=True,
        text=True,
        check=True,
    )
    assert "minutes" in shown.stdout
