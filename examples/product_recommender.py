"""The next product out of 500,000: an adaptive and a sampled softmax side by side.

    python -m examples.product_recommender
    python -m examples.product_recommender --num_items=20000 --steps=100

The shop is made up, so that there is something to find: each product is of a hidden group, and
after a product of one group comes, mostly, one of the group's successor; within a group products
sell by Zipf's law. Ids are arbitrary, as in a real catalogue, while both heads rely on order by
frequency: `id_order_from_counts` makes that order of the counts of the training sessions.

Prints recall@20 on sessions that were not trained on, that is how often the product that came next
is among the 20 likeliest, beside the recall of always recommending the 20 best sellers.
"""

import argparse
import math
import time
from typing import NamedTuple

import keras
import numpy as np

from adaptive import (
    AdaptiveEmbedding,
    AdaptiveSoftmax,
    SampledSoftmax,
    SoftmaxModel,
    id_order_from_counts,
    optimal_cutoffs,
)

TOP_K = 20
EPOCHS = 5  # reports of progress; no session is seen twice


class Shop(NamedTuple):
    """Products, with those of a group next to each other."""

    ids: np.ndarray  # [V], of the products
    ends: np.ndarray  # [V], running sum of their popularity
    bounds: np.ndarray  # [G + 1], that sum where each group begins
    successors: np.ndarray  # [G], the group that mostly comes after a group


def make_shop(num_items, num_groups, rng):
    """Products of random groups, whose popularity falls by Zipf's law."""
    popularity = 1.0 / (np.arange(num_items) + 20.0) ** 1.2
    groups = np.sort(rng.integers(num_groups, size=num_items))
    # Which product is popular has nothing to do with its group, nor either with its id.
    ends = np.cumsum(rng.permutation(popularity))
    first = np.searchsorted(groups, np.arange(num_groups + 1))
    return Shop(
        rng.permutation(num_items).astype(np.int32),
        ends,
        np.concatenate([[0.0], ends])[first],
        rng.permutation(num_groups),
    )


def draw_sessions(shop, num_sessions, length, rng):
    """Sessions, ids `[num_sessions, length]`."""

    def any_group():
        popularity = rng.random(num_sessions) * shop.ends[-1]
        return np.searchsorted(shop.bounds, popularity, side="right") - 1

    group, products = any_group(), []
    for _ in range(length):
        low, high = shop.bounds[group], shop.bounds[group + 1]
        product = np.searchsorted(shop.ends, low + rng.random(num_sessions) * (high - low))
        products.append(shop.ids[product])
        follows = rng.random(num_sessions) < 0.9
        group = np.where(follows, shop.successors[group], any_group())
    return np.stack(products, axis=1)


def make_head(kind, id_order, options):
    """One of the two heads, for hidden states of the backbone's width."""
    if kind == "sampled":
        return SampledSoftmax(
            options.num_sampled,
            options.num_items,
            options.width,
            id_order=id_order,
            seed=options.seed,
        )
    return AdaptiveSoftmax(
        options.width, options.num_items, cutoffs=options.cutoffs, div_val=4, id_order=id_order
    )


def start_from_counts(head, counts, id_order, width):
    """Sets the biases so that the head begins by recommending the best sellers.

    From zeros, training first has to unlearn that all products are equally likely: long for a
    sampled softmax, whose samples have few of the many rare ones.
    """
    head.build((None, width))
    # Products that never sold get half a sale: log(0) is not a number.
    log_p = np.log(np.maximum(counts, 0.5) / np.sum(counts)).astype(np.float32)
    if isinstance(head, SampledSoftmax):
        head.bias.assign(log_p)
        return
    # The clusters of an adaptive softmax are runs of the products in the order of `id_order`.
    clusters = np.split(log_p[id_order], head.clusters.cutoffs)
    for bias, log_p_of_cluster in zip(head.biases, clusters):
        bias.assign(log_p_of_cluster)
    # A tail's column in the head stands for all of its products together.
    head.cluster_bias.assign([np.logaddexp.reduce(tail) for tail in clusters[1:]])


def make_model(head, id_order, options):
    """Embedding, GRU and head, compiled."""
    keras.utils.set_random_seed(options.seed)
    backbone = keras.Sequential(
        [
            keras.Input((None,), dtype="int32"),
            AdaptiveEmbedding(
                options.num_items,
                options.width,
                cutoffs=options.cutoffs,
                div_val=4,
                id_order=id_order,
            ),
            keras.layers.GRU(options.width, return_sequences=True),
        ]
    )
    model = SoftmaxModel(backbone, head, top_k=TOP_K)
    # A step of a sampled softmax touches few rows of its table, but Keras' Adam goes through all
    # of it and of two moments as large. So the width is small: 500,000 x 32 takes it a tenth of a
    # second, 500,000 x 512 would take longer than everything else. Adagrad needs less memory, but
    # learned next to nothing in as many steps at the rate that was tried.
    # Recall is not a metric here: Keras computes metrics in every training step too, and there the
    # likeliest products cost a whole softmax, which these heads are made to avoid.
    model.compile(keras.optimizers.Adam(options.learning_rate))
    return model


