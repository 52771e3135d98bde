"""How fast a corpus of words is prepared, beside the way of the original PyTorch code.

  python -m benchmarks.preparation --wikitext2=PATH [--repeats=50] [--json=FILE]

The training text of WikiText-2 is repeated, 50 times by default: 104 million tokens, as many as
WikiText-103 has. Ours goes from text to a verified array, counting and checksums included, in
processes of its own; memory is the resident memory of all of them, sampled ten times a second. The
peer is `preparation_peer.py`, in a process of its own.
"""

import argparse
import json
import os
import pathlib
import subprocess
import sys
import tempfile
import threading
import time

import numpy as np
import psutil

from data_utils import load_corpus, prepare


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--wikitext2", required=True, help="folder or zip of WikiText-2")
    parser.add_argument("--repeats", type=int, default=50)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument(
        "--processes", type=int, nargs="*", default=[1, len(os.sched_getaffinity(0))]
    )
    parser.add_argument("--json", help="file for the figures")
    parser.add_argument("--peer_python", default=sys.executable, help="one that has torch, perhaps")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        result = measure(arguments, pathlib.Path(folder))
    print(table(result))
    if arguments.json:
        pathlib.Path(arguments.json).write_text(json.dumps(result, indent=2) + "\n")


def measure(arguments, folder: pathlib.Path) -> dict:
    """All figures, as they go into the JSON file."""
    splits = {}
    source = load_corpus("wikitext2", arguments.wikitext2)
    for split in source.splits:
        (piece,) = source.sources[split]
        splits[split] = b"".join(piece.blocks())
    text = folder / "text"
    text.mkdir()
    for split, data in splits.items():
        with open(text / f"{split}.txt", "wb") as file:
            for _ in range(arguments.repeats if split == "train" else 1):
                file.write(data)
    rows = []
    for processes in arguments.processes:
        for run in range(arguments.runs):
            rows.append(ours(text, folder / f"{processes}.{run}", processes))
            print(row_text(rows[-1]), file=sys.stderr, flush=True)
    rows.append(peer(text / "train.txt", arguments.peer_python))
    print(row_text(rows[-1]), file=sys.stderr, flush=True)
    return {"repeats": arguments.repeats, "cpus": len(os.sched_getaffinity(0)), "rows": rows}


def ours(text: pathlib.Path, directory: pathlib.Path, processes: int) -> dict:
    """Prepares with so many processes."""
    corpus = load_corpus("wikitext2", text)
    with PeakMemory() as memory:
        start = time.perf_counter()
        prepared = prepare(corpus, directory, num_processes=processes)
        seconds = time.perf_counter() - start
    tokens = sum(len(array) for array in prepared.arrays.values())
    assert (np.bincount(prepared.arrays["train"]) == prepared.counts).all()
    return row("this project", processes, tokens, seconds, memory.megabytes)


def peer(path: pathlib.Path, python: str) -> dict:
    """The original code's way, in a process of its own."""
    script = pathlib.Path(__file__).with_name("preparation_peer.py")
    with PeakMemory() as memory:
        run = subprocess.run([python, script, path], check=True, capture_output=True, text=True)
    result = json.loads(run.stdout)
    name = f"per line, Counter and dict, {result['arrays']}"
    return row(name, 1, result["tokens"], result["seconds"], memory.megabytes)


def row(name, processes, tokens, seconds, megabytes) -> dict:
    return {
        "name": name,
        "processes": processes,
        "tokens": tokens,
        "seconds": seconds,
        "tokens_per_second": tokens / seconds,
        "peak_megabytes": megabytes,
    }


class PeakMemory:
    """The most resident memory that this process and its children had together, in MB."""

    def __enter__(self):
        self.megabytes = 0.0
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._watch)
        self._thread.start()
        return self

    def __exit__(self, *_):
        self._done.set()
        self._thread.join()

    def _watch(self):
        here = psutil.Process()
        while not self._done.wait(0.1):
            total = 0
            for process in [here, *here.children(recursive=True)]:
                try:
                    total += process.memory_info().rss
                except psutil.NoSuchProcess:
                    continue
            self.megabytes = max(self.megabytes, total / 1e6)


def row_text(r: dict) -> str:
    return (
        f"| {r['name']} | {r['processes']} | {r['tokens'] / 1e6:.1f} | {r['seconds']:.2f} | "
        f"{r['tokens_per_second'] / 1e6:.2f} | {r['peak_megabytes']:.0f} |"
    )


def table(result: dict) -> str:
    """Markdown."""
    head = "| what | processes | million tokens | seconds | million tokens/s | MB in all |\n"
    return head + "|---|---:|---:|---:|---:|---:|\n" + "\n".join(map(row_text, result["rows"]))


if __name__ == "__main__":
    main()
