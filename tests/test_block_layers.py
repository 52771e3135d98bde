"""What the blocks of the model are made of: transformer_xl/block.py, transformer_xl/attention.py.

T rows, N columns, B batch, H heads, L length, K head size.
"""

import keras
import numpy as np
import pytest
import tensorflow as tf

from transformer_xl.attention import PositionBiases, RelativeAttention
from transformer_xl.block import DecoderBlock
from transformer_xl.feed_forward import FeedForward, add_bias


@pytest.mark.parametrize(
    "dtype, last_bit", [("float32", 2e-7), ("bfloat16", 2**-8), ("float16", 2**-11)]
)
@pytest.mark.parametrize("jit_compile", [False, True])
def test_the_gradient_of_a_bias_is_as_exact_as_its_dtype(dtype, last_bit, jit_compile):
    """A sum of 600 rows, which TensorFlow's own makes wrong by many last bits in bfloat16."""
    rng = np.random.default_rng(3)
    rows, bias, slopes = (
        tf.cast(rng.normal(size=shape), dtype) for shape in ((600, 50), (50,), (600, 50))
    )

    @tf.function(jit_compile=jit_compile, autograph=False)
    def gradients(rows, bias, slopes):
        with tf.GradientTape() as tape:
            tape.watch((rows, bias))
            total = add_bias(rows, bias)
        return total, *tape.gradient(total, (rows, bias), output_gradients=slopes)

    total, to_rows, to_bias = gradients(rows, bias, slopes)
    assert total.dtype == to_rows.dtype == to_bias.dtype == dtype
    np.testing.assert_array_equal(to_rows, slopes)
    np.testing.assert_allclose(
        np.float64(total), np.float64(rows) + np.float64(bias), rtol=last_bit, atol=last_bit
    )
    expected = np.float64(slopes).sum(0)
    largest = np.abs(expected).max()
    np.testing.assert_allclose(np.float64(to_bias), expected, atol=last_bit * largest)


def test_a_bias_in_float32_gets_its_gradient_in_float32():
    bias = tf.zeros([3])
    with tf.GradientTape() as tape:
        tape.watch(bias)
        total = tf.reduce_sum(add_bias(tf.ones([5, 3], tf.bfloat16), bias))
    gradient = tape.gradient(total, bias)
    assert gradient.dtype == tf.float32
    np.testing.assert_array_equal(gradient, [5.0, 5.0, 5.0])


def test_queries():
    """Dai et al. (2019), section 3.3: (q + u) and (q + v), here scaled already."""
    batch, heads, length, size = 3, 2, 4, 5
    biases = PositionBiases(heads, size, initializer="random_normal", dtype="float64")
    attention = RelativeAttention(heads * size, heads, size, biases, dtype="float64")
    attention.build()
    projected = np.random.default_rng(4).normal(size=(batch, length, heads * size))
    vectors = [np.asarray(one)[:, None, :] for one in (biases.content, biases.position)]
    query = projected.reshape(batch, length, heads, size).transpose(0, 2, 1, 3)
    for found, part in zip(attention.scaled_query(tf.constant(projected)), [query, *vectors]):
        np.testing.assert_allclose(found, part * size**-0.5, rtol=1e-12)
    for found, vector in zip(attention.queries(tf.constant(projected)), vectors):
        np.testing.assert_allclose(found, (query + vector) * size**-0.5, rtol=1e-12)


def test_heads_with_rows_and_without():
    attention = RelativeAttention(6, 2, 3, PositionBiases(2, 3))
    rows = np.arange(2 * 4 * 6.0).reshape(2, 4, 6)
    found = attention.heads(tf.constant(rows)).numpy()
    assert found.shape == (2, 2, 4, 3)
    np.testing.assert_array_equal(found[1, 1, 2], rows[1, 2, 3:])
    np.testing.assert_array_equal(attention.heads(tf.constant(rows[1])), found[1])


def attending(hidden, memory):
    inner = RelativeAttention(6, 2, 3, PositionBiases(2, 3, "random_normal"))
    positions, visible = tf.ones([7, 6]), tf.ones([1, 1, 4, 7], tf.bool)
    return DecoderBlock(inner)(hidden, memory, positions, visible)


@pytest.mark.parametrize(
    "made", [attending, lambda hidden, _: DecoderBlock(FeedForward(6, 9))(hidden)]
)
def test_blocks_in_a_keras_model_are_saved_and_loaded(made, tmp_path):
    inputs = [keras.Input([length, 6]) for length in (4, 3)]
    model = keras.Model(inputs, made(*inputs))
    model.save(tmp_path / "model.keras")
    given = [np.random.default_rng(5).normal(size=(2, length, 6)) for length in (4, 3)]
    loaded = keras.models.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(loaded(given), model(given))
