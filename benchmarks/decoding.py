"""Times exact decoding from an adaptive softmax beside decoding from all log-probabilities.

    python -m benchmarks.decoding --workdir=runs/wikitext2_small

takes the best model of a run, hidden states of the test split, and compares, in rounds:

    predict(hidden)       with  argmax(log_prob(hidden))
    top_k(hidden, k)      with  tf.math.top_k(log_prob(hidden), k)

It prints the medians, their ratio, the share of rows for which tails were computed, and how many
ids differ where the log-probabilities differ by more than 1e-6.
"""

import argparse
import json
import os
import statistics
import sys
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")

import numpy as np
import tensorflow as tf

from adaptive.hidden_states import flat_features
from adaptive.search import search
from transformer_xl import TransformerXL
from transformer_xl.training.checkpoints import Checkpoints
from transformer_xl.training.workdir import read_record


def main(arguments=None):
    """Runs the comparison and prints it."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--workdir", required=True, help="a run directory with a trained model")
    parser.add_argument("--positions", type=int, default=64, help="hidden states in a call")
    parser.add_argument("--k", type=int, default=10, help="of top_k")
    parser.add_argument("--calls", type=int, default=30, help="calls with other hidden states")
    parser.add_argument("--repeats", type=int, default=15, help="rounds over all calls")
    parser.add_argument("--jit_compile", action="store_true", help="compile with XLA")
    parser.add_argument("--output", help="a JSON file for the figures")
    options = parser.parse_args(arguments)
    model = trained_model(options.workdir)
    batches = hidden_states(model, options.workdir, options.positions, options.calls)
    results = compare(model.head, batches, options.k, options.repeats, options.jit_compile)
    report(results, options)
    if options.output:
        with open(options.output, "w", encoding="utf-8") as file:
            json.dump({"settings": vars(options), **results}, file, indent=1)
    return 0


def trained_model(directory):
    """The model of a run, with its best weights."""
    record = read_record(directory)
    if record is None:
        sys.exit(f"error: --workdir must be a run directory. Received: {directory}.")
    model = TransformerXL(record.model)
    model.build()
    Checkpoints(os.path.join(directory, "checkpoints"), model).restore_best()
    return model


def hidden_states(model, directory, positions, calls):
    """Hidden states of the test split, read with memory: `calls` tensors `[positions, D]`."""
    tokens = np.load(os.path.join(directory, "data", "test.npy"), mmap_mode="r")
    memory = model.initial_memory(1)
    read = tf.function(
        lambda tokens, memory: model(tokens, memory, training=False), autograph=False
    )
    batches = []
    for i in range(calls):
        segment = tf.constant(tokens[None, i * positions : (i + 1) * positions], tf.int32)
        hidden, memory = read(segment, memory)
        batches.append(hidden[0])
    return batches


def compare(head, batches, k, repeats, jit_compile):
    """Median seconds of a call of each way, the rows of tails computed, and wrong ids."""

    def compiled(function):
        return tf.function(function, jit_compile=jit_compile, autograph=False)

    ways = {
        "predict": compiled(head.predict),
        "argmax of log_prob": compiled(
            lambda hidden: tf.argmax(head.log_prob(hidden), -1, output_type=tf.int32)
        ),
        "top_k": compiled(lambda hidden: head.top_k(hidden, k).ids),
        "top_k of log_prob": compiled(lambda hidden: tf.math.top_k(head.log_prob(hidden), k)[1]),
    }
    wrong = {"predict": 0, "top_k": 0}
    for hidden in batches:
        log_prob = head.log_prob(hidden).numpy()
        for ours, theirs in (("predict", "argmax of log_prob"), ("top_k", "top_k of log_prob")):
            found, expected = (
                np.reshape(ways[way](hidden).numpy(), [len(log_prob), -1]) for way in (ours, theirs)
            )
            values = (np.take_along_axis(log_prob, ids, -1) for ids in (found, expected))
            apart = np.abs(np.subtract(*values)) > 1e-6
            wrong[ours] += int(np.sum(apart & (found != expected)))
    times = {name: [] for name in ways}
    for _ in range(repeats):
        # All calls of one way before the next way's: one after another each finds the processor's
        # caches as it left them, and not as the larger results of the other left them.
        for name, way in ways.items():
            for hidden in batches:
                start = time.perf_counter()
                way(hidden).numpy()
                times[name].append(time.perf_counter() - start)
    return {
        "seconds": {name: statistics.median(values) for name, values in times.items()},
        "wrong_ids": wrong,
        "tail_rows": {"predict": tail_rows(head, batches, 1), "top_k": tail_rows(head, batches, k)},
    }


def tail_rows(head, batches, k):
    """For each tail, the shares of all rows for which it was computed, and compared."""
    features = flat_features(head, tf.concat(batches, 0))
    found = search(features, head.linears(), head.clusters, head.id_order, k)
    return [[int(n) / len(features) for n in rows] for rows in found.rows]


def report(results, options):
    """Prints the comparison."""
    seconds = results["seconds"]
    for ours, theirs in (("predict", "argmax of log_prob"), ("top_k", "top_k of log_prob")):
        shares = ", ".join(
            f"{products:.1%} ({compared:.1%})" for products, compared in results["tail_rows"][ours]
        )
        name = f"{ours}, k = {options.k}" if ours == "top_k" else ours
        print(
            f"{name}: {1e3 * seconds[ours]:.2f} ms beside {1e3 * seconds[theirs]:.2f} ms, "
            f"{seconds[theirs] / seconds[ours]:.2f} times as fast; logits of the tails "
            f"computed (compared) for {shares} of the rows; {results['wrong_ids'][ours]} ids differ"
        )


if __name__ == "__main__":
    sys.exit(main())
