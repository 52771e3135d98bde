"""Kills a training run again and again, resumes it, and compares it with one left alone.

  python -m tests.kill_resume [--kills=20] [--signal=KILL] [--precision=bfloat16] ...

Two runs of `train.py` on the built-in corpus, with dropout: one is left alone, the other is killed
at moments chosen by chance, some while it starts, some while it writes a checkpoint, and started
again each time. Every report that either ever wrote is compared bit for bit, and at the end the
last states: weights, optimizer, memory, random state, step. Ends with 1 if anything differs.

Each start is a process of its own, forked from this one, which saves the import of TensorFlow.
"""

import argparse
import json
import os
import pathlib
import queue
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import traceback

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

from absl import app

import modes.training  # noqa: F401 (imported before the processes are forked)
import train
from transformer_xl.safetensors_files import load_safetensors
from transformer_xl.training.state_store import WRITING

ROOT = pathlib.Path(__file__).resolve().parent.parent
STOPPED = 75
_CLOCK = {"time", "seconds", "tokens_per_second", "memory_gb"}
_PATIENCE = 1800  # seconds for a line of a run, also on a machine with other work
RUN = """--corpus=sotu --vocabulary_min_count=20 --num_layers=2 --model_dim=16 --num_heads=2
--feed_forward_dim=32 --cutoffs=500,1500 --div_val=2 --dropout=0.2 --attention_dropout=0.1
--batch_size=6 --segment_length=16 --memory_length=24 --eval_batch_size=20
--eval_segment_length=128 --eval_memory_length=24 --eval_steps=3 --eval_every=7 --report_every=1
--warmup_steps=20 --learning_rate=3e-3""".split()


def main(arguments=None):
    options = parsed(arguments)
    with tempfile.TemporaryDirectory() as folder:
        whole, killed = pathlib.Path(folder) / "whole", pathlib.Path(folder) / "killed"
        print(f"the run that is left alone: {options.max_steps} steps", flush=True)
        finish(whole, options)
        killed.mkdir()
        shutil.copytree(whole / "data", killed / "data")
        figures = {"steps": options.max_steps, **kill_and_resume(whole, killed, options)}
        figures["states_equal"] = states_equal(whole, killed)
    print(json.dumps(figures))
    if options.json:
        pathlib.Path(options.json).write_text(json.dumps(figures, indent=2) + "\n")
    return not (figures["states_equal"] and figures["reports_that_differ"] == 0)


def parsed(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--signal", choices=("KILL", "TERM"), default="KILL")
    parser.add_argument("--max_steps", type=int, default=240)
    parser.add_argument("--checkpoint_every", type=int, default=3)
    parser.add_argument("--accumulate_steps", type=int, default=1)
    parser.add_argument("--precision", default="float32")
    parser.add_argument("--jit_compile", default="false")
    parser.add_argument(
        "--spawn", action="store_true", help="a new interpreter for each start, which takes longer"
    )
    parser.add_argument("--seed", type=int, default=1, help="of the moments")
    parser.add_argument("--json", help="file for the figures")
    return parser.parse_args(arguments)


def command_line(workdir: pathlib.Path, options) -> list[str]:
    settings = ["max_steps", "checkpoint_every", "precision", "jit_compile"]
    if options.accumulate_steps != 1:
        settings.append("accumulate_steps")
    given = [f"--{name}={getattr(options, name)}" for name in settings]
    return ["train.py", *RUN, *given, f"--workdir={workdir}"]


class Start:
    """One start of the program, with the lines that it prints."""

    def __init__(self, workdir: pathlib.Path, options):
        arguments = command_line(workdir, options)
        if options.spawn:
            self._output, output = os.pipe()
            environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
            command = [sys.executable, *arguments]
            self.pid = subprocess.Popen(
                command, cwd=ROOT, env=environment, stdout=output, stderr=output
            ).pid
            os.close(output)
        else:
            self.pid, self._output = forked(arguments)
        self.lines, self._queue = [], queue.Queue()
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self):
        with open(self._output, encoding="utf-8", errors="replace") as lines:
            for line in lines:
                self._queue.put(line)
        self._queue.put(None)

    def line(self) -> str | None:
        """The next line; None at the end."""
        line = self._queue.get(timeout=_PATIENCE)
        self.lines += [line] if line else []
        return line

    def steps(self, number: int) -> bool:
        """Waits until so many steps were reported; False if the run ended before."""
        while number > 0:
            line = self.line()
            if line is None:
                return False
            number -= line.startswith("step ") and "/" in line.split()[1]
        return True

    def end(self) -> int:
        """Waits for the end; the exit code."""
        while self.line() is not None:
            pass
        return os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])


