"""Times evaluation with a long memory and generation beside HuggingFace's TransfoXL.

    python -m benchmarks.inference --torch_python=/path/to/python

The model is that of wikitext103_base with `div_val` 4, the tasks are

    evaluation   B = 1, segments of 64, memory of 640
    greedy       B = 1, memory of 150 and of 640
    top-k        B = 8, k = 40, memory of 150 and of 640

Each implementation runs in a process of its own; they take turns, and the medians are compared. It
prints a table, and writes JSON and a picture.
"""

import argparse
import json
import os
import pathlib
import platform
import statistics
import subprocess
import sys
import time

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
EVALUATION = {"batch_size": 1, "memory_length": 640, "segment_length": 64, "segments": 6}
TASKS = {
    "evaluation, 64/640": EVALUATION,
    **{
        f"{name}, B = {batch}, M = {memory}": {
            "batch_size": batch,
            "memory_length": memory,
            "num_tokens": 24,
            "top_k": top_k,
        }
        for name, batch, top_k in (("greedy", 1, 0), ("top-k", 8, 40))
        for memory in (150, 640)
    },
}


class Worker:
    """A process that measures one implementation."""

    def __init__(self, name: str, python: str, sizes: dict, threads: int):
        counts = {"OMP_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads)}
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


def measure(workers: dict, tasks: dict, repeats: int, seconds: float) -> dict:
    """Seconds of each task and worker, in turn; stops early after so many seconds a task."""
    found = {}
    for name, task in tasks.items():
        samples = {worker: [] for worker in workers}
        for worker in workers.values():
            worker.ask(**task)  # compiles
        start = time.perf_counter()
        for repetition in range(repeats):
            if repetition >= 3 and time.perf_counter() - start > seconds:
                break
            order = list(workers) if repetition % 2 else list(workers)[::-1]
            for worker in order:
                answer = workers[worker].ask(**task, repetition=repetition)
                samples[worker].append(answer["seconds"])
        found[name] = samples
    return found


def rates(found: dict, tasks: dict) -> dict:
    """Median tokens per second of each task and implementation."""
    return {
        name: {
            worker: tokens_of(tasks[name]) / statistics.median(values)
            for worker, values in samples.items()
        }
        for name, samples in found.items()
    }


def table(by_task: dict) -> str:
    """The rates, and how many times HuggingFace's they are."""
    lines = []
    for name, rate in by_task.items():
        base = rate.get("huggingface")
        cells = [
            f"{worker} {value:,.1f}" + (f" ({value / base:.2f} times)" if base else "")
            for worker, value in rate.items()
        ]
        lines.append(f"{name:24}  tokens/s: " + "; ".join(cells))
    return "\n".join(lines)


def draw(by_task: dict, path: str):
    """A picture of the rates."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    workers = list(next(iter(by_task.values())))
    figure, axes = pyplot.subplots(figsize=(9, 4.5))
    height = 0.8 / len(workers)
    for number, worker in enumerate(workers):
        places = [index + number * height for index in range(len(by_task))]
        bars = axes.barh(places, [rate[worker] for rate in by_task.values()], height, label=worker)
        axes.bar_label(bars, fmt="%.0f", padding=3, fontsize=8)
    axes.set_yticks([index + 0.4 - height / 2 for index in range(len(by_task))], list(by_task))
    axes.invert_yaxis()
    axes.set_xscale("log")
    axes.set_xlabel("tokens per second")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False)
    figure.tight_layout()
    figure.savefig(path, dpi=150)
    pyplot.close(figure)


def main(arguments=None):
    """Runs the comparison, prints and writes it."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--torch_python", help="a Python with torch and transformers 4.35.2")
    parser.add_argument("--with_xla", action="store_true", help="ours compiled by XLA too")
    parser.add_argument("--task", action="append", help="only tasks whose names begin so")
    parser.add_argument("--repeats", type=int, default=5, help="alternations")
    parser.add_argument("--seconds", type=float, default=60, help="bound for a task, after three")
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="of each process")
    parser.add_argument("--output", default="inference", help="JSON and PNG, without the ending")
    options = parser.parse_args(arguments)
    tasks = {
        name: task
        for name, task in TASKS.items()
        if not options.task or name.startswith(tuple(options.task))
    }
    pythons = {"ours": sys.executable}
    if options.with_xla:
        pythons["ours with XLA"] = sys.executable
    if options.torch_python:
        pythons["huggingface"] = options.torch_python
    workers = {}
    try:
        for name, python in pythons.items():
            workers[name] = Worker(name, python, SIZES, options.threads)
        found = measure(workers, tasks, options.repeats, options.seconds)
    finally:
        for worker in workers.values():
            worker.stop()
    by_task = rates(found, tasks)
    print(table(by_task))
    result = {
        "machine": {"processors": options.threads, "architecture": platform.machine()},
        "versions": {name: worker.version for name, worker in workers.items()},
        "sizes": SIZES,
        "tokens_per_second": by_task,
        "seconds": found,
    }
    with open(f"{options.output}.json", "w", encoding="utf-8") as file:
        json.dump(result, file, indent=1)
    draw(by_task, f"{options.output}.png")
    return 0


if __name__ == "__main__":
    sys.exit(main())
