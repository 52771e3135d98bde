"""train.py from the command line: a whole run on a small text, and every kind of bad input."""

import json
import os
import pathlib
import random
import re
import signal
import subprocess
import sys

import numpy as np
import pytest
from absl.testing import flagsaver

import train
from data_utils import WordVocabulary
from modes import training
from transformer_xl.training.workdir_lock import training_alone

pytestmark = pytest.mark.usefixtures("short_evaluation_steps")

ROOT = pathlib.Path(train.__file__).parent
SMALL = [
    "--corpus=text",
    "--vocabulary_min_count=1",
    "--num_layers=1",
    "--model_dim=16",
    "--num_heads=2",
    "--feed_forward_dim=16",
    "--cutoffs=5,9",
    "--div_val=2",
    "--batch_size=2",
    "--segment_length=8",
    "--memory_length=8",
    "--eval_batch_size=2",
    "--max_steps=6",
    "--report_every=2",
    "--eval_every=4",
    "--checkpoint_every=3",
    "--jit_compile=false",
]


def run(*arguments):
    """What `python train.py` does, in this process; the exit code."""
    with flagsaver.flagsaver():
        try:
            train.main(train.parse_flags(["train.py", *arguments]))
        except SystemExit as end:
            return end.code
    return 0


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    """Sentences of a small grammar, one a line."""
    draw = random.Random(1)
    names, verbs = ["Ann", "Bob", "Cleo", "Dan"], ["sees", "hears", "knows"]
    lines = [
        f"{draw.choice(names)} {draw.choice(verbs)} {draw.choice(names)} ." for _ in range(400)
    ]
    path = tmp_path_factory.mktemp("text") / "story.txt"
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def trained(text, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("runs") / "run"
    assert run(*SMALL, f"--data_dir={text}", f"--workdir={workdir}") == 0
    return workdir


def test_a_run_leaves_what_the_readme_says(trained):
    names = {path.name for path in trained.iterdir()}
    expected = "checkpoints config.json data flags.txt loss.png metrics.jsonl result.json "
    assert names == set((expected + "sample.txt tensorboard vocabulary").split())
    reports = [json.loads(line) for line in (trained / "metrics.jsonl").read_text().splitlines()]
    assert [(r["step"], r["split"]) for r in reports] == [
        (2, "train"),
        (4, "train"),
        (4, "valid"),
        (6, "train"),
        (6, "valid"),
    ]
    for report in reports:
        assert {"loss", "perplexity"} <= report.keys()
        more = {"learning_rate", "gradient_norm", "tokens_per_second"}
        assert more <= report.keys() or report["split"] == "valid"
    result = json.loads((trained / "result.json").read_text())
    for split in ("valid", "test"):
        tokens = np.load(trained / "data" / f"{split}.npy")
        assert result[split]["tokens"] == len(tokens)
        assert result[split]["perplexity"] == pytest.approx(np.exp(result[split]["nll"]))
        assert 1 < result[split]["perplexity"] < 40
        assert result[split]["memory_length"] == 8
    # The same split with the same weights: the best validation is the one that is reported.
    best = min(r["loss"] for r in reports if r["split"] == "valid")
    assert result["valid"]["nll"] == pytest.approx(best, rel=1e-6)
    assert len((trained / "sample.txt").read_text().split()) == 60
    recorded = json.loads((trained / "config.json").read_text())["data"]["vocabulary"]
    assert recorded == WordVocabulary.load(trained / "vocabulary").fingerprint()


def test_a_run_can_be_evaluated_and_sampled(trained, capsys):
    before = (trained / "result.json").read_text()
    with training_alone(str(trained)):  # beside a process that trains there
        assert run("--mode=eval", f"--workdir={trained}") == 0
    evaluated = json.loads((trained / "eval.json").read_text())
    assert evaluated["test"]["nll"] == pytest.approx(json.loads(before)["test"]["nll"], rel=1e-6)
    longer = ("--eval_memory_length=32", "--eval_segment_length=4", "--split=test")
    assert run("--mode=eval", f"--workdir={trained}", *longer) == 0
    evaluated = json.loads((trained / "eval.json").read_text())
    assert list(evaluated) == ["test"]
    assert evaluated["test"]["memory_length"] == 32
    assert (trained / "result.json").read_text() == before
    capsys.readouterr()
    generate = ("--mode=generate", f"--workdir={trained}", "--num_tokens=7", "--num_samples=2")
    assert run(*generate, "--prompt=Ann sees", "--seed=7") == 0
    printed = capsys.readouterr().out
    assert printed.count("Ann sees") == 2
    # The words are those of the text and no others.
    vocabulary = WordVocabulary.load(trained / "vocabulary").tokens
    assert set(re.findall(r"<unk>|[A-Za-z]+", printed)) <= set(vocabulary)
    assert run(*generate, "--prompt=Zoe sees") == 0
    assert "Zoe" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["flags.txt", "sample.txt", "vocabulary", "result.json"])
