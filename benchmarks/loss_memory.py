"""What memory the loss of an adaptive softmax takes beyond its weights and their gradients.

    python -m benchmarks.loss_memory --torch_python=PYTHON
    python -m benchmarks.loss_memory --quick

T = 8,192 tokens, D = 1,024, `div_val` 4, WikiText-103's vocabulary and then twice as many words in
the last cluster: the peak of a fresh process in its first step with gradients (VmHWM), less what it
held before, less the gradients of the weights. Of ours and of torch.nn.AdaptiveLogSoftmaxWithLoss,
with as many threads; a method that is not installed is reported so. Hidden states are counted as
weights are, with the process; their gradient, T * D numbers, is part of the figure. Each is
measured several times, in turn, and the medians are reported.

Written are `loss_memory.json` and `loss_memory.png`.
"""

import argparse
import json
import os
import pathlib
import shutil
import statistics
import sys

from benchmarks.bars import draw_bars
from benchmarks.softmax import CUTOFFS, WIKITEXT103
from benchmarks.softmax_methods import Case, cpu_name
from benchmarks.softmax_processes import Worker, WorkerError

METHODS = ("adaptive", "torch")


def main(argv=None):
    """Measures, prints a table, and writes JSON and PNG."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.loss_memory",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--output_dir", default="runs/loss_memory", help="where JSON and PNG are written")
    add("--tokens", type=int, default=8192, help="T")
    add("--hidden_dim", type=int, default=1024, help="D")
    add("--dtype", choices=["float32", "bfloat16"], default="float32", help="of ours; mixed")
    add("--jit_compile", action="store_true", help="XLA for ours")
    add("--repeats", type=int, default=5, help="fresh processes of each")
    add("--threads", type=int, default=os.cpu_count(), help="of every method; default: all cores")
    add("--torch_python", default=sys.executable, help="interpreter with torch; default: this one")
    add("--quick", action="store_true", help="256 tokens of width 64")
    settings = parser.parse_args(argv)
    if shutil.which(settings.torch_python) is None:
        parser.error(f"--torch_python: there is no {settings.torch_python}")
    if settings.quick:
        settings.tokens, settings.hidden_dim = 256, 64
    results = {"settings": vars(settings), "device": cpu_name()}
    sizes = [(size, method) for size in (WIKITEXT103, 2 * WIKITEXT103) for method in METHODS]
    rounds = [
        [measure(method, vocab_size, settings) for vocab_size, method in sizes]
        for _ in range(settings.repeats)
    ]
    results["cells"] = [median_of(cells) for cells in zip(*rounds)]
    print(f"{'V':>8} {'method':<10} {'MB':>7} {'gradients of weights, MB':>25}")
    for cell in results["cells"]:
        print(line(cell))
    print(growth(results["cells"]))
    folder = pathlib.Path(settings.output_dir)
    folder.mkdir(parents=True, exist_ok=True)
    text = json.dumps(results, indent=1) + "\n"
    (folder / "loss_memory.json").write_text(text, encoding="utf-8")
    draw_bars(panels(results["cells"]), "Memory of the loss, MB", str(folder / "loss_memory.png"))


def measure(method: str, vocab_size: int, settings) -> dict:
    """A method's figures at one size: `bytes` and `gradient_bytes`, or the reason why not."""
    case = Case(
        method=method,
        vocab_size=vocab_size,
        tokens=settings.tokens,
        hidden_dim=settings.hidden_dim,
        cutoffs=CUTOFFS,
        div_val=4,
        num_sampled=1,
        dtype="float32" if method == "torch" else settings.dtype,
        jit_compile=settings.jit_compile,
        threads=settings.threads,
    )
    worker = Worker(settings.torch_python if method == "torch" else sys.executable, case)
    cell = {"method": method, "vocab_size": vocab_size}
    try:
        versions = worker.ask(do="load")["versions"]
        prepared = worker.ask(do="prepare")
    except WorkerError as error:
        return cell | {"status": "not installed" if error.missing else "failed: " + str(error)}
    finally:
        worker.stop()
    gradients = 4 * prepared["parameters"]
    found = {"bytes": prepared["peak_memory_bytes"] - gradients, "gradient_bytes": gradients}
    return cell | found | {"status": "ok", "versions": versions}


def median_of(cells) -> dict:
    """A method's rounds at one size as one cell, `samples` beside the median of its bytes."""
    if failed := [cell for cell in cells if cell["status"] != "ok"]:
        return failed[0]
    samples = [cell["bytes"] for cell in cells]
    return cells[0] | {"bytes": statistics.median(samples), "samples": samples}


def panels(cells: list) -> list:
    """For each vocabulary the megabytes of the methods that ran, as `draw_bars` takes them."""
    names = {"adaptive": "ours"}
    return [
        (
            f"{vocab_size:,} words",
            {
                names.get(cell["method"], cell["method"]): cell["bytes"] / 1e6
                for cell in cells
                if cell["vocab_size"] == vocab_size and cell["status"] == "ok"
            },
        )
        for vocab_size in dict.fromkeys(cell["vocab_size"] for cell in cells)
    ]


def line(cell: dict) -> str:
    """A row of the table."""
    start = f"{cell['vocab_size']:>8,} {cell['method']:<10} "
    if cell["status"] != "ok":
        return start + cell["status"]
    return start + f"{cell['bytes'] / 1e6:>7,.0f} {cell['gradient_bytes'] / 1e6:>25,.0f}"


def growth(cells: list) -> str:
    """How the figures grow when the vocabulary doubles."""
    parts = []
    for method in METHODS:
        sizes = [one["bytes"] for one in cells if one["method"] == method and "bytes" in one]
        if len(sizes) == 2:
            parts.append(f"{method} {sizes[1] / sizes[0] - 1:+.1%}")
    return "with twice the vocabulary: " + (", ".join(parts) or "nothing to compare")


if __name__ == "__main__":
    main()
