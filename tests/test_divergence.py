"""Steps that are left out, runs that stop or go back."""

import dataclasses

import numpy as np
import pytest

from tests.test_loop import CONFIG, Run, batch, curve, machine
from transformer_xl.training.divergence import DivergedError, DivergenceWatch
from transformer_xl.training.evaluate import EvalResult


def changed(**values):
    return dataclasses.replace(CONFIG, **values)


def poisoned(*steps):
    def batch_with_nan(step):
        tokens, targets, weights = batch(step)
        return tokens, targets, weights * (np.nan if step in steps else 1)

    return batch_with_nan


@pytest.mark.slow
@pytest.mark.parametrize("report_every", [1, 50])
def test_a_loss_that_is_no_number_is_left_out_and_counted(tmp_path, report_every):
    run = Run(tmp_path, changed(report_every=report_every), batch=poisoned(4))
    assert run.done
    assert int(machine().state.variables["bad_steps"]) == 1
    assert int(machine().optimizer.iterations) == CONFIG.max_steps - 1
    assert all(np.isfinite(value).all() for value in run.values.values())
    reports = [r for r in curve(tmp_path) if r["split"] == "train"]
    assert all(np.isfinite(report["loss"]) for report in reports)
    assert reports[-1]["bad_steps"] == 1
    if report_every == 1:
        # Nothing is to be reported of step 5, and nothing was wrong before.
        assert [report["step"] for report in reports] == [1, 2, 3, 4, 6, 7, 8, 9, 10]
        assert "bad_steps" not in reports[3]


@pytest.mark.parametrize("report_every", [1, 50])
def test_a_row_of_them_stops_the_run_and_leaves_the_last_checkpoint(tmp_path, report_every):
    config = changed(report_every=report_every, max_bad_steps=4)
    with pytest.raises(DivergedError, match=r"4 steps in a row.*loadable.*--learning_rate"):
        Run(tmp_path, config, batch=poisoned(*range(4, 10)))
    assert int(machine().optimizer.iterations) == 4  # the steps before the first bad one
    good = Run(tmp_path, changed(max_steps=6))
    assert good.steps == []
    assert all(np.isfinite(value).all() for value in good.values.values())


def test_a_run_that_goes_back_reads_later_batches(tmp_path):
    config = changed(max_bad_steps=2, on_divergence="restore", max_steps=9)
    read = []

    def batch_with_nan(place):
        if place != 100:  # the validation's
            read.append(place)
        return poisoned(7, 8)(place)

    run = Run(tmp_path, config, batch=batch_with_nan)
    assert run.done
    # Steps 8 and 9 were bad: back to the checkpoint of step 6, and on with what comes after them.
    assert read == [*range(9), 9, 10, 11]
    assert int(machine().state.variables["batches_left_out"]) == 3
    assert [r["step"] for r in curve(tmp_path) if r["split"] == "train"] == list(range(1, 10))
    assert "Going back to step 6" in run.output.getvalue()


def test_a_run_that_goes_back_twice_reads_nothing_again(tmp_path):
    """Both times to step 6, whose checkpoint knows nothing of what was left out the first time."""
    config = changed(max_bad_steps=2, on_divergence="restore", max_steps=9)
    read = []

    def batch_with_nan(place):
        if place != 100:  # the validation's
            read.append(place)
        return poisoned(7, 8, 10, 11)(place)

    run = Run(tmp_path, config, batch=batch_with_nan)
    assert run.done
    assert read == list(range(15))
    assert int(machine().state.variables["batches_left_out"]) == 6
    assert run.output.getvalue().count("Going back to step 6") == 2


def test_what_was_the_best_remains_so_when_a_run_goes_back(tmp_path):
    """The validation of step 8 had the lowest loss; those after going back are higher."""
    config = changed(max_bad_steps=1, on_divergence="restore", max_steps=9)
    losses = iter([3.0, 1.0, 2.0, 2.5])  # of steps 4, 8, 8 again, and 9
    found = lambda: EvalResult(next(losses), 1)  # noqa: E731
    run = Run(tmp_path, config, batch=poisoned(8), evaluate=found)
    assert run.done
    assert "Going back to step 6" in run.output.getvalue()
    assert (float(run.checkpoints.best_nll), int(run.checkpoints.best_step)) == (1.0, 8)


def test_a_run_that_goes_on_knows_the_losses_before(tmp_path):
    """Four steps of its own are too few to compare with."""
    assert Run(tmp_path, changed(max_steps=6)).done
    with pytest.raises(DivergedError, match="far above the median"):
        Run(tmp_path, changed(max_loss_rise=1e-9))


def test_a_loss_far_above_those_before_is_divergence():
    watch = DivergenceWatch(changed(max_loss_rise=1.0))
    for loss in (9.0, 4.0, 4.1, 4.0, 3.9):
        assert watch.mean(np.array([loss]), 1) == loss
        watch.reported(loss)
    assert watch.mean(np.array([4.8, np.nan, 5.0]), 1) == pytest.approx(4.9)
    assert watch.mean(np.array([np.nan]), 1) is None
    with pytest.raises(DivergedError, match=r"5\.10, far above.*4\.00.*max_loss_rise=1\)"):
        watch.mean(np.array([5.1]), 1)
    unbounded = DivergenceWatch(changed(max_loss_rise=0.0))
    for loss in (1.0,) * 9:
        unbounded.reported(loss)
    assert unbounded.mean(np.array([99.0]), 1) == 99.0