def test_a_run_does_not_begin_where_it_would_write_over_others_files(name, tmp_path, capsys):
    """As in the folder of the text, which then has it as a part, or not, from start to start."""
    (tmp_path / "story.txt").write_text("Ann Bob Cleo Dan sees hears knows a b c .\n" * 99)
    (tmp_path / name).write_text("Ann hears Dan .\n" * 9)
    before = {path.name: path.read_text() for path in tmp_path.iterdir()}
    assert run(*SMALL, f"--data_dir={tmp_path}", f"--workdir={tmp_path}") == 2
    said = f"which has {name}, and no config.json that says they are a run's. Choose another"
    assert said in capsys.readouterr().err
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == before


def stopped_here(arguments, monkeypatch, capsys):
    """A run in this process that gets a signal with its second step's report."""

    class Stopping(training.Reporter):
        def train(self, step, **figures):
            super().train(step, **figures)
            if step == 2:
                signal.raise_signal(signal.SIGTERM)

    handlers = {one: signal.getsignal(one) for one in (signal.SIGTERM, signal.SIGINT)}
    try:
        with monkeypatch.context() as patch:
            patch.setattr(training, "Reporter", Stopping)
            code = run(*arguments)
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
    return code, capsys.readouterr().err


def stopped_elsewhere(arguments, *_):
    """The same of a process of its own."""
    command = [sys.executable, "train.py", *arguments]
    environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "2"}
    with subprocess.Popen(
        command,
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        for line in process.stdout:
            if line.startswith("step 2/"):
                process.send_signal(signal.SIGTERM)
                break
        process.stdout.read()
        errors = process.stderr.read()
    return process.returncode, errors


@pytest.mark.parametrize(
    "stopped", [stopped_here, pytest.param(stopped_elsewhere, marks=pytest.mark.slow)]
)
def test_started_again_it_goes_on(stopped, text, trained, tmp_path, monkeypatch, capsys):
    """Stopped by a signal; then to the same end as without a stop."""
    arguments = [*SMALL, f"--data_dir={text}", f"--workdir={tmp_path}/run"]
    code, errors = stopped([*arguments, "--report_every=1"], monkeypatch, capsys)
    assert code == 75, errors
    assert "start again to go on" in errors
    # What comes after the last step is test_a_run_leaves_what_the_readme_says'.
    monkeypatch.setattr(training, "_results", lambda *_: None)
    forgotten = []
    monkeypatch.setattr(training, "forget_kernels", forgotten.append)
    assert run(*arguments) == 0
    assert len(forgotten) == 1  # what building left
    ends = [
        json.loads((workdir / "metrics.jsonl").read_text().splitlines()[-1])["loss"]
        for workdir in (trained, tmp_path / "run")
    ]
    assert ends[0] == pytest.approx(ends[1], rel=1e-6)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--no_such_flag=1"], "no_such_flag"),
        (["train"], "Unknown arguments: train"),
        (["--mode=fly"], "mode"),
        (["--max_steps=many"], "max_steps"),
        (["--data_dir=nowhere/at/all"], "nowhere/at/all"),
        (["--corpus=wikitext103"], r"wiki\.\{train,valid,test\}.*story.txt"),
        (["--corpus=lm1b", "--roll_streams"], "--roll_streams is not for --corpus=lm1b"),
        (["--cutoffs=9,5"], r"must rise.*Received: cutoffs=\[9, 5\]"),
        (["--cutoffs=5,5"], "must rise, each one once"),
        (["--cutoffs=5,999999"], r"between 1 and vocabulary size - 1 = \d+.*999999"),
        (["--cutoffs=5,many"], "--cutoffs must be integers"),
        (["--cutoffs=-5"], "--cutoffs must be ids that are at least 1, .*Received: -5"),
        (["--cutoffs=0,100"], "--cutoffs must be ids that are at least 1, .*Received: 0,100"),
        (["--vocabulary_size=-5"], "vocabulary_size must be at least 3 for word.*Received: -5"),
        (["--seed=4294967296"], "seed must be from 0 to 4294967295. Received: 4294967296"),
        (["--num_heads=3"], "divisible by num_heads.*model_dim=16, num_heads=3"),
        (["--model_dim=15", "--num_heads=3"], "must be even.*model_dim=15"),
        (["--dropout=1"], "dropout must be"),
        (["--div_val=0"], "div_val must be at least 1"),
        (["--batch_size=100000"], "batch_size"),
        (["--eval_segment_length=100000"], "eval_segment_length must be .*Received: 100000"),
        (["--same_length", "--memory_length=0"], "same_length"),
        (["--mode=generate"], "holds no run"),
        (["--mode=eval"], "holds no run"),
    ],
)
def test_bad_input_is_one_error_and_writes_no_run(text, tmp_path, capsys, arguments, message):
    code = run(*SMALL, f"--data_dir={text}", f"--workdir={tmp_path}/run", *arguments)
    errors = capsys.readouterr().err
    assert code == 2
    assert errors.startswith("error: ")
    assert errors.count("error: ") == 1
    assert "Traceback" not in errors
    assert re.search(message, errors), errors
    assert not (tmp_path / "run" / "config.json").exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "empty|no text|nothing"),
        (b" \n\n \n", "empty|no text|nothing"),
        ("grüße\n".encode("latin-1") * 50, "UTF-8"),
    ],
)
def test_bad_text(tmp_path, capsys, content, message):
    (tmp_path / "bad.txt").write_bytes(content)
    code = run(*SMALL, f"--data_dir={tmp_path}/bad.txt", f"--workdir={tmp_path}/run")
    errors = capsys.readouterr().err
    assert code == 2
    assert re.search(message, errors), errors
    assert "bad.txt" in errors
    assert not (tmp_path / "run").exists() or not any((tmp_path / "run").iterdir())


