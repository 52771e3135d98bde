"""Times evaluation with a long memory and generation beside HuggingFace's TransfoXL.

    python -m benchmarks.inference --torch_python=/path/to/python

The model is that of wikitext103_base with `div_val` 4, the tasks are

    evaluation   B = 1, segments of 64, memory of 640
    greedy       B = 1, memory of 150 and of 640
    top-k        B = 8, k = 40, memory of 150 and of 640

Texts go on from a prompt of 4 tokens, so that little of the memory is in use: with
`--prompt_length=640` all of it is, as in the middle of a long text.

Each implementation has two processes, one that evaluates and one that writes, with as many threads
as the others; they take turns, and the medians are compared. Weights are random and the same work
is done for any, but biases are the logarithms of Zipf's frequencies, so that the tails of the
vocabulary have the shares that they have in text. Afterwards ours is compared with the uncached
model: losses of a memory's length and more, and greedy decoding, token for token, as timed and
behind a prompt longer than memory.

Written are `inference.json` and `inference.png`.
"""

import argparse
import json
import os
import pathlib
import platform
import shutil
import statistics
import subprocess
import sys

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from benchmarks.bars import OURS
from benchmarks.bars import PEER as PEER_COLOUR
from benchmarks.softmax_methods import cpu_name

ROOT = pathlib.Path(__file__).resolve().parent.parent
SIZES = {
    "vocab_size": 267_735,
    "num_layers": 16,
    "model_dim": 410,
    "num_heads": 10,
    "feed_forward_dim": 2100,
    "cutoffs": [20_000, 40_000, 200_000],
    "div_val": 4,
}
QUICK = SIZES | {"vocab_size": 500, "num_layers": 2, "model_dim": 64, "num_heads": 2}
QUICK |= {"feed_forward_dim": 64, "cutoffs": [50, 100, 300]}
EVALUATION = {"batch_size": 1, "memory_length": 640, "segment_length": 64, "segments": 24}
TASKS = {
    "evaluation, 64/640": EVALUATION,
    **{
        f"{name}, B = {batch}, M = {memory}": {
            "batch_size": batch,
            "memory_length": memory,
            "num_tokens": num_tokens,
            "top_k": top_k,
        }
        for name, batch, top_k, num_tokens in (("greedy", 1, 0, 48), ("top-k", 8, 40, 24))
        for memory in (150, 640)
    },
}
# What a task is checked with: memory fills, and what it forgets is gone.
CHECKED = {"segments": 20}, {"num_tokens": 48, "prompt_length": 1024}
PEER = "huggingface"
LIGHT = "#56B4E9"