def forked(arguments: list[str]) -> tuple[int, int]:
    """The program in a process forked from this one, and the end to read its output from.

    TensorFlow is imported here, but nothing of it runs.
    """
    output, end = os.pipe()
    pid = os.fork()
    if pid:
        os.close(end)
        return pid, output
    code = 1
    try:
        os.dup2(end, 1)
        os.dup2(end, 2)
        sys.stdout = open(1, "w", encoding="utf-8", closefd=False)  # noqa: SIM115
        sys.stderr = open(2, "w", encoding="utf-8", closefd=False)  # noqa: SIM115
        sys.argv = arguments
        app.run(train.main, flags_parser=train.parse_flags)
    except SystemExit as ended:
        code = ended.code or 0
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def finish(workdir: pathlib.Path, options):
    """Runs to the end."""
    start = Start(workdir, options)
    if start.end() != 0:
        raise RuntimeError("The run failed:\n" + "".join(start.lines[-20:]))


def kill_and_resume(whole: pathlib.Path, killed: pathlib.Path, options) -> dict:
    """Kills and resumes a run, and lets it end; what was seen, by name."""
    draw = random.Random(options.seed)
    expected = reports(whole)
    signal_number = getattr(signal, f"SIG{options.signal}")
    # A third while a checkpoint is written, a few while the program starts, others at any time.
    kinds = ["write"] * (options.kills // 3) + ["start"] * (options.kills // 7)
    kinds += ["any"] * (options.kills - len(kinds))
    draw.shuffle(kinds)
    seen = {"kills": 0, "inside_a_write": 0, "while_starting": 0, "reports": 0, "saved_and_left": 0}
    differ, starting, reached = 0, 5.0, 0
    for number, kind in enumerate(kinds):
        # So that the steps that are left last for all the kills that are.
        each = (options.max_steps - reached) // (options.kills - number + 1)
        start, began = Start(killed, options), time.monotonic()
        if kind == "start":
            time.sleep(draw.uniform(0, starting))
        else:
            if not start.steps(draw.randint(1, max(1, 3 * each // 2))):
                raise RuntimeError("It ended before it was killed:\n" + "".join(start.lines[-20:]))
            starting = min(starting, time.monotonic() - began)
            if kind == "write":
                wait_for_a_write(killed)
            else:
                time.sleep(draw.uniform(0, 0.1))
        os.kill(start.pid, signal_number)
        code = start.end()
        if code not in (-signal_number, STOPPED if options.signal == "TERM" else -signal_number):
            raise RuntimeError(f"It ended with {code}:\n" + "".join(start.lines[-20:]))
        seen["kills"] += 1
        seen["saved_and_left"] += code == STOPPED
        seen["while_starting"] += kind == "start"
        seen["inside_a_write"] += code == -signal_number and bool(unfinished(killed))
        there = reports(killed)
        reached = max((step for step, _ in there), default=0)
        seen["reports"] += len(there)
        differ += sum(expected.get(key) != report for key, report in there.items())
        print(
            f"kill {seen['kills']} ({kind}), exit code {code}, last report at step {reached}, "
            f"{unfinished(killed) or 'no write'}",
            flush=True,
        )
    finish(killed, options)
    there = reports(killed)
    seen["reports"] += len(there)
    differ += sum(there.get(key) != expected.get(key) for key in there.keys() | expected.keys())
    return {**seen, "reports_that_differ": differ, "reports_of_a_run": len(expected)}


def wait_for_a_write(workdir: pathlib.Path):
    """Returns at the beginning of one, or, after a minute, without."""
    ends = time.monotonic() + 60
    while not unfinished(workdir) and time.monotonic() < ends:
        time.sleep(0)


def unfinished(workdir: pathlib.Path) -> list[str]:
    """The states that are being written."""
    names = []
    for folder in (workdir / "checkpoints", workdir / "checkpoints" / "best"):
        if folder.is_dir():
            names += [name for name in os.listdir(folder) if name.startswith(WRITING)]
    return names


def reports(workdir: pathlib.Path) -> dict:
    """The reports by step and split, without the clock; a line cut short is left out."""
    path, found = workdir / "metrics.jsonl", {}
    for line in path.read_text().splitlines() if path.exists() else ():
        try:
            report = json.loads(line)
        except ValueError:
            break
        key = report["step"], report["split"]
        found[key] = {name: value for name, value in report.items() if name not in _CLOCK}
    return found


def states_equal(one: pathlib.Path, other: pathlib.Path) -> bool:
    """Whether all tensors of the last states are equal, bit for bit."""
    states = []
    for workdir in (one, other):
        newest = max((workdir / "checkpoints").glob("step-*"), key=lambda path: int(path.name[5:]))
        states.append((newest.name, load_safetensors(str(newest / "state.safetensors"))))
    (name, first), (other_name, second) = states
    return (
        name == other_name
        and first.keys() == second.keys()
        and all(first[k].tobytes() == second[k].tobytes() for k in first)
    )


if __name__ == "__main__":
    sys.exit(main())
