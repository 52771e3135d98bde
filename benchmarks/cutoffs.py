"""Times a training step of the adaptive softmax with cutoffs set by hand and with optimal ones.

    python -m benchmarks.cutoffs --vocabulary=runs/wikitext2_small/vocabulary

measures the cost model of this device, chooses cutoffs for the counts of a run's vocabulary, and
times loss and gradients on targets drawn from these counts, alternating. It prints the medians and
what the cost model expected.
"""

import argparse
import os
import statistics
import sys
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")

import numpy as np
import tensorflow as tf

from adaptive import AdaptiveSoftmax, expected_cost, measure_cost_model, optimal_cutoffs
from data_utils import WordVocabulary


def main(arguments=None):
    """Runs the comparison and prints it."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--vocabulary", required=True, help="a vocabulary file of a run")
    parser.add_argument("--cutoffs", default="5000,15000", help="set by hand")
    parser.add_argument("--hidden_dim", type=int, default=256, help="width of hidden states")
    parser.add_argument("--div_val", type=int, default=4, help="of the layer")
    parser.add_argument("--tokens", type=int, default=1024, help="targets in a step")
    parser.add_argument("--repeats", type=int, default=30, help="steps of each")
    options = parser.parse_args(arguments)
    counts = np.asarray(WordVocabulary.load(options.vocabulary).counts)
    by_hand = tuple(int(cutoff) for cutoff in options.cutoffs.split(","))
    settings = {
        "hidden_dim": options.hidden_dim,
        "div_val": options.div_val,
        "batch_size": options.tokens,
        "cost_model": measure_cost_model(options.hidden_dim, options.tokens),
    }
    best = optimal_cutoffs(counts, len(by_hand) + 1, **settings)
    seconds = times(counts, {"by hand": by_hand, "optimal": best}, options)
    for name, cutoffs in (("by hand", by_hand), ("optimal", best)):
        expected = expected_cost(counts, cutoffs, **settings)
        print(
            f"{name}: cutoffs {', '.join(map(str, cutoffs))}: {1e3 * seconds[name]:.1f} ms a step, "
            f"expected {1e3 * expected:.1f} ms"
        )
    print(f"optimal is {seconds['by hand'] / seconds['optimal']:.2f} times as fast as by hand")
    return 0


def times(counts, ways, options):
    """Median seconds of loss and gradients for each choice of cutoffs."""
    random = np.random.default_rng(0)
    batches = [
        (
            tf.constant(random.standard_normal((options.tokens, options.hidden_dim)), tf.float32),
            tf.constant(random.choice(len(counts), options.tokens, p=counts / counts.sum())),
        )
        for _ in range(options.repeats)
    ]
    steps = {name: training_step(len(counts), cutoffs, options) for name, cutoffs in ways.items()}
    for step in steps.values():
        step(*batches[0])
    seconds = {name: [] for name in ways}
    for batch in batches:
        for name, step in steps.items():
            start = time.perf_counter()
            step(*batch)
            tf.test.experimental.sync_devices()
            seconds[name].append(time.perf_counter() - start)
    return {name: statistics.median(values) for name, values in seconds.items()}


def training_step(vocab_size, cutoffs, options):
    """A compiled function from hidden states and targets to loss and gradients."""
    head = AdaptiveSoftmax(options.hidden_dim, vocab_size, cutoffs=cutoffs, div_val=options.div_val)
    head.build(None)

    @tf.function(autograph=False)
    def step(hidden, targets):
        with tf.GradientTape() as tape:
            tape.watch(hidden)
            loss = head.loss(hidden, targets, training=True)
        sources = [hidden, *(weight.value for weight in head.trainable_weights)]
        return loss, tape.gradient(loss, sources)

    return step


if __name__ == "__main__":
    sys.exit(main())
