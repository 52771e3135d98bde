"""Times a training step of Transformer-XL, ours beside HuggingFace's, with its peak memory.

    python -m benchmarks.training_step --huggingface_python=PYTHON     wikitext103_base
    python -m benchmarks.training_step --quick                         tiny, to see that it works

PYTHON has torch and transformers 4.35.2, where the model still is. A step is what training does:
a segment of B streams with memory, dropout on, loss, gradients, clipping by the global norm, Adam.
Each method (`ours`, `ours_xla`, `ours_attention_again`, `ours_feed_forward_again`,
`ours_both_again`, `ours_rematerialized`, `huggingface`) has a process of its own with as many
threads as the others; in every repetition each takes one step, one after another, on the same ids,
drawn by Zipf's law. `ours_attention_again` makes the weights of attention again in the backward
pass, `ours_feed_forward_again` the inner feed-forward layers, `ours_both_again` both,
`ours_rematerialized` whole blocks. Reported are medians, and the peak memory of the process. One
that is not installed, or fails, is reported so.

Written are `training_step.json` and `training_step.png`. The machine should have nothing else to
do.
"""

import argparse
import dataclasses
import json
import os
import pathlib
import platform
import shutil
import statistics
import sys

from benchmarks.bars import draw_bars
from benchmarks.softmax_methods import cpu_name
from benchmarks.softmax_processes import Worker, WorkerError
from benchmarks.training_step_methods import METHODS, PEER, Case

_WIDTH = max(map(len, METHODS))  # of a table's first column
QUICK = {
    "vocab_size": 500,
    "cutoffs": (50, 100, 300),
    "num_layers": 2,
    "model_dim": 64,
    "num_heads": 2,
    "head_dim": 32,
    "feed_forward_dim": 64,
    "segment_length": 8,
    "memory_length": 8,
}


