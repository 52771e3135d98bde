"""What a run reports, where, and how it reads after a run was cut short."""

import gc
import io
import json
import math

import numpy as np
import pytest
import tensorflow as tf
from matplotlib.figure import Figure
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from tests.test_loop import CONFIG, Run, batch, curve, machine
from transformer_xl import TrainConfig
from transformer_xl.strict_json import strict_json
from transformer_xl.training.evaluate import EvalResult
from transformer_xl.training.memory_use import memory_use
from transformer_xl.training.report import Reporter
from transformer_xl.training.steps import TrainMetrics

FIGURES = dict(learning_rate=1e-3, gradient_norm=0.5, tokens_per_second=100.0, seconds=2.0)


def reporter(directory, step=0):
    return Reporter(str(directory), step, max_steps=10, stream=io.StringIO())


def test_tensorboard_gets_every_figure(tmp_path):
    made = reporter(tmp_path)
    clusters = {"cluster_loss": [2.0, None, 7.0], "cluster_hit_rate": [0.75, 0.0, 0.25]}
    made.train(2, loss=3.0, **FIGURES, **clusters)
    made.valid(2, 2.5, is_best=True, seconds=1.0)
    made.close()
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    # Scalars are tensors in today's event files.
    tags = set(events.Tags()["tensors"])
    figures = {"loss", "perplexity", "learning_rate", "gradient_norm", "tokens_per_second"}
    figures |= {"memory_gb", "seconds", "cluster_loss/0", "cluster_loss/2"}
    figures |= {f"cluster_hit_rate/{cluster}" for cluster in range(3)}
    assert {tag for tag in tags if tag.startswith("train/")} == {f"train/{f}" for f in figures}
    assert {tag for tag in tags if tag.startswith("valid/")} == {"valid/loss", "valid/perplexity"}
    (event,) = events.Tensors("train/cluster_loss/2")
    assert event.step == 2
    assert tf.make_ndarray(event.tensor_proto) == pytest.approx(7.0)


def test_drawing_leaves_no_figures_behind(tmp_path):
    """They hold a megabyte each, and runs draw for days."""
    made = reporter(tmp_path)
    made.train(2, loss=3.0, **FIGURES)
    gc.collect()
    gc.disable()
    try:
        made.draw()
        assert not any(isinstance(thing, Figure) for thing in gc.get_objects())
    finally:
        gc.enable()
        made.close()


def test_reports_of_steps_that_are_done_again_are_dropped(tmp_path):
    made = reporter(tmp_path)
    for step in (2, 4, 6):
        made.train(step, loss=3.0, **FIGURES)
    made.close()
    # Killed in the middle of a line; the last checkpoint is of step 4.
    path = tmp_path / "metrics.jsonl"
    path.write_text(path.read_text() + '{"step": 7, "spl')
    reporter(tmp_path, step=4).close()
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert [line["step"] for line in lines] == [2, 4]


def test_what_is_not_finite_is_null_in_files_and_a_gap_in_the_plot(tmp_path):
    made = reporter(tmp_path)
    made.valid(2, float("nan"), is_best=False, seconds=1.0)
    made.valid(4, 2.5, is_best=True, seconds=1.0)
    made.close()

    def refuse(word):
        raise AssertionError(word)

    lines = (tmp_path / "metrics.jsonl").read_text().splitlines()
    first, second = (json.loads(line, parse_constant=refuse) for line in lines)
    assert (first["loss"], first["perplexity"], second["loss"]) == (None, None, 2.5)
    again = reporter(tmp_path, step=4)
    again.draw()
    again.train(6, loss=3.0, **FIGURES)
    again.train(8, loss=math.nan, **FIGURES)
    assert again.losses() == [3.0]
    again.close()
    once_more = reporter(tmp_path, step=8)
    once_more.close()
    assert once_more.losses() == [3.0]
    assert len((tmp_path / "metrics.jsonl").read_text().splitlines()) == 4


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_strict_json_has_null_where_python_has_words_of_its_own(value):
    with_it = {"a": [1.5, (value, "NaN")], "b": {"c": np.float64(value)}}
    assert strict_json(with_it) == '{"a": [1.5, [null, "NaN"]], "b": {"c": null}}'
    finite = {"a": [1.5, (2, "é")], "b": {"c": np.float64(0.1)}}
    assert strict_json(finite, ensure_ascii=False) == json.dumps(finite, ensure_ascii=False)
    with pytest.raises(TypeError, match="not JSON serializable"):
        strict_json({"a": value, "b": object()})


def test_memory_in_use_is_the_process_own():
    before = memory_use()["memory_gb"]
    held = bytearray(200_000_000)
    after = memory_use()["memory_gb"]
    assert 0.19 < after - before < 0.3
    del held


def reported(tokens, targets, weights, memory):
    """A step that learns nothing, whose losses are its targets; they are in two clusters."""
    del tokens, weights
    shares = [np.mean(targets < 19), np.mean(targets >= 19)]
    sums = [[np.sum(targets[at]) / targets.size for at in (targets < 19, targets >= 19)], shares]
    figures = [tf.constant(one, tf.float32) for one in (targets.mean(), 0.5, 1e-3, 1)]
    counts = [tf.constant(0)] * 2
    return memory, TrainMetrics(*figures, *counts, tf.constant(np.transpose(sums), tf.float32))


def test_a_report_of_segments_of_several_lengths_is_per_token(tmp_path, monkeypatch):
    """The sum over all tokens, divided once; not the mean of the means of short and long steps."""
    monkeypatch.setattr(machine(), "train_step", reported)
    lengths = (5, 2, 2, 5, 2)

    def shortened(step):
        return tuple(part[:, : lengths[step % 5]] for part in batch(step))

    reports = {}
    for every in (1, 5):
        (tmp_path / str(every)).mkdir()
        config = TrainConfig(**{**CONFIG.__dict__, "max_steps": 5, "report_every": every})
        Run(tmp_path / str(every), config, batch=shortened, evaluate=lambda: EvalResult(1.0, 9))
        reports[every] = [r for r in curve(tmp_path / str(every)) if r["split"] == "train"]
    (together,) = reports[5]
    assert together["loss"] == pytest.approx(
        np.dot([r["loss"] for r in reports[1]], lengths) / sum(lengths), rel=1e-12
    )
    shares = np.array([r["cluster_hit_rate"] for r in reports[1]])
    np.testing.assert_allclose(
        together["cluster_hit_rate"], np.array(lengths) @ shares / sum(lengths), rtol=1e-6
    )
