"""drawn_in_place: a large weight's numbers are the initializer's, and no copy of it is made."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from adaptive import AdaptiveEmbedding
from adaptive.weights import drawn_in_place

LARGE = (2**17, 8)
CPU = "CPU:0"
initializers = keras.initializers


@pytest.mark.parametrize(
    "initializer",
    [
        initializers.RandomNormal(0.5, 0.02, seed=3),
        initializers.RandomNormal(stddev=0.02),
        initializers.RandomUniform(-0.1, 0.3, seed=4),
        initializers.TruncatedNormal(seed=5),
        initializers.GlorotUniform(seed=6),
        initializers.VarianceScaling(2.0, "fan_out", "untruncated_normal", seed=7),
    ],
    ids=lambda one: type(one).__name__,
)
def test_the_numbers_are_the_initializers(initializer):
    in_place = drawn_in_place(initializer, LARGE)
    assert in_place is not initializer
    wanted = np.asarray(initializer(LARGE, dtype="float32"))
    assert wanted.std() > 0.001
    np.testing.assert_array_equal(in_place(LARGE, dtype="float32"), wanted)


class Ramp(keras.Initializer):
    """Rising numbers, computed with NumPy."""

    def __call__(self, shape, dtype=None):
        return np.arange(np.prod(shape), dtype="float32").reshape(shape)


@pytest.mark.parametrize(
    ("initializer", "shape"),
    [
        (initializers.RandomNormal(seed=1), (2**10, 8)),
        (initializers.RandomNormal(seed=keras.random.SeedGenerator(1)), LARGE),
        (initializers.Zeros(), LARGE),
        (Ramp(), LARGE),
        (lambda shape, dtype=None: tf.ones(shape), LARGE),
    ],
    ids=["small", "seed that advances", "constant", "of a user", "function"],
)
def test_others_are_left_as_they_are(initializer, shape):
    assert drawn_in_place(initializer, shape) is initializer


def peak_while(make):
    """The most bytes that TensorFlow held more than before, and what was made."""
    try:
        before = tf.config.experimental.get_memory_info(CPU)["current"]
    except ValueError:  # without oneDNN, which TensorFlow uses where the CPU has AVX-512
        pytest.skip("TensorFlow does not say what it holds on this processor")
    tf.config.experimental.reset_memory_stats(CPU)
    made = make()
    return tf.config.experimental.get_memory_info(CPU)["peak"] - before, made


def test_no_copy_of_a_table_is_made():
    shape = (2**20, 8)
    size = 4 * 2**23
    plain, _ = peak_while(lambda: initializers.RandomUniform(seed=1)(shape, dtype="float32"))
    assert plain > 1.9 * size  # what is to be saved

    def embedding():
        layer = AdaptiveEmbedding(*shape, embeddings_initializer="uniform")
        layer.build(None)
        return layer

    peak, layer = peak_while(embedding)
    assert size <= peak < 1.1 * size
    assert tuple(layer.tables[0].shape) == shape


def test_a_large_table_is_made_on_replicas(mirrored):
    with mirrored.scope():
        layer = AdaptiveEmbedding(*LARGE, embeddings_initializer=initializers.RandomNormal(seed=2))
        layer.build(None)
    wanted = initializers.RandomNormal(seed=2)(LARGE, dtype="float32")
    for one in mirrored.experimental_local_results(layer.tables[0].value):
        np.testing.assert_array_equal(one, wanted)


def test_a_large_table_is_made_while_a_function_is_traced():
    layer = AdaptiveEmbedding(*LARGE, embeddings_initializer=initializers.RandomNormal(seed=2))
    rows = tf.function(lambda ids: layer(ids))(tf.constant([3, 5]))
    wanted = initializers.RandomNormal(seed=2)(LARGE, dtype="float32")
    np.testing.assert_array_equal(rows, tf.gather(wanted, [3, 5]))
