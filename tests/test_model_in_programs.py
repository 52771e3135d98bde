"""A TransformerXL inside another model, and called with what programs have: NumPy's numbers."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from transformer_xl import ModelConfig, TransformerXL
from transformer_xl.new_cache import cache_of
from transformer_xl.shapes import known

CONFIG = ModelConfig(
    vocab_size=23,
    num_layers=1,
    model_dim=8,
    num_heads=2,
    feed_forward_dim=9,
    final_norm=True,
    init_stddev=0.4,
    memory_length=5,
)
TOKENS = tf.constant(np.random.default_rng(0).integers(0, 23, [3, 6]), tf.int32)


@pytest.fixture(scope="module")
def model():
    keras.utils.set_random_seed(3)
    return TransformerXL(CONFIG)


class Classifier(keras.Model):
    """Of texts, by their last hidden state."""

    def __init__(self, language_model):
        super().__init__()
        self.language_model = language_model
        self.classes = keras.layers.Dense(4)

    def call(self, tokens):
        hidden, _ = self.language_model(tokens)
        return self.classes(hidden[:, -1])


def test_a_model_around_it_is_exported(model, tmp_path):
    classifier = Classifier(model)
    expected = classifier(TOKENS)
    signature = [tf.TensorSpec([None, None], tf.int32)]
    classifier.export(tmp_path / "served", verbose=False, input_signature=signature)
    served = tf.saved_model.load(str(tmp_path / "served"))
    np.testing.assert_allclose(served.serve(TOKENS), expected, rtol=0, atol=1e-6)


def test_a_functional_model_around_it_is_saved(model, tmp_path):
    tokens = keras.Input([None], dtype="int32")
    hidden, _ = model(tokens, clamp_length=2)
    around = keras.Model(tokens, keras.layers.Dense(4)(hidden))
    around.save(tmp_path / "around.keras")
    again = keras.models.load_model(tmp_path / "around.keras")
    np.testing.assert_array_equal(again(TOKENS), around(TOKENS))
    assert len(again.weights) == len(around.weights)


@pytest.mark.parametrize("in_graph", [False, True])
def test_lengths_of_numpy(model, in_graph):
    """Keras makes tensors of them."""
    given = {"clamp_length": 2, "same_length": True, "segment_length": 3}
    of_numpy = {name: np.array(value)[()] for name, value in given.items()}
    expected, _ = model(TOKENS, **given)

    def read(tokens):
        return model(tokens, **of_numpy)

    found, _ = tf.function(read)(TOKENS) if in_graph else read(TOKENS)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-6)
    cache = model.initial_cache(3, clamp_length=of_numpy["clamp_length"])
    found, _ = model.extend(TOKENS, cache)
    expected, _ = model(TOKENS, clamp_length=2)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("of", [np.int64, np.array, tf.constant])
def test_memories_and_texts_as_long_as_such_numbers(model, of):
    assert model.initial_memory(3, of(4)).length == 4
    cache = model.initial_cache(3, of(4), segment_length=of(3), clamp_length=of(2))
    expected = model.initial_cache(3, 4, segment_length=3, clamp_length=2)
    tf.nest.map_structure(np.testing.assert_array_equal, cache, expected)
    cache = cache_of(model, model.initial_memory(3, of(4)), of(3), of(2))
    tf.nest.map_structure(np.testing.assert_array_equal, cache.positions, expected.positions)


def test_a_text_as_long_as_such_numbers(model):
    settings = {"temperature": 0.0, "jit_compile": False}
    text = model.generate([[1, 2]], 2, (1, 2), memory_length=3, **settings)
    of_numpy = {"memory_length": np.int64(3), "num_tokens": tf.constant(2)}
    np.testing.assert_array_equal(
        model.generate([[1, 2]], seed=(1, 2), **of_numpy, **settings), text
    )


@pytest.mark.parametrize("of", [keras.Variable, tf.Variable])
def test_tokens_of_variables(model, of):
    tokens = of(TOKENS.numpy(), dtype="int32")
    expected, _ = model(TOKENS)
    np.testing.assert_array_equal(model(tokens)[0], expected)
    found, _ = model.extend(tokens, model.initial_cache(3))
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5)


@keras.saving.register_keras_serializable(package="tests")
class Seeded(TransformerXL):
    """A subclass that knows its seed of dropout itself."""

    def __init__(self, config, **named):
        super().__init__(config, seed=7, **named)


def test_a_subclass_with_a_seed_of_its_own_is_saved(tmp_path):
    keras.utils.set_random_seed(3)
    model = Seeded(CONFIG)
    model.save(tmp_path / "model.keras")
    again = keras.saving.load_model(tmp_path / "model.keras")
    assert again.get_config()["seed"] == 7
    np.testing.assert_array_equal(again(TOKENS)[0], model(TOKENS)[0])


def test_a_clamp_beyond_int32_is_none(model):
    cache = model.initial_cache(3, clamp_length=2**40)
    np.testing.assert_array_equal(cache.clamp_length, 2**31 - 1)


def test_known_numbers():
    assert (known(3), known(tf.constant(3)), known(np.int64(3))) == (3, 3, 3)
    assert (known(np.array(3)), known(tf.Variable(3)), known("3")) == (3, 3, "3")
    assert known(tf.constant(True)) is True
    assert known(tf.constant([3])).shape == (1,)
    symbolic = tf.function(lambda x: known(x) + 1)(tf.constant(3))
    assert symbolic.numpy() == 4
