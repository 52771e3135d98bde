"""How fast batches are made, without a model, and whether the place in the corpus matters.

  python -m benchmarks.pipeline [--batch_size=60] [--segment_length=150] [--json=FILE]

Reads a memory-mapped array of 104 million ids, as many as WikiText-103 has, through the dataset
that training reads; prints tokens a second, and how long the first batch takes from step 0 and from
step 1,000,000 on.
"""

import argparse
import json
import os
import pathlib
import statistics
import tempfile
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import numpy as np
import tensorflow as tf

from data_utils import EvalSegments, TrainSegments
from data_utils.id_arrays import ShardWriter

NUM_TOKENS = 104_000_000
FAR_STEP = 1_000_000
WAYS = {
    "training": {},
    "training, rolled": {"roll": True},
    "training, lengths vary": {"variable_length": True},
    "training, sentences shuffled": {"shuffle_documents": True},
}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--batch_size", type=int, default=60)
    parser.add_argument("--segment_length", type=int, default=150)
    parser.add_argument("--batches", type=int, default=1500, help="in a run")
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--json", help="file for the figures")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        array = mapped_array(pathlib.Path(folder) / "ids.npy")
        rows = [measure(name, array, options) for name in (*WAYS, "evaluation")]
    print("| what | million tokens/s | first batch from step 0, ms | from step 1,000,000, ms |")
    print("|---|---:|---:|---:|")
    for row in rows:
        times = [f"{row[key] * 1e3:.1f}" if key in row else "" for key in ("near", "far")]
        print(f"| {row['name']} | {row['tokens_per_second'] / 1e6:.1f} | {' | '.join(times)} |")
    if options.json:
        pathlib.Path(options.json).write_text(json.dumps(rows, indent=2) + "\n")


def mapped_array(path: pathlib.Path) -> np.ndarray:
    """An array on the disk, with ids that are as common as words are."""
    generator = np.random.default_rng(0)
    with ShardWriter([path], np.dtype("<i4"), NUM_TOKENS) as writer:
        for start in range(0, NUM_TOKENS, 1 << 22):
            size = min(1 << 22, NUM_TOKENS - start)
            writer.write(np.exp(generator.random(size) * np.log(267_735)).astype(np.int32))
    return np.load(path, mmap_mode="r")


def measure(name: str, array: np.ndarray, options) -> dict:
    """The figures of one way; medians."""
    sizes = (options.batch_size, options.segment_length)
    if name == "evaluation":
        rates = [rate(EvalSegments(array, 0, *sizes).dataset(), options.batches)]
        return {"name": name, "tokens_per_second": statistics.median(rates)}
    documents = np.arange(0, NUM_TOKENS, 26)
    segments = TrainSegments(array, *sizes, documents=documents, **WAYS[name])
    near, far, rates = [], [], []
    for _ in range(options.runs):
        near.append(first_batch(segments, 0))
        far.append(first_batch(segments, FAR_STEP))
        rates.append(rate(segments.dataset(FAR_STEP), options.batches))
    row = {"name": name, "tokens_per_second": statistics.median(rates)}
    return {**row, "near": statistics.median(near), "far": statistics.median(far)}


def first_batch(segments: TrainSegments, step: int) -> float:
    """Seconds until the first batch of a new dataset; orders of the epoch are known."""
    segments.batch(step)
    start = time.perf_counter()
    for batch in segments.dataset(step).take(1):
        batch.inputs.numpy()
    return time.perf_counter() - start


def rate(dataset: tf.data.Dataset, num_batches: int) -> float:
    """Tokens a second."""
    tokens = 0
    start = time.perf_counter()
    for batch in dataset.take(num_batches):
        tokens += int(tf.size(batch.inputs))
    return tokens / (time.perf_counter() - start)


if __name__ == "__main__":
    main()