class EpochTimes(keras.callbacks.Callback):
    """How long each epoch took."""

    def __init__(self):
        super().__init__()
        self.seconds = []

    def on_epoch_begin(self, epoch, logs=None):
        self.began = time.perf_counter()

    def on_epoch_end(self, epoch, logs=None):
        self.seconds.append(time.perf_counter() - self.began)


def recall(recommended, bought):
    """The share of products bought `[...]` that are among those recommended, `[..., 20]`."""
    return float(np.mean(np.any(recommended == bought[..., None], axis=-1)))


def train_and_evaluate(kind, head, id_order, sessions, held_out, options):
    """Trains with one head; returns its recall and the time of a step."""
    print(f"\n{kind} softmax", flush=True)
    model = make_model(head, id_order, options)
    times = EpochTimes()
    steps_per_epoch = options.steps // EPOCHS
    # At each place of a session the target is the product that comes next.
    model.fit(
        sessions[:, :-1],
        sessions[:, 1:],
        batch_size=options.batch_size,
        epochs=EPOCHS,
        steps_per_epoch=steps_per_epoch,
        callbacks=[times],
        verbose=2,
    )
    # Exact for both heads, in chunks: the probabilities of all products are never held at once.
    best = model.predict(held_out[:, :-1], batch_size=32, verbose=0)
    print(f"after {held_out[0, :-1].tolist()} it recommends {best.ids[0, -1, :5].tolist()} ...")
    return {
        "recall": recall(best.ids, held_out[:, 1:]),
        # The first epoch compiles.
        "seconds_per_step": float(np.median(times.seconds[1:])) / steps_per_epoch,
        "parameters": model.count_params(),
    }


def main(argv=None):
    """Runs the program; returns the recall of the best sellers and the results of each head."""
    parser = make_parser()
    options = parser.parse_args(argv)
    options.steps = -(-options.steps // EPOCHS) * EPOCHS
    rng = np.random.default_rng(options.seed)
    shop = make_shop(options.num_items, options.num_groups, rng)
    length = options.session_length
    sessions = draw_sessions(shop, options.steps * options.batch_size, length, rng)
    held_out = draw_sessions(shop, options.num_held_out, length, rng)
    counts = np.bincount(sessions.ravel(), minlength=options.num_items)
    id_order = id_order_from_counts(counts)
    try:
        if options.cutoffs is None:
            # Of so many products most are in the last tail, which few of the sales may ask for.
            targets_per_step = options.batch_size * (length - 1)
            options.cutoffs = optimal_cutoffs(
                counts, num_clusters=3, hidden_dim=options.width, batch_size=targets_per_step
            )
        heads = {kind: make_head(kind, id_order, options) for kind in ("adaptive", "sampled")}
    except ValueError as error:
        parser.error(str(error))
    print(
        f"{len(sessions):,} sessions of {length} products; of {options.num_items:,} products "
        f"{np.count_nonzero(counts):,} sold; cutoffs {list(options.cutoffs)}"
    )
    best_sellers = recall(id_order[:TOP_K], held_out[:, 1:])
    results = {}
    for kind, head in heads.items():
        start_from_counts(head, counts, id_order, options.width)
        results[kind] = train_and_evaluate(kind, head, id_order, sessions, held_out, options)
    print(f"\nthe {TOP_K} best sellers: recall@{TOP_K} {best_sellers:.3f}")
    for kind, result in results.items():
        print(
            f"{kind} softmax: recall@{TOP_K} {result['recall']:.3f}, "
            f"{1000 * result['seconds_per_step']:.0f} ms a step, "
            f"{result['parameters']:,} parameters"
        )
    return {"best_sellers": best_sellers, **results}


def make_parser():
    parser = argparse.ArgumentParser(
        description="Recommends the next product, with an adaptive and with a sampled softmax.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    add = parser.add_argument
    add("--num_items", type=between(TOP_K + 1), default=500_000, help="products in the shop")
    add("--num_groups", type=between(1), default=200, help="hidden groups of products")
    add("--session_length", type=between(2), default=9, help="products in a session")
    add("--steps", type=between(2 * EPOCHS), default=250, help="training steps of each head")
    add("--batch_size", type=between(1), default=128, help="sessions in a step")
    add("--num_held_out", type=between(1), default=256, help="sessions to measure recall on")
    add("--width", type=between(16), default=32, help="of embedding, GRU and head")
    add("--num_sampled", type=between(1), default=2048, help="products in a sample")
    add("--cutoffs", type=whole_numbers, help="of the adaptive layers; None: the fastest")
    add("--learning_rate", type=between(0.0), default=1e-2, help="of Adam")
    add("--seed", type=between(0, 2**32 - 1), default=1, help="of the shop, weights and samples")
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
    """A type for argparse: `4000,40000`."""
    return [int(part) for part in text.split(",")]


if __name__ == "__main__":
    main()
