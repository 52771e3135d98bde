"""The training loop: resume, the best checkpoint, divergence, reports."""

import io
import itertools
import json

import keras
import numpy as np
import pytest
import tensorflow as tf

from transformer_xl import ModelConfig, TrainConfig, TransformerXL
from transformer_xl.safetensors_files import load_safetensors
from transformer_xl.training import memory_use
from transformer_xl.training.checkpoints import Checkpoints
from transformer_xl.training.evaluate import EvalResult, evaluate
from transformer_xl.training.loop import train
from transformer_xl.training.optimizer import make_optimizer
from transformer_xl.training.report import Reporter, results_table
from transformer_xl.training.steps import make_eval_step, make_train_step
from transformer_xl.training.stop import StoppedError
from transformer_xl.training.train_state import TrainState

B, L, V, EPOCH = 3, 5, 37, 4
MODEL = ModelConfig(
    V,
    num_layers=2,
    model_dim=8,
    num_heads=2,
    feed_forward_dim=11,
    cutoffs=(19,),
    div_val=2,
    memory_length=7,
)
CONFIG = TrainConfig(
    batch_size=B,
    segment_length=L,
    max_steps=10,
    warmup_steps=3,
    report_every=1,
    eval_every=4,
    checkpoint_every=3,
)


def batch(step):
    tokens = np.random.default_rng(step % EPOCH).integers(0, V, size=(B, L + 1)).astype("int32")
    return tokens[:, :-1], tokens[:, 1:], np.ones((B, L), "float32")


class Machine:
    """A model and its compiled steps, made once for all runs of this file."""

    def __init__(self):
        keras.utils.set_random_seed(1)
        self.model = TransformerXL(MODEL, seed=1)
        self.optimizer = make_optimizer(CONFIG)
        self.state = TrainState(self.model)
        self.train_step = make_train_step(
            self.model, self.optimizer, CONFIG.clip_norm, state=self.state
        )
        self.eval_step = make_eval_step(self.model)
        variables = (*self.model.variables, *self.optimizer.variables)
        self._start = [(v, v.numpy()) for v in (*variables, *self.state.variables.values())]

    def forget(self, resumes: bool):
        """As a new process: with the starting weights, or noise where a checkpoint must come."""
        random = np.random.default_rng()
        for variable, start in self._start:
            noise = random.integers(2, 99, size=start.shape).astype(start.dtype)
            variable.assign(noise if resumes else start)


_MACHINES = []


def machine():
    if not _MACHINES:
        _MACHINES.append(Machine())
    return _MACHINES[0]


class Run:
    """One start of a program that trains in `directory`."""

    def __init__(
        self,
        directory,
        config=CONFIG,
        stop_after=None,
        batch=batch,
        in_document=None,
        evaluate=None,
        draws=False,
    ):
        made = machine()
        self.model = made.model
        self.checkpoints = Checkpoints(
            str(directory / "checkpoints"), made.model, made.optimizer, made.state.variables
        )
        made.forget(resumes=self.checkpoints.last_step() > 0)
        self.output = io.StringIO()
        self.reporter = Reporter(
            str(directory), self.checkpoints.last_step(), config.max_steps, self.output
        )
        if not draws:  # which takes longer than the steps
            self.reporter.draw = lambda: None
        self.steps = []
        self.remembered = []  # Before each step: valid positions of each row's memory.

        def counted(*arguments):
            self.remembered.append(arguments[-1].valid.numpy().tolist())
            self.steps.append(int(made.optimizer.iterations))
            return made.train_step(*arguments)

        self.done = train(
            config,
            counted,
            lambda start: (batch(n) for n in itertools.count(start)),
            lambda n: n % EPOCH == 0,
            evaluate or self.evaluated,
            self.model.initial_memory(B),
            self.checkpoints,
            self.reporter,
            made.state,
            lambda: stop_after is not None and len(self.steps) >= stop_after,
            in_document,
        )
        self.reporter.close()
        self.values = {
            v.path: v.numpy() for v in (*made.model.variables, *made.optimizer.variables)
        }

    def evaluated(self):
        return evaluate(machine().eval_step, [batch(100)], self.model.initial_memory(B))


