"""train.py on batches whose loss is no number."""

import json
import re

import numpy as np
import pytest

import modes.training
from data_utils import TrainSegments
from tests.test_train import SMALL, run, text  # noqa: F401 (a fixture)

LONG = ["--max_steps=24", "--report_every=1", "--eval_every=6"]


@pytest.fixture
def poisoned(monkeypatch):
    """Makes the weights of the batches of some steps, counted from 1, NaN."""

    def poison(steps):
        class Poisoned(TrainSegments):
            def batch(self, step):
                batch = super().batch(step)
                factor = np.nan if step + 1 in steps else 1
                return batch._replace(weights=batch.weights * np.float32(factor))

        monkeypatch.setattr(modes.training, "TrainSegments", Poisoned)

    return poison


def train_reports(workdir):
    lines = (workdir / "metrics.jsonl").read_text().splitlines()
    return [report for report in map(json.loads, lines) if report["split"] == "train"]


@pytest.mark.slow
def test_one_is_left_out_and_counted(text, tmp_path, capsys, poisoned):  # noqa: F811
    poisoned({5})
    assert run(*SMALL, *LONG, f"--data_dir={text}", f"--workdir={tmp_path}/run") == 0
    reports = train_reports(tmp_path / "run")
    assert [r["step"] for r in reports] == [*range(1, 5), *range(6, 25)]
    assert [r.get("bad_steps", 0) for r in reports] == [0] * 4 + [1] * 19
    printed = capsys.readouterr().out
    assert re.search(r"step 24/24 .* 1 left out", printed)
    assert not re.search(r"step 4/24 .* left out", printed)


@pytest.mark.slow
def test_ten_in_a_row_stop_the_run_which_goes_on_without_them(
    text,  # noqa: F811
    tmp_path,
    capsys,
    poisoned,
):
    arguments = [*SMALL, *LONG, f"--data_dir={text}", f"--workdir={tmp_path}/run"]
    poisoned(range(9, 24))
    assert run(*arguments) == 1
    said = capsys.readouterr().err
    assert said.count("error: ") == 1
    assert re.search(r"error: .* 10 steps in a row .* checkpoint is loadable. Try a lower", said)
    best = f"--workdir={tmp_path}/run"
    assert run("--mode=eval", best, "--split=valid") == 0
    result = json.loads((tmp_path / "run" / "eval.json").read_text())
    assert np.isfinite(result["valid"]["nll"])

    poisoned(())
    capsys.readouterr()
    assert run(*arguments) == 0
    # Of the steps that were left out the last checkpoint has the count.
    begun = int(re.search(r"going on after step (\d+)", capsys.readouterr().out)[1])
    assert 8 <= begun <= 18
    reports = train_reports(tmp_path / "run")
    assert [r["step"] for r in reports] == [*range(1, 9), *range(begun + 1, 25)]
    assert all(np.isfinite(r["loss"]) for r in reports)
    assert reports[-1].get("bad_steps", 0) == begun - 8
