"""What the output layer of a language model costs in training: ours, the usual one, and peers.

    python -m benchmarks.softmax                     all sizes; about 10 minutes on 2 cores
    python -m benchmarks.softmax --cell=wikitext103  the cell that matters most; 4 minutes
    python -m benchmarks.softmax --quick             tiny sizes, to see that it works

    ... --torch_python=<interpreter with torch>
        --keras_adaptive_softmax_python=<one with keras-adaptive-softmax and tf-keras>

Compared are a Dense layer with Keras' cross-entropy from logits (`full`), `AdaptiveSoftmax` without
cutoffs (`chunked`: the same distribution), with cutoffs (`adaptive`), `SampledSoftmax` (`sampled`,
an estimate of the full softmax' loss), `torch.nn.AdaptiveLogSoftmaxWithLoss` as it comes, and
keras-adaptive-softmax. A peer that is not installed is reported as such.

Each method has a process of its own with as many threads as the others, for one vocabulary size V
and number of tokens T of a step at a time. In every repetition each method is measured once, one
after another, with the same targets, drawn by Zipf's law; what is reported are medians. `forward`
is the loss alone, `forward + backward` the loss with the gradients of the hidden states and of all
weights, without an optimizer, `backward` their difference. Peak memory is what the first such step
takes beyond weights and inputs. A method that fails, for want of memory say, is reported with the
reason. Peers compute in float32 whatever the dtype; PyTorch is not compiled.

Written are `softmax_comparison.json` (settings, versions, every sample) and
`softmax_comparison.png`. The machine should have nothing else to do.
"""

import argparse
import json
import os
import pathlib
import platform
import shutil
import sys
import time

import numpy as np

from benchmarks.softmax_methods import (
    OURS,
    PEERS,
    TORCH_BFLOAT16,
    Case,
    cpu_name,
    zipf_probabilities,
)
from benchmarks.softmax_plot import draw
from benchmarks.softmax_processes import measure_cell
from benchmarks.softmax_table import format_cell, format_highlight, ratio

# WikiText-103's vocabulary, and the cutoffs of the published models.
WIKITEXT103 = 267_735
CUTOFFS = (20_000, 40_000, 200_000)
FULL_SIZE = {
    "vocab_sizes": [10_000, 30_000, 100_000, WIKITEXT103],
    "tokens": 1024,
    "batch_sizes": [256, 1024, 4096],
    "batch_vocab_size": 30_000,
    "hidden_dim": 410,
    "num_sampled": 2048,
    "repeats": 5,
}
QUICK = {
    "vocab_sizes": [500, 2000],
    "tokens": 64,
    "batch_sizes": [64],
    "batch_vocab_size": 2000,
    "hidden_dim": 64,
    "num_sampled": 32,
    "repeats": 3,
}