def curve(directory):
    """What metrics.jsonl says, without the clock."""
    clock = {"time", "seconds", "tokens_per_second", "memory_gb"}
    lines = (directory / "metrics.jsonl").read_text().splitlines()
    return [{k: v for k, v in json.loads(line).items() if k not in clock} for line in lines]


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    directory = tmp_path_factory.mktemp("whole")
    return directory, Run(directory, draws=True)


def test_a_run_reports_evaluates_and_ends(whole):
    directory, run = whole
    assert run.done
    assert run.steps == list(range(10))
    reports = curve(directory)
    assert [r["step"] for r in reports if r["split"] == "train"] == list(range(1, 11))
    assert [r["step"] for r in reports if r["split"] == "valid"] == [4, 8, 10]
    for report in reports:
        assert report["perplexity"] == pytest.approx(np.exp(report["loss"]))
    assert "step 10/10" in run.output.getvalue()
    assert (directory / "loss.png").read_bytes().startswith(b"\x89PNG")
    assert list((directory / "tensorboard").glob("events*"))


def test_the_first_step_gives_free_memory_back(tmp_path, monkeypatch):
    trims = []
    monkeypatch.setattr(memory_use, "_trim", trims.append)
    # A new seed lets TensorFlow optimise the step as in a new process.
    keras.utils.set_random_seed(2)
    Run(tmp_path, stop_after=1)
    assert trims


@pytest.mark.parametrize(
    "stop_after",
    [pytest.param(1, marks=pytest.mark.slow), 4, pytest.param(5, marks=pytest.mark.slow), 6],
)
def test_stopped_and_started_again_is_bit_for_bit_the_same(whole, tmp_path, stop_after):
    """Dropout, memory, moments, schedule and data go on where they were; 4 is an evaluation's."""
    first = Run(tmp_path, stop_after=stop_after)
    assert not first.done
    second = Run(tmp_path)
    assert second.done
    assert first.steps + second.steps == list(range(10))
    assert curve(tmp_path) == curve(whole[0])
    for path, value in whole[1].values.items():
        np.testing.assert_array_equal(second.values[path], value, err_msg=path)


def test_a_signal_ends_an_evaluation_which_is_made_when_the_run_goes_on(whole, tmp_path):
    def stopped():
        raise StoppedError

    first = Run(tmp_path, evaluate=stopped)
    assert not first.done
    assert first.steps == [0, 1, 2, 3]
    assert not Run(tmp_path, evaluate=stopped).done
    assert Run(tmp_path).done
    assert curve(tmp_path) == curve(whole[0])


def test_killed_between_checkpoints_repeats_the_lost_steps(whole, tmp_path):
    def killed(step):
        if step == 8:
            raise KeyboardInterrupt
        return batch(step)

    with pytest.raises(KeyboardInterrupt):
        Run(tmp_path, batch=killed)
    assert curve(tmp_path)[-1]["step"] == 8
    again = Run(tmp_path)
    assert again.steps == [6, 7, 8, 9]
    assert curve(tmp_path) == curve(whole[0])


@pytest.mark.slow
def test_max_steps_can_be_raised(whole, tmp_path):
    """Here with the same learning rates, as a schedule that is no function of it would have."""
    first = Run(tmp_path, TrainConfig(**{**CONFIG.__dict__, "max_steps": 5}))
    second = Run(tmp_path)
    assert first.done
    assert second.done
    assert second.steps == [5, 6, 7, 8, 9]
    training = [[r for r in curve(d) if r["split"] == "train"] for d in (tmp_path, whole[0])]
    assert training[0] == training[1]
    for path, value in whole[1].values.items():
        np.testing.assert_array_equal(second.values[path], value, err_msg=path)


def test_a_finished_run_trains_no_further(whole):
    directory, _ = whole
    before = curve(directory)
    again = Run(directory)
    assert again.done
    assert again.steps == []
    assert curve(directory) == before