class Worker:
    """A process that measures one implementation."""

    def __init__(self, name: str, python: str, sizes: dict, threads: int, evaluates: bool):
        names = ("OMP_NUM_THREADS", "MKL_NUM_THREADS")
        names += ("TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS")
        counts = dict.fromkeys(names, str(threads))
        if evaluates and name == "ours" and threads == 2:
            # As --mode=eval has it: as many operations at a time, which share no core.
            counts["TF_NUM_INTRAOP_THREADS"] = "1"
        self._process = subprocess.Popen(
            [python, "-m", "benchmarks.inference_worker", name, json.dumps(sizes)],
            cwd=ROOT,
            env={**os.environ, **counts},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.version = self._answer()

    def ask(self, **request) -> dict:
        """The answer to a request."""
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        return self._answer()

    def stop(self):
        """Ends the process."""
        self._process.kill()
        self._process.communicate()

    def _answer(self):
        line = self._process.stdout.readline()
        if not line:
            sys.exit("error: a measuring process ended; what it said stands above")
        return json.loads(line)


def tokens_of(task: dict) -> int:
    """How many tokens a task scores or writes."""
    each = task.get("num_tokens") or task["segments"] * task["segment_length"]
    return task["batch_size"] * each


def measure(workers: dict, tasks: dict, repeats: int) -> dict:
    """Of each task and worker, in turn, `seconds` and `processor_seconds`, a sample each time."""
    found = {}
    for name, task in tasks.items():
        found[name] = {worker: {"seconds": [], "processor_seconds": []} for worker in workers}
        for worker in workers.values():
            worker.ask(**task)  # compiles
        for repetition in range(repeats):
            order = list(workers) if repetition % 2 else list(workers)[::-1]
            for worker in order:
                answer = workers[worker].ask(**task, repetition=repetition)
                for kind, samples in found[name][worker].items():
                    samples.append(answer[kind])
    return found


def check(worker: Worker, tasks: dict) -> dict:
    """Of each task that has one right answer, how far ours is from the uncached model's."""
    longer, further = CHECKED
    found = {}
    for name, task in tasks.items():
        if "segments" in task:
            found[name] = worker.ask(**task | longer, check=True)
        elif not task["top_k"]:
            found[f"{name}, as timed"] = worker.ask(**task, check=True)
            found[name] = worker.ask(**task | further, check=True)
    return found


def rates(found: dict, tasks: dict, kind: str = "seconds") -> dict:
    """Median tokens per second of each task and implementation."""
    return {
        name: {
            worker: tokens_of(tasks[name]) / statistics.median(samples[kind])
            for worker, samples in of_task.items()
        }
        for name, of_task in found.items()
    }


def table(by_task: dict, by_processor: dict) -> str:
    """The rates, and how many times the peer's they are, by the clock and by processor time."""
    lines = [f"{'task':<22} {'':<13} {'tokens/s':>9} {'x peer':>7} {'per CPU s':>10} {'x peer':>7}"]
    for name, rate in by_task.items():
        for worker in rate:
            row = f"{name:<22} {worker:<13}"
            for one, width in ((rate, 9), (by_processor[name], 10)):
                ratio = f"{one[worker] / one[PEER]:.2f}" if PEER in one else ""
                row += f" {one[worker]:>{width},.1f} {ratio:>7}"
            lines.append(row)
    return "\n".join(lines)


def report(checks: dict) -> str:
    """What the comparison with the uncached model found, a line a task."""
    lines = []
    for name, found in checks.items():
        text = f"{name}: of {found['tokens']:,} tokens "
        if "difference" in found:
            text += (
                f"the losses differ by at most {found['difference']:.1e} nats, "
                f"{found['relative_difference']:.1e} of a loss, "
                f"their mean by {found['mean_difference']:.1e}"
            )
        else:
            text += (
                f"({found['distinct']} distinct) {found['different']} differ, and "
                f"{found['tied']} more where the two best are within 1e-5 "
                f"(the nearest two were {found['closest']:.1e} apart)"
            )
        lines.append(text)
    return "the same as the uncached model?\n" + "\n".join(lines)


def draw(by_task: dict, path: str):
    """A picture: how many times the peer's rates, or, without it, the rates."""
    figure = Figure(figsize=(9, 4), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    ours = [name for name in next(iter(by_task.values())) if name != PEER]
    height = 0.8 / len(ours)
    for number, worker in enumerate(ours):
        places = [index + number * height for index in range(len(by_task))]
        lengths = [rate[worker] / rate.get(PEER, 1) for rate in by_task.values()]
        bars = axes.barh(places, lengths, height, label=worker, color=(OURS, LIGHT)[number])
        labels = [
            f"{length:.1f} times: {rate[worker]:,.0f} and {rate[PEER]:,.0f} tokens/s"
            if PEER in rate
            else f"{length:,.0f}"
            for length, rate in zip(lengths, by_task.values())
        ]
        axes.bar_label(bars, labels, padding=3, fontsize=9)
    axes.set_yticks([index + 0.4 - height / 2 for index in range(len(by_task))], list(by_task))
    axes.invert_yaxis()
    axes.margins(x=0.5)
    axes.spines[["top", "right"]].set_visible(False)
    with_peer = PEER in next(iter(by_task.values()))
    axes.set_title("Tokens per second, " + ("times HuggingFace's" if with_peer else "ours"))
    if with_peer:
        axes.axvline(1, color=PEER_COLOUR, linewidth=2)
    if len(ours) > 1:
        axes.legend(frameon=False)
    figure.savefig(path, dpi=120)


def main(argv=None):
    """Runs the comparison, prints and writes it."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.inference",
        description=__doc__,
        formatter_class=argparse.RawTextHelpFormatter,
    )
    add = parser.add_argument
    add("--output_dir", default="runs/inference", help="where JSON and PNG are written")
    add("--torch_python", help="a Python with torch and transformers 4.35.2; default: no peer")
    add("--with_xla", action="store_true", help="ours compiled by XLA too")
    add("--task", action="append", help="only tasks whose names begin so")
    add("--prompt_length", type=int, default=4, help="tokens before those that are written")
    add("--repeats", type=int, default=5, help="alternations")
    add("--threads", type=int, default=os.cpu_count(), help="of each process; default: all cores")
    add("--quick", action="store_true", help="a tiny model")
    settings = parser.parse_args(argv)
    if settings.torch_python and shutil.which(settings.torch_python) is None:
        parser.error(f"--torch_python: there is no {settings.torch_python}")
    if settings.prompt_length < 1:
        parser.error(f"--prompt_length must be at least 1, not {settings.prompt_length}")
    tasks = {
        name: task if "segments" in task else task | {"prompt_length": settings.prompt_length}
        for name, task in TASKS.items()
        if not settings.task or name.startswith(tuple(settings.task))
    }
    if not tasks:
        parser.error(f"--task: no task begins so; there are {list(TASKS)}")
    pythons = {"ours": sys.executable}
    if settings.with_xla:
        pythons["ours with XLA"] = sys.executable
    if settings.torch_python:
        pythons[PEER] = settings.torch_python
    sizes = QUICK if settings.quick else SIZES
    load = os.getloadavg()[0]
    found, checks, versions = {}, {}, {}
    for evaluates in (True, False):
        some = {name: task for name, task in tasks.items() if ("segments" in task) == evaluates}
        if not some:
            continue
        workers = {}
        try:
            for name, python in pythons.items():
                workers[name] = Worker(name, python, sizes, settings.threads, evaluates)
                versions[name] = workers[name].version
            found |= measure(workers, some, settings.repeats)
            checks |= check(workers["ours"], some)
        finally:
            for worker in workers.values():
                worker.stop()
    by_task = rates(found, tasks)
    print(table(by_task, rates(found, tasks, "processor_seconds")))
    print(report(checks))
    result = {
        "settings": vars(settings),
        "device": cpu_name(),
        "platform": platform.platform(),
        "load_before": load,
        "versions": versions,
        "sizes": sizes,
        "tokens_per_second": by_task,
        "samples": found,
        "beside_the_uncached_model": checks,
    }
    folder = pathlib.Path(settings.output_dir)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "inference.json").write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    draw(by_task, str(folder / "inference.png"))
    print(f"{result['device']}, {settings.threads} threads; written to {folder}")


if __name__ == "__main__":
    main()
