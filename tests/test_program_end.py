"""How train.py ends: exit codes, and one line where something is wrong."""

import ctypes
import io
import os
import signal
import sys
import types

import pytest
from absl import app
from absl.testing import flagsaver

import train
from modes.terminal import signals_end_at_once
from transformer_xl.training.state_store import CheckpointError


def nothing():
    pass


def raising(error):
    def end():
        raise error

    return end


def ended(monkeypatch, set_up, *arguments):
    """The exit code of a program whose mode does so."""
    module = types.SimpleNamespace(set_up=set_up)
    monkeypatch.setattr(train.importlib, "import_module", lambda name: module)
    with flagsaver.flagsaver(), pytest.raises(SystemExit) as end:
        train.main(train.parse_flags(["train.py", "--workdir=run", *arguments]))
    return end.value.code


FULL = OSError("The disk is full.")
FULL.errno = 28


@pytest.mark.parametrize("early", [True, False], ids=["set up", "running"])
@pytest.mark.parametrize(
    ("error", "code_early", "code", "said"),
    [
        (KeyboardInterrupt(), 130, 130, "interrupted: what was there before is as it was\n"),
        (FULL, 1, 1, "error: The disk is full.\n"),
        (FileNotFoundError("There is none."), 2, 1, "error: There is none.\n"),
        (CheckpointError("It is damaged."), 2, 1, "error: It is damaged.\n"),
        (BrokenPipeError(32, "Broken pipe"), 141, 141, ""),
    ],
    ids=["Ctrl-C", "full", "input", "checkpoint", "pipe"],
)
def test_exit_codes(monkeypatch, capsys, error, code_early, code, said, early):
    set_up = raising(error) if early else lambda: raising(error)
    assert ended(monkeypatch, set_up, "--mode=eval") == (code_early if early else code)
    assert capsys.readouterr().err == said


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (
            ["--mode=score", "--output=scores.tsv"],
            "--output is for --mode=export and --mode=explore. Received: --output=scores.tsv with "
            "--mode=score. Leave it out, and let the shell write: > FILE.",
        ),
        (["--mode=generate", "--output=text"], "with --mode=generate. Leave it out, and let the"),
        (["--mode=eval", "--output=eval.json"], "with --mode=eval. Leave it out."),
        (
            ["--corpus=text", "--input_file=a.txt"],
            "Received: --input_file=a.txt with --mode=train",
        ),
        (["--mode=score", "--prompt=a"], "--prompt is for --mode=generate. Received: --prompt=a"),
        (["--mode=eval", "--temperature=0"], "--temperature is for --mode=generate. Received: --t"),
        (["--mode=score", "--stop=a", "--stop=b"], "Received: --stop=a --stop=b with --mode=score"),
        (["--corpus=text", "--top_k=5"], "Received: --top_k=5 with --mode=train."),
        (["--mode=explore", "--score_format=jsonl"], "--score_format is for --mode=score."),
        (["--mode=explore", "--noscore_context"], "Received: --noscore_context with --mode=expl"),
        (["--mode=score", "--split=test"], "--split is for --mode=eval."),
        (["--mode=prepare", "--corpus=text", "--dry_run"], "--dry_run is for --mode=train."),
        (["--mode=eval", "--profile_steps=2,3"], "Received: --profile_steps=2,3 with --mode=eval"),
    ],
)
def test_a_flag_of_another_mode_is_refused(monkeypatch, capsys, arguments, said):
    """Before the mode does anything."""
    set_up = raising(AssertionError("It was begun."))
    assert ended(monkeypatch, set_up, *arguments) == 2
    errors = capsys.readouterr().err
    assert errors.startswith("error: --") and errors.count("\n") == 1
    assert said in errors


@pytest.mark.parametrize("arguments", [["score", "--input_file=-"], ["train", "--dry_run"]])
def test_a_flag_of_the_mode_is_taken(monkeypatch, arguments):
    mode, flag = arguments
    assert ended(monkeypatch, lambda: lambda: sys.exit(3), f"--mode={mode}", flag) == 3


def test_training_says_that_nobody_reads(monkeypatch, capsys):
    """It is no filter: a run that ends early is not to end in silence."""
    run = raising(BrokenPipeError(32, "Broken pipe"))
    assert ended(monkeypatch, lambda: run, "--corpus=text") == 1
    assert "error: [Errno 32] Broken pipe" in capsys.readouterr().err


def test_what_was_not_written_when_the_reader_left(monkeypatch):
    """Lines that wait in the buffer make no noise when Python ends."""
    reader, writer = os.pipe()
    os.close(reader)
    with io.TextIOWrapper(os.fdopen(writer, "wb")) as output:
        monkeypatch.setattr(sys, "stdout", output)
        assert ended(monkeypatch, lambda: lambda: print("a line"), "--mode=score") == 141
        output.flush()


def test_signals_are_given_back_after_the_wait_for_other_machines():
    """Also what TensorFlow takes in its own code, without Python's knowing of it."""
    libc = ctypes.CDLL(None)

    def catches(number):
        with open("/proc/self/status") as lines:
            caught = next(line for line in lines if line.startswith("SigCgt:"))
        return bool(int(caught.split()[1], 16) >> (number - 1) & 1)

    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    try:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        with signals_end_at_once():
            assert not catches(signal.SIGINT)
            libc.signal(int(signal.SIGTERM), ctypes.cast(libc.abs, ctypes.c_void_p))
            assert catches(signal.SIGTERM)
        assert catches(signal.SIGINT)
        assert not catches(signal.SIGTERM)
    finally:
        for number, handler in zip((signal.SIGINT, signal.SIGTERM), before):
            signal.signal(number, handler)


def test_help_is_no_error(capsys):
    app.define_help_flags()
    for flag in ("--help", "--helpshort", "--helpfull"):
        with flagsaver.flagsaver(), pytest.raises(SystemExit) as end:
            train.parse_flags(["train.py", flag])
        assert end.value.code == 0
        assert capsys.readouterr().out