def snapshot(directory):
    return {
        str(path.relative_to(directory)): path.read_bytes()
        for path in sorted(directory.rglob("*"))
        if path.is_file()
    }


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--feed_forward_dim=32"], "feed_forward_dim is 16 there, 32 now"),
        (["--cutoffs=5"], "cutoffs is 5,9 there, 5 now"),
        (["--segment_length=4", "--batch_size=4"], "batch_size is 2 there, 4 now"),
        (["--vocabulary_min_count=2"], "min_count is 1 there, 2 now"),
    ],
)
def test_a_run_with_other_settings_is_not_touched(text, trained, capsys, arguments, message):
    before = snapshot(trained)
    code = run(*SMALL, f"--data_dir={text}", f"--workdir={trained}", *arguments)
    assert code == 2
    assert message in capsys.readouterr().err
    assert snapshot(trained) == before


def test_a_run_in_which_another_process_trains_is_not_touched(text, trained, capsys):
    with training_alone(str(trained)):
        before = snapshot(trained)
        assert run(*SMALL, f"--data_dir={text}", f"--workdir={trained}", "--max_steps=9") == 2
        assert (
            f"error: One process at a time trains in a run's directory. Another one trains in "
            f"{trained}." in capsys.readouterr().err
        )
        assert snapshot(trained) == before


def test_another_text_is_refused(trained, tmp_path, capsys):
    (tmp_path / "other.txt").write_text("Ann sees Bob .\n" * 300)
    before = snapshot(trained)
    assert run(*SMALL, f"--data_dir={tmp_path}/other.txt", f"--workdir={trained}") == 2
    assert "another" in capsys.readouterr().err
    assert snapshot(trained) == before


@pytest.mark.slow
def test_a_damaged_array_is_noticed(text, tmp_path, capsys):
    arguments = [*SMALL, f"--data_dir={text}", f"--workdir={tmp_path}/run", "--max_steps=1"]
    assert run(*arguments) == 0
    path = tmp_path / "run" / "data" / "train.npy"
    content = bytearray(path.read_bytes())
    content[-3] ^= 1
    path.write_bytes(content)
    before = snapshot(tmp_path)
    for mode in ("train", "eval"):
        capsys.readouterr()
        assert run(*arguments, f"--mode={mode}") == 2
        errors = capsys.readouterr().err
        assert "train.npy" in errors
        assert "damaged" in errors
    assert snapshot(tmp_path) == before