def test_every_variable_is_in_the_checkpoint(whole, tmp_path):
    """Also dropout's seed, which tf.train.Checkpoint(model=...) leaves out."""
    run = Run(tmp_path, stop_after=3)
    saved = load_safetensors(str(tmp_path / "checkpoints" / "step-3" / "state.safetensors"))
    paths = [f"model/{variable.path}" for variable in run.model.variables]
    paths += [f"optimizer/{variable.path}" for variable in machine().optimizer.variables]
    memory = ["memory/hidden/0", "memory/hidden/1", "memory/valid"]
    paths += [f"more/{name}" for name in machine().state.variables]
    assert set(saved) == {*paths, *memory, "step", "best/nll", "best/step"}
    assert any("dropout_seed" in path for path in paths)
    for path, value in run.values.items():
        (name,) = [name for name in saved if name.partition("/")[2] == path]
        np.testing.assert_array_equal(saved[name], value, err_msg=path)


def test_memory_is_forgotten_where_the_streams_begin_again(tmp_path):
    run = Run(tmp_path, TrainConfig(**{**CONFIG.__dict__, "max_steps": EPOCH + 1}))
    memory = run.model.initial_memory(B)
    restored = run.checkpoints.restore(memory)
    # One segment of the second epoch, though five went before.
    np.testing.assert_array_equal(restored.valid, [L] * B)


def test_the_best_weights_are_kept(tmp_path):
    model = machine().model
    machine().forget(resumes=False)
    checkpoints = Checkpoints(str(tmp_path), model)
    with pytest.raises(FileNotFoundError, match="no best checkpoint"):
        checkpoints.restore_best()
    table = model.embedding.tables[0]
    kept = table.numpy()
    assert checkpoints.save_if_best(1, 3.0)
    table.assign(kept + 1)
    for step, nll in ((2, 3.0), (3, 3.5), (4, float("nan"))):
        assert not checkpoints.save_if_best(step, nll)
    other = TransformerXL(MODEL)
    again = Checkpoints(str(tmp_path), other)
    again.restore_best()
    np.testing.assert_array_equal(other.embedding.tables[0].numpy(), kept)
    assert int(again.best_step) == 1
    assert float(again.best_nll) == 3.0


def test_evaluation_weighs_tokens_and_sums_in_float64():
    calls = []

    def step(tokens, targets, weights, memory):
        calls.append(memory)
        sums = (tf.constant(float(tokens)), tf.constant(float(weights)))
        return memory + 1, sums

    result = evaluate(step, [(3e7, 0, 1.5e7), (1, 0, 1), (0, 0, 0)], memory=0)
    assert calls == [0, 1, 2]
    assert result == EvalResult(30000001 / 15000001, 15000001)
    with pytest.raises(ValueError, match="no batches"):
        evaluate(step, [], 0)
    with pytest.raises(ValueError, match="weight is 0"):
        evaluate(step, [(0, 0, 0)], 0)


def test_figures_by_hand():
    """Four tokens of ln 8 nats, for three words and eight characters."""
    figures = EvalResult(np.log(8), 4).figures(num_words=3, num_characters=8)
    assert figures["perplexity"] == pytest.approx(8)
    assert figures["perplexity_per_word"] == pytest.approx(16)
    assert figures["bits_per_character"] == pytest.approx(1.5)


def test_results_table():
    row = {
        "perplexity": 12.346,
        "unigram_perplexity": 678.9,
        "tokens": 1234,
        "unknown_rate": 0.0125,
    }
    lines = results_table({"valid": row}).splitlines()
    assert lines[-1].split() == ["validation", "12.35", "678.90", "1,234", "1.25%"]


def test_memory_is_cut_at_the_beginning_of_a_document(tmp_path):
    """Row 0 begins a document in step 2; its memory then grows again with the segments."""
    for name in ("free", "cut"):
        (tmp_path / name).mkdir()

    def in_document(step):
        return np.array([0 if step == 2 else 9_999] + [9_999] * (B - 1), np.int32)

    free = Run(tmp_path / "free").remembered
    cut = Run(tmp_path / "cut", in_document=in_document).remembered
    assert free[2][0] > 0  # or else there would be nothing to cut
    assert cut[:2] == free[:2]
    assert cut[2] == [0, *free[2][1:]]
    assert 0 < cut[3][0] <= free[3][0]
    assert [rows[1:] for rows in cut] == [rows[1:] for rows in free]