def parse(argv) -> argparse.Namespace:
    """The settings of a run, from the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.softmax",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.set_defaults(**FULL_SIZE)
    add = parser.add_argument
    add("--output_dir", default="runs/softmax_benchmark", help="where JSON and PNG are written")
    add("--quick", action="store_true", help="tiny sizes, unless others are given")
    add("--cell", choices=["wikitext103"], help="only V = 267,735, T = 1,024, D = 410")
    add("--vocab_sizes", type=_numbers, help="comma-separated V, each with --tokens")
    add("--tokens", type=int, help="T, tokens of a step")
    add("--batch_sizes", type=_numbers, help="comma-separated T, each with --batch_vocab_size")
    add("--batch_vocab_size", type=int, help="V for --batch_sizes")
    add("--full_grid", action="store_true", help="each of --vocab_sizes with each of --batch_sizes")
    add("--hidden_dim", type=int, help="D, width of the hidden states")
    add(
        "--cutoffs",
        default=",".join(map(str, CUTOFFS)),
        help="for the largest vocabulary of the defaults, 267,735, and in proportion for others; "
        "or optimal, for the targets' distribution",
    )
    add("--div_val", type=int, default=4)
    add("--num_sampled", type=int, help="classes that SampledSoftmax samples")
    add("--methods", default=",".join(OURS + PEERS), help="comma-separated; default: these")
    add(
        "--dtype",
        choices=["float32", "bfloat16"],
        default="float32",
        help="bfloat16 is mixed; the method torch_bfloat16 has weights in it, too",
    )
    add("--jit_compile", action="store_true", help="XLA for all but torch")
    add("--threads", type=int, default=os.cpu_count(), help="of every method; default: all cores")
    add("--repeats", type=int, help="how often everything is measured")
    add("--cell_seconds", type=float, default=30, help="after these 3 repeats of a size will do")
    add("--zipf_exponent", type=float, default=1.0, help="share of rank r: 1 / r**exponent")
    add("--seed", type=int, default=1)
    for peer in PEERS:
        add(f"--{peer}_python", default=sys.executable, help="interpreter; default: this one")
    arguments = parser.parse_args(argv)
    if arguments.quick:
        parser.set_defaults(**QUICK)
    if arguments.cell:
        parser.set_defaults(vocab_sizes=[WIKITEXT103], batch_sizes=[])
    arguments = parser.parse_args(argv)

    arguments.methods = arguments.methods.split(",")
    known = [*OURS, *PEERS, TORCH_BFLOAT16]
    unknown = set(arguments.methods) - set(known)
    if unknown:
        parser.error(f"--methods: {sorted(unknown)} are not among {known}")
    if arguments.cutoffs != "optimal":
        arguments.cutoffs = _numbers(arguments.cutoffs)
    for peer in PEERS:
        python = getattr(arguments, f"{peer}_python")
        if shutil.which(python) is None:
            parser.error(f"--{peer}_python: there is no {python}")
    return arguments


def _numbers(text):
    return [int(number.replace("_", "")) for number in text.split(",")]


def sizes(settings) -> list:
    """The pairs (V, T) to measure, the largest first: what takes too much memory fails early."""
    pairs = {(vocab_size, settings.tokens) for vocab_size in settings.vocab_sizes}
    pairs |= {(settings.batch_vocab_size, tokens) for tokens in settings.batch_sizes}
    if settings.full_grid:
        pairs |= {(v, t) for v in settings.vocab_sizes for t in settings.batch_sizes}
    return sorted(pairs, key=lambda pair: (pair[0] * pair[1], pair), reverse=True)


def cutoffs_for(vocab_size: int, tokens: int, settings) -> tuple:
    """The cutoffs of a vocabulary: in proportion to those given, or those of least cost."""
    if settings.cutoffs == "optimal":
        from adaptive.cutoffs import optimal_cutoffs

        shares = zipf_probabilities(vocab_size, settings.zipf_exponent)
        options = {"div_val": settings.div_val, "batch_size": tokens}
        return optimal_cutoffs(shares, len(CUTOFFS) + 1, settings.hidden_dim, **options)
    return tuple(round(cutoff * vocab_size / WIKITEXT103) for cutoff in settings.cutoffs)


def run_cell(vocab_size: int, tokens: int, settings) -> dict:
    """Measures all methods at one size."""
    cutoffs = cutoffs_for(vocab_size, tokens, settings)
    matters_most = (vocab_size, tokens) == (max(settings.vocab_sizes), settings.tokens)
    cases = {
        name: Case(
            method=name,
            vocab_size=vocab_size,
            tokens=tokens,
            hidden_dim=settings.hidden_dim,
            cutoffs=cutoffs,
            div_val=settings.div_val,
            num_sampled=settings.num_sampled,
            dtype=settings.dtype,
            jit_compile=settings.jit_compile,
            threads=settings.threads,
            zipf_exponent=settings.zipf_exponent,
            seed=settings.seed,
            fit=matters_most and name in ("full", "adaptive"),
        )
        for name in settings.methods
    }
    pythons = {
        name: getattr(settings, f"{name.removesuffix('_bfloat16')}_python", sys.executable)
        for name in settings.methods
    }
    edges = [0, *cutoffs, vocab_size]
    shares = np.cumsum([0.0, *zipf_probabilities(vocab_size, settings.zipf_exponent)])[edges]
    cell = {
        "vocab_size": vocab_size,
        "tokens": tokens,
        "cutoffs": list(cutoffs),
        "cluster_sizes": np.diff(edges).tolist(),
        "cluster_shares": np.diff(shares).tolist(),
        "methods": measure_cell(cases, pythons, settings.repeats, settings.cell_seconds),
    }
    for name, result in cell["methods"].items():
        if result["status"] == "ok":
            result["speedup"] = ratio(cell, "full", name)
    return cell


def highlight(cell: dict) -> dict:
    """What the largest vocabulary comes to: the others' times over `AdaptiveSoftmax`'s."""
    found = {
        f"{name}_over_adaptive": ratio(cell, name, "adaptive")
        for name in cell["methods"]
        if name != "adaptive"
    }
    found["fit_full_over_adaptive"] = ratio(cell, "full", "adaptive", "fit")
    return {key: cell[key] for key in ("vocab_size", "tokens", "cutoffs")} | {"ratios": found}


def main(argv=None):
    """Measures, prints a table for each size, and writes JSON and PNG."""
    settings = parse(argv)
    folder = pathlib.Path(settings.output_dir)
    folder.mkdir(parents=True, exist_ok=True)
    text, picture = folder / "softmax_comparison.json", folder / "softmax_comparison.png"
    start, load = time.perf_counter(), os.getloadavg()[0]
    if load > 0.5:
        print(f"Other processes keep {load:.1f} cores busy: the times will not mean much.\n")
    results = {
        "settings": {key: value for key, value in vars(settings).items() if key != "output_dir"},
        "device": cpu_name(),
        "platform": platform.platform(),
        "load_before": load,
        "cells": [],
    }
    for vocab_size, tokens in sizes(settings):
        cell = run_cell(vocab_size, tokens, settings)
        results["cells"].append(cell)
        # Also what was measured before an interruption is kept.
        _write(results, text)
        print(format_cell(cell) + "\n", flush=True)
    measured = [one for cell in results["cells"] for one in cell["methods"].values()]
    # A GPU, where there is one.
    results["device"] = next((one["device"] for one in measured if "device" in one), cpu_name())
    largest = next(
        cell
        for cell in results["cells"]
        if (cell["vocab_size"], cell["tokens"]) == (max(settings.vocab_sizes), settings.tokens)
    )
    results["highlight"] = highlight(largest)
    results["seconds"] = time.perf_counter() - start
    _write(results, text)
    draw(results, str(picture))
    print(format_highlight(largest, results["settings"]))
    print(f"\n{results['device']}, {settings.threads} threads; {results['seconds']:,.0f} s in all")
    print(f"Written: {text} and {picture}")


def _write(results, path):
    path.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
