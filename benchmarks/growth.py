"""How time and memory of a training step grow with its lengths, batch and vocabulary.

    python -m benchmarks.growth
    python -m benchmarks.growth --quick

From one size, each of the segment length L, the memory length M, the batch B and the vocabulary V
is doubled, once, twice and so on, while the others stay; the sizes take their steps in turn. For
each the median time of a step, the peak memory beyond what the process held before the model was
built, and the operations that `transformer_xl.model_cost` counts, as ratios to the first size.
Targets are drawn by Zipf's law, and the parts of the vocabulary keep their shares of it.

Written are `growth.json` and `growth.png`.
"""

import argparse
import dataclasses
import json
import os
import pathlib
import sys

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from benchmarks.softmax_methods import cpu_name
from benchmarks.training_step import measure
from benchmarks.training_step_methods import Case
from transformer_xl import ModelConfig
from transformer_xl.model_cost import forward_flops, training_flops

SIZE = {
    "batch_size": 8,
    "segment_length": 64,
    "memory_length": 64,
    "vocab_size": 16_000,
    "num_layers": 4,
    "model_dim": 128,
    "num_heads": 4,
    "head_dim": 32,
    "feed_forward_dim": 512,
    "div_val": 2,
}
QUICK = SIZE | {"batch_size": 2, "segment_length": 8, "memory_length": 8, "vocab_size": 400}
SHARES = (0.1, 0.3)  # of the vocabulary, where the second and the third cluster begin
DIRECTIONS = {
    "segment_length": "L",
    "memory_length": "M",
    "batch_size": "B",
    "vocab_size": "V",
}


def main(argv=None):
    """Measures, prints the table, and writes JSON and PNG."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.growth",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--output_dir", default="runs/growth", help="where JSON and PNG are written")
    add("--doublings", type=int, default=2, help="of each of the four")
    add("--repeats", type=int, default=7, help="steps of each size that are measured")
    add("--jit_compile", action="store_true", help="compile with XLA")
    add("--threads", type=int, default=os.cpu_count(), help="default: all cores")
    add("--quick", action="store_true", help="a tiny size")
    settings = parser.parse_args(argv)
    cases = sizes(settings)
    method = "ours_xla" if settings.jit_compile else "ours"
    cases = {name: dataclasses.replace(case, method=method) for name, case in cases.items()}
    # Each in a process of its own, whose peak is its own; they take turns.
    measured = measure(cases, dict.fromkeys(cases, sys.executable), settings.repeats)
    found = {}
    for name, case in cases.items():
        one = measured[name]
        if one["status"] != "ok":
            sys.exit(f"error: {name}: {one['reason']}")
        found[name] = {
            "case": dataclasses.asdict(case),
            "seconds": one["seconds"],
            "memory_bytes": one["peak_memory_bytes"] - one["before_memory_bytes"],
            "flops": flops(case),
        }
    print(table(found))
    folder = pathlib.Path(settings.output_dir)
    folder.mkdir(parents=True, exist_ok=True)
    results = {"settings": vars(settings), "device": cpu_name(), "sizes": found}
    (folder / "growth.json").write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    draw(found, str(folder / "growth.png"))


def sizes(settings) -> dict:
    """The cases by name: "base", then "L x2" and so on."""
    size = QUICK if settings.quick else SIZE

    def case(**changes):
        fields = size | changes
        cutoffs = tuple(round(share * fields["vocab_size"]) for share in SHARES)
        return Case("ours", cutoffs=cutoffs, threads=settings.threads, **fields)

    factors = [2**n for n in range(1, settings.doublings + 1)]
    doubled = {
        f"{letter} x{factor}": case(**{name: size[name] * factor})
        for name, letter in DIRECTIONS.items()
        for factor in factors
    }
    return {"base": case()} | doubled


def flops(case: Case) -> float:
    """Operations of a training step, by formula."""
    fields = {field.name for field in dataclasses.fields(ModelConfig)}
    config = {name: value for name, value in dataclasses.asdict(case).items() if name in fields}
    shares = 1.0 / np.arange(1, case.vocab_size + 1)
    edges = [0, *case.cutoffs, case.vocab_size]
    in_cluster = [shares[a:b].sum() / shares.sum() for a, b in zip(edges, edges[1:])]
    forward = forward_flops(ModelConfig(**config), case.segment_length, case.batch_size, in_cluster)
    return training_flops(forward) * case.batch_size * case.segment_length


def ratios(found: dict, name: str) -> tuple:
    """Time, memory and operations of a size over the first one's."""
    one, base = found[name], found["base"]
    return (
        one["seconds"]["median"] / base["seconds"]["median"],
        one["memory_bytes"] / base["memory_bytes"],
        one["flops"] / base["flops"],
    )


def table(found: dict) -> str:
    """What was found, for people to read."""
    lines = [
        f"{'size':<8} {'ms':>7} {'MB':>6} {'GFLOP':>7} {'time x':>7} {'mem. x':>7} {'FLOP x':>7}"
    ]
    for name, one in found.items():
        row = f"{name:<8} {1e3 * one['seconds']['median']:>7,.0f} "
        row += f"{one['memory_bytes'] / 1e6:>6,.0f} {one['flops'] / 1e9:>7,.1f} "
        lines.append(row + " ".join(f"{ratio:>7.2f}" for ratio in ratios(found, name)))
    return "\n".join(lines)


def draw(found: dict, path: str):
    """A panel for each of the four: the ratios over the factor, on logarithmic axes."""
    figure = Figure(figsize=(14, 4), layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(1, len(DIRECTIONS), sharey=True)
    for axes, letter in zip(panels, DIRECTIONS.values()):
        names = ["base"] + [name for name in found if name.startswith(f"{letter} ")]
        factors = [2**n for n in range(len(names))]
        lines = zip(*(ratios(found, name) for name in names))
        for label, values, colour in zip(
            ("time", "memory", "operations"), lines, ("#0072B2", "#D55E00", "#444444")
        ):
            axes.plot(factors, values, "o-", label=label, color=colour)
        axes.set_xscale("log", base=2)
        axes.set_yscale("log", base=2)
        axes.set_xticks(factors, [f"x{factor}" for factor in factors])
        axes.set_yticks(factors, [f"x{factor}" for factor in factors])
        axes.set_title(f"{letter} grows")
        axes.grid(alpha=0.3)
    panels[0].legend()
    figure.savefig(path, dpi=120)


if __name__ == "__main__":
    main()
