"""--dry_run, --profile_steps and --eval_steps from the command line."""

import json
import re

import pytest

from tests.test_train import SMALL, run, snapshot, text
from transformer_xl.training.best_choice import choose_best
from transformer_xl.training.profile import profile_range

pytestmark = pytest.mark.usefixtures(
    "graphs_as_written", "short_evaluation_steps", "without_samples"
)

__all__ = ["text"]  # a fixture


def numbers(section):
    """The rows of a printed table, by their names."""
    rows = re.findall(r"^  (\D+?) +([\d,.]+)$", section, re.MULTILINE)
    return {name: float(value.replace(",", "")) for name, value in rows}


def test_a_dry_run_says_what_it_costs_and_writes_no_run(text, tmp_path, capsys):
    arguments = [*SMALL, f"--data_dir={text}", f"--workdir={tmp_path}/run"]
    assert run(*arguments, "--dry_run", "--max_steps=1000", "--eval_every=100") == 0
    printed = capsys.readouterr().out
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["data"]
    parameters, operations = printed.split("\n\n")[1:3]
    # Kernels of queries, keys, values, positions and results, the biases u and v, the norm.
    assert numbers(parameters)["attention"] == 5 * 16 * 16 + 2 * 16 + 2 * 16
    assert numbers(parameters)["feed-forward"] == 2 * 16 * 16 + 2 * 16 + 2 * 16
    number = numbers(operations)
    assert number["forward and backward"] > 2.5 * number["forward"] > 0
    assert re.search(r"\d+ steps an epoch, 1,000 are [\d.,]+", printed)
    milliseconds = float(re.search(r"a step takes ([\d.,]+) ms", printed)[1].replace(",", ""))
    minutes, seconds = re.search(r"expected: (\d+)m (\d+)s of training", printed).groups()
    assert int(minutes) * 60 + int(seconds) == pytest.approx(milliseconds, abs=0.6)
    assert "of 10 validations" in printed


@pytest.mark.slow
def test_a_dry_run_leaves_a_run_as_it_is(text, tmp_path, capsys):
    arguments = [*SMALL, f"--data_dir={text}", f"--workdir={tmp_path}/run", "--max_steps=2"]
    assert run(*arguments) == 0
    before = snapshot(tmp_path)
    assert run(*arguments, "--dry_run") == 0
    assert snapshot(tmp_path) == before


@pytest.mark.slow
def test_some_steps_are_traced(text, tmp_path, capsys):
    arguments = [*SMALL, f"--data_dir={text}", f"--workdir={tmp_path}/run"]
    assert run(*arguments, "--profile_steps=2,3") == 0
    traces = list((tmp_path / "run" / "profile").rglob("*.xplane.pb"))
    assert len(traces) == 1
    assert traces[0].stat().st_size > 10_000


@pytest.mark.parametrize("given", ["2", "3,2", "0,1", "a,b", "1,2,3"])
def test_wrong_ranges_of_steps(given):
    with pytest.raises(ValueError, match=f"two steps a,b.*Received: {given}"):
        profile_range(given.split(","))


@pytest.mark.slow
@pytest.mark.parametrize("more", [[], ["--ema_decay=0.9"]], ids=["weights", "averages"])
def test_the_best_is_chosen_on_the_full_split(text, tmp_path, capsys, more):
    """Bounded validations see two segments; result.json has the loss of all, of the better one."""
    arguments = [*SMALL, f"--data_dir={text}", f"--workdir={tmp_path}/run", "--eval_every=2"]
    assert run(*arguments, *more, "--eval_steps=2") == 0
    printed = capsys.readouterr().out
    line = re.search(r"loss on the whole validation split: (.*); step (\d+) is the best", printed)
    pairs = re.findall(r"([\d.]+) with those of step (\d+)", line[1])
    losses = {int(step): float(loss) for loss, step in pairs}
    assert 6 in losses  # the last weights are always compared
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    assert result["best_step"] == int(line[2])
    assert losses[result["best_step"]] == min(losses.values())
    assert result["valid"]["nll"] == pytest.approx(min(losses.values()), abs=1e-4)
    # The other modes take the same weights.
    assert run("--mode=eval", f"--workdir={tmp_path}/run", "--split=valid") == 0
    evaluated = json.loads((tmp_path / "run" / "eval.json").read_text())
    assert evaluated["valid"]["nll"] == pytest.approx(result["valid"]["nll"], rel=1e-6)


class _Weights:
    """Stands for `Checkpoints`: the best weights are a number, newest first."""

    def __init__(self, weights, best):
        self.weights, self.best = weights, best
        self.best_nll = 0.0

    def best_candidates(self):
        return list(self.best)

    def save_best(self, step, nll):
        self.best = [step, *(other for other in self.best if other != step)][:2]

    def restore_candidate(self, step):
        self.now = self.weights[step]


@pytest.mark.parametrize(
    ("full", "best"),
    [({40: 1.5, 60: 1.2}, 60), ({40: 1.1, 60: 1.2}, 40), ({40: float("nan"), 60: 1.2}, 60)],
)
def test_of_two_the_lower_loss_is_the_best(full, best):
    weights = _Weights({step: step for step in full}, best=[60, 40])
    said = []
    losses = choose_best(weights, lambda: full[weights.now], said.append)
    assert losses.keys() == full.keys()
    assert weights.now == best
    assert weights.best[0] == best
    assert f"step {best} is the best" in said[0]