def main(argv=None):
    """Measures, prints a table for each div_val, and writes JSON and PNG."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.training_step",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--output_dir", default="runs/training_step", help="where JSON and PNG are written")
    add("--methods", default=",".join(METHODS), help="comma-separated; default: all")
    add("--div_vals", default="1,4", help="comma-separated; a table for each")
    add("--batch_size", type=int, default=4, help="B, streams")
    add("--dtype", choices=["float32", "bfloat16"], default="float32", help="of ours; mixed")
    add("--repeats", type=int, default=5, help="steps of each method that are measured")
    add("--threads", type=int, default=os.cpu_count(), help="of every method; default: all cores")
    add(f"--{PEER}_python", default=sys.executable, help="interpreter; default: this one")
    add("--quick", action="store_true", help="a tiny model")
    settings = parser.parse_args(argv)
    methods = settings.methods.split(",")
    if unknown := set(methods) - set(METHODS):
        parser.error(f"--methods: {sorted(unknown)} are not among {list(METHODS)}")
    peer_python = getattr(settings, f"{PEER}_python")
    if shutil.which(peer_python) is None:
        parser.error(f"--{PEER}_python: there is no {peer_python}")

    folder = pathlib.Path(settings.output_dir)
    folder.mkdir(parents=True, exist_ok=True)
    results = {
        "settings": vars(settings),
        "device": cpu_name(),
        "platform": platform.platform(),
        "load_before": os.getloadavg()[0],
        "cells": [],
    }
    for div_val in map(int, settings.div_vals.split(",")):
        base = Case(
            method="",
            div_val=div_val,
            batch_size=settings.batch_size,
            dtype=settings.dtype,
            threads=settings.threads,
            **(QUICK if settings.quick else {}),
        )
        cases = {
            name: dataclasses.replace(
                base, method=name, dtype="float32" if name == PEER else base.dtype
            )
            for name in methods
        }
        pythons = {name: peer_python if name == PEER else sys.executable for name in methods}
        cell = {
            "case": dataclasses.asdict(base),
            "methods": measure(cases, pythons, settings.repeats),
        }
        results["cells"].append(cell)
        text = json.dumps(results, indent=1) + "\n"
        (folder / "training_step.json").write_text(text, encoding="utf-8")
        print(table(cell) + "\n", flush=True)
    draw_bars(
        [(f"div_val {cell['case']['div_val']}", speeds(cell)) for cell in results["cells"]],
        "Training step, tokens per second",
        str(folder / "training_step.png"),
    )
    print(f"{results['device']}, {settings.threads} threads; written to {folder}")


def measure(cases: dict, pythons: dict, repeats: int) -> dict:
    """Steps of each method in turn, so that whatever disturbs hits all alike.

    Args:
      cases: a `Case` for each method.
      pythons: the interpreter of each.
      repeats: steps of each.

    Returns:
      For each method its `status` ("ok", "failed" or "not installed") and, where it is "ok",
      `seconds` (median and samples), `processor_seconds` (the same of all processors together,
      which other processes disturb less), `tokens_per_second`, `peak_memory_bytes`, `parameters`,
      `loss` of the last step, `versions`.
    """
    workers, found = {}, {}

    def ask(name, **request):
        try:
            return workers[name].ask(**request)
        except WorkerError as error:
            status = "not installed" if error.missing else "failed"
            found[name] = {"status": status, "reason": str(error)}
            workers.pop(name).stop()
            return None

    try:
        for name, case in cases.items():
            workers[name] = Worker(pythons[name], case, "benchmarks.training_step_worker")
        for name in list(workers):
            if (loaded := ask(name, do="load")) and (prepared := ask(name, do="prepare")):
                found[name] = {"status": "ok", **loaded, **prepared, "samples": [], "processor": []}
        for number in range(repeats):
            for name in list(workers):
                if step := ask(name, do="step", number=number):
                    found[name]["samples"].append(step["seconds"])
                    found[name]["processor"].append(step["processor_seconds"])
                    found[name]["loss"] = step["loss"]
    finally:
        for worker in workers.values():
            worker.stop()
    for name, result in found.items():
        if result["status"] == "ok":
            seconds = statistics.median(result["samples"])
            result["seconds"] = {"median": seconds, "samples": result.pop("samples")}
            result["processor_seconds"] = statistics.median(result.pop("processor"))
            tokens = cases[name].batch_size * cases[name].segment_length
            result["tokens_per_second"] = tokens / seconds
    return found


def speeds(cell: dict) -> dict:
    """Tokens per second of the methods that ran."""
    ran = {name: one for name, one in cell["methods"].items() if one["status"] == "ok"}
    return {name: one["tokens_per_second"] for name, one in ran.items()}


def table(cell: dict) -> str:
    """What was found at one size, for people to read, with ratios to the peer."""
    case, methods = cell["case"], cell["methods"]
    lines = [
        f"div_val {case['div_val']}: B = {case['batch_size']}, L = {case['segment_length']}, "
        f"M = {case['memory_length']}, V = {case['vocab_size']:,}, {case['num_layers']} layers of "
        f"{case['model_dim']}, {case['dtype']}",
        f"{'method':<{_WIDTH}} {'ms/step':>9} {'tokens/s':>9} {'x peer':>7} {'CPU ms':>8} "
        f"{'x peer':>7} {'peak MB':>8} {'of peer':>8}",
    ]
    peer = methods.get(PEER, {})
    for name, one in methods.items():
        if one["status"] != "ok":
            lines.append(f"{name:<{_WIDTH}} {one['status']}: {one['reason']}")
            continue
        speed, peak = one["tokens_per_second"], one["peak_memory_bytes"]
        processor = one["processor_seconds"]
        of_peer = ["", "", ""]
        if peer.get("status") == "ok":
            of_peer = [
                f"{speed / peer['tokens_per_second']:.2f}",
                f"{peer['processor_seconds'] / processor:.2f}",
                f"{peak / peer['peak_memory_bytes']:.2f}",
            ]
        lines.append(
            f"{name:<{_WIDTH}} {1e3 * one['seconds']['median']:>9,.0f} {speed:>9,.0f} "
            f"{of_peer[0]:>7} {1e3 * processor:>8,.0f} {of_peer[1]:>7} {peak / 1e6:>8,.0f} "
            f"{of_peer[2]:>8}"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    main()
