"""A functional model whose softmax uses its embedding's weights, saved and loaded.

    python -m examples.tied_functional_model

Two ways to tie the same layers. In a functional model the embedding returns its weights as tensors
and the softmax takes them; that works with `compile`, `fit` and the losses of Keras, but they ask
for the probabilities of the whole vocabulary. In a `SoftmaxModel` the softmax is tied to the
embedding itself and computes only what the targets need: the way for large vocabularies.

The task is a rule to be learnt: words come in pairs, and after a word comes the other of its pair.
"""
# ruff: noqa: E501

import argparse
import math
import pathlib
import tempfile

import keras
import numpy as np

from adaptive import AdaptiveEmbedding, AdaptiveSoftmax, SoftmaxModel

VOCAB_SIZE = 30


def make_functional_model():
    """The embedding's tables and projections go through the model as tensors."""
    # fmt: off
    tokens = keras.Input((None,), dtype="int32")
    embedded, *tables = AdaptiveEmbedding(input_dim=30, output_dim=32, cutoffs=[5, 15, 25], div_val=2,
                                          return_embeddings=True, return_projections=True, mask_zero=True)(tokens)
    hidden = keras.layers.Dense(32, activation="tanh")(embedded)
    probabilities = AdaptiveSoftmax(input_dim=32, output_dim=30, cutoffs=[5, 15, 25], div_val=2,
                                    bind_embeddings=True, bind_projections=True)([hidden, *tables])
    model = keras.Model(tokens, probabilities)
    model.compile("adam", "sparse_categorical_crossentropy")
    # fmt: on
    return model


def make_softmax_model(learning_rate):
    """The softmax is given the embedding, and has no tables and projections of its own."""
    embedding = AdaptiveEmbedding(VOCAB_SIZE, 32, cutoffs=[5, 15, 25], div_val=2, mask_zero=True)
    backbone = keras.Sequential(
        [
            keras.Input((None,), dtype="int32"),
            embedding,
            keras.layers.Dense(32, activation="tanh"),
        ]
    )
    head = AdaptiveSoftmax(32, VOCAB_SIZE, cutoffs=[5, 15, 25], div_val=2, tied_to=embedding)
    model = SoftmaxModel(backbone, head)
    model.compile(keras.optimizers.Adam(learning_rate), metrics=["accuracy"])
    return model


def tied(model):
    """Whether the softmax of a `SoftmaxModel` still has the very variables of its embedding."""
    embedding, head = model.backbone.layers[0], model.head
    shared = zip((*head.tables, *head.projections), (*embedding.tables, *embedding.projections))
    return all(one is other for one, other in shared)


def draw_texts(num_texts, rng, length=16):
    """Texts `[num_texts, length]`, in which word 1 is the commonest and 28 the rarest.

    No word is 0, which stands for padding here: `mask_zero` leaves it out of the loss.
    """
    frequency = np.arange(1, VOCAB_SIZE - 1) ** -1.5
    return rng.choice(
        np.arange(1, VOCAB_SIZE - 1), [num_texts, length], p=frequency / frequency.sum()
    )


def main(argv=None):
    """Runs the program; returns what it prints."""
    options = make_parser().parse_args(argv)
    keras.utils.set_random_seed(options.seed)
    words = draw_texts(options.num_texts, np.random.default_rng(options.seed))
    next_words = np.where(words % 2 == 1, words + 1, words - 1)
    with tempfile.TemporaryDirectory() as folder:
        print("a functional model, which binds the embedding's tensors")
        functional = run_functional(words, next_words, folder, options)
        print("a SoftmaxModel, whose head is tied to the embedding")
        return {**functional, **run_softmax_model(words, next_words, folder, options)}


def run_functional(words, next_words, folder, options):
    model = make_functional_model()
    model.optimizer.learning_rate = options.learning_rate
    losses = model.fit(words, next_words, epochs=options.epochs, verbose=0).history["loss"]
    print(f"  loss {losses[0]:.3f} after the first epoch, {losses[-1]:.3f} after the last")
    path = pathlib.Path(folder, "functional.keras")
    model.save(path)
    loaded = keras.models.load_model(path)
    before, after = (one.predict(words, verbose=0) for one in (model, loaded))
    same = bool(np.array_equal(before, after))
    accuracy = float(np.mean(np.argmax(after, -1) == next_words))
    print(f"  saved and loaded, it predicts the same: {same}; {accuracy:.0%} right")
    print(f"  {model.count_params():,} parameters, {loaded.count_params():,} loaded")
    return {
        "functional_losses": losses,
        "functional_same": same,
        "functional_accuracy": accuracy,
        "functional_parameters": (model.count_params(), loaded.count_params()),
    }


def run_softmax_model(words, next_words, folder, options):
    model = make_softmax_model(options.learning_rate)
    losses = model.fit(words, next_words, epochs=options.epochs, verbose=0).history["loss"]
    print(f"  loss {losses[0]:.3f} after the first epoch, {losses[-1]:.3f} after the last")
    path = pathlib.Path(folder, "softmax_model.keras")
    model.save(path)
    loaded = keras.models.load_model(path)
    # The likeliest ids, and not the probabilities of all.
    before, after = (one.predict(words, verbose=0) for one in (model, loaded))
    same = all(np.array_equal(one, other) for one, other in zip(before, after))
    accuracy = loaded.evaluate(words, next_words, verbose=0, return_dict=True)["accuracy"]
    print(f"  saved and loaded, it predicts the same: {same}; {accuracy:.0%} right")
    embedding, head = loaded.backbone.layers[0], loaded.head
    print(f"  head.tables[0] is embedding.tables[0]: {head.tables[0] is embedding.tables[0]}")
    print(f"  all tables and projections are still tied: {tied(loaded)}")
    untied = model.count_params() + embedding.count_params()
    print(
        f"  {model.count_params():,} parameters, {loaded.count_params():,} loaded; "
        f"untied it would have {untied:,}"
    )
    return {
        "losses": losses,
        "same": same,
        "accuracy": accuracy,
        "tied": tied(loaded),
        "parameters": (model.count_params(), loaded.count_params()),
        "untied_parameters": untied,
    }


def make_parser():
    parser = argparse.ArgumentParser(
        description="Ties a softmax to an embedding in two ways, trains, saves and loads both.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    add = parser.add_argument
    add("--epochs", type=between(1), default=30, help="of training")
    add("--num_texts", type=between(1), default=512, help="texts of 16 words to train on")
    add("--learning_rate", type=between(0.0), default=5e-3, help="of Adam")
    add("--seed", type=between(0, 2**32 - 1), default=1, help="of everything")
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


if __name__ == "__main__":
    main()
