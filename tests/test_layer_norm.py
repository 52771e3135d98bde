"""Layer normalisation beside Keras' own: numbers, gradients of both orders, dtypes, weights."""

import functools

import keras
import numpy as np
import pytest
import tensorflow as tf

from transformer_xl.layer_norm import LayerNorm, layer_norm

SHAPE = (3, 5, 8)
ORDERS = ("values", "first", "second")
WRAP = pytest.mark.parametrize(
    "wrap",
    [
        lambda f: f,
        functools.partial(tf.function, autograph=False),
        functools.partial(tf.function, autograph=False, jit_compile=True),
    ],
    ids=["eager", "graph", "xla"],
)


def draw(dtype="float32"):
    """Inputs far from mean 0, gamma, beta, and two directions to derive along."""
    rng = np.random.default_rng(5)
    inputs = rng.normal(3.0, 2.0, SHAPE)
    arrays = inputs, rng.normal(1.0, 0.3, 8), rng.normal(size=8), *rng.normal(size=(2, *SHAPE))
    return [tf.constant(array, dtype) for array in arrays]


def by_keras(inputs, gamma, beta):
    """The peer, as a function."""
    layer = keras.layers.LayerNormalization(epsilon=1e-3, dtype="float64")
    layer.build(SHAPE)
    return layer.stateless_call([gamma, beta], [], inputs)[0]


def by_the_paper(inputs, gamma, beta):
    """Ba et al. (2016), equation 4, which TensorFlow differentiates."""
    mean = tf.reduce_sum(inputs, -1, keepdims=True) / SHAPE[-1]
    deviation = tf.sqrt(tf.reduce_sum((inputs - mean) ** 2, -1, keepdims=True) / SHAPE[-1] + 1e-3)
    return gamma * (inputs - mean) / deviation + beta


def derivatives(function, inputs, gamma, beta, along, direction):
    """Values, their slopes along a direction, and slopes of those, by their order."""
    sources = (inputs, gamma, beta)
    with tf.GradientTape() as outer:
        outer.watch((*sources, along))
        with tf.GradientTape() as inner:
            inner.watch(sources)
            values = function(*sources)
        first = inner.gradient(values, sources, output_gradients=along)
        total = tf.reduce_sum(first[0] * direction) + tf.reduce_sum(first[1] ** 2)
        total += tf.reduce_sum(first[2] ** 3)
    second = outer.gradient(total, (inputs, gamma, along))
    return dict(zip(ORDERS, ([values], first, second)))


@WRAP
@pytest.mark.parametrize(
    "peer, compared", [(by_keras, ORDERS[:2]), (by_the_paper, ORDERS)], ids=["keras", "paper"]
)
def test_values_and_derivatives(wrap, peer, compared):
    """In float64, where a wrong term cannot hide in the rounding.

    Keras' second derivative is not asked: its variance takes the mean for a constant.
    """
    arguments = draw("float64")
    ours = functools.partial(layer_norm, epsilon=1e-3)
    found = wrap(functools.partial(derivatives, ours))(*arguments)
    expected = derivatives(peer, *arguments)
    for order in compared:
        assert len(found[order]) == len(expected[order])
        for one, other in zip(found[order], expected[order]):
            assert np.abs(other).max() > 0.1
            np.testing.assert_allclose(one, other, rtol=1e-9, atol=1e-9)


def test_numbers_of_the_paper():
    """Ba et al. (2016), equation 4, in NumPy."""
    inputs, gamma, beta, *_ = draw()
    wide = np.float64(inputs)
    deviations = wide - wide.mean(-1, keepdims=True)
    normal = deviations / np.sqrt((deviations**2).mean(-1, keepdims=True) + 1e-5)
    expected = normal * np.float64(gamma) + np.float64(beta)
    np.testing.assert_allclose(layer_norm(inputs, gamma, beta, 1e-5), expected, atol=2e-6)


def test_a_row_of_equal_numbers_has_no_slope_that_is_not_a_number():
    _, gamma, beta, along, _ = draw()
    inputs = tf.fill(SHAPE, 7.0)
    with tf.GradientTape() as tape:
        tape.watch(inputs)
        values = layer_norm(inputs, gamma, beta, 1e-5)
    np.testing.assert_allclose(values, np.broadcast_to(beta, SHAPE), atol=1e-6)
    assert np.isfinite(tape.gradient(values, inputs, along)).all()


@pytest.mark.parametrize("policy", ["mixed_bfloat16", "mixed_float16"])
def test_sixteen_bits_are_normalised_in_float32(policy):
    layer, peer = LayerNorm(dtype=policy), keras.layers.LayerNormalization(dtype=policy)
    inputs, gamma, beta, *_ = draw()
    for one in (layer, peer):
        one.build(SHAPE)
        one.set_weights([gamma, beta])
    inputs = tf.cast(inputs, layer.compute_dtype)
    found, expected = layer(inputs), peer(inputs)
    assert found.dtype == expected.dtype == layer.compute_dtype
    # The last bit of 16 may differ, where float32 rounds otherwise.
    last_bit = {"bfloat16": 2**-8, "float16": 2**-11}[layer.compute_dtype]
    found, expected = (tf.cast(one, tf.float32) for one in (found, expected))
    np.testing.assert_allclose(found, expected, rtol=2 * last_bit, atol=1e-6)


@pytest.mark.parametrize("dtype", ["float32", "float64", "mixed_bfloat16", "mixed_float16"])
@pytest.mark.parametrize("there", [1.0, float("nan"), float("inf")])
def test_the_result_is_made_again_of_what_is_kept(dtype, there):
    layer = LayerNorm(dtype=dtype)
    inputs, gamma, beta, *_ = draw()
    layer.build(SHAPE)
    layer.set_weights([gamma, beta])
    inputs = tf.cast(inputs, layer.compute_dtype)
    with tf.GradientTape() as tape:
        tape.watch(inputs)
        outputs, normalised = layer(inputs, with_normalised=True)
        again = normalised.outputs_after(tf.fill([2], there), outputs.dtype)
    np.testing.assert_array_equal(again, outputs)
    np.testing.assert_array_equal(layer(inputs), outputs)
    assert tape.gradient(again, inputs) is None


def test_it_has_the_weights_and_the_configuration_of_keras():
    layer = LayerNorm(epsilon=1e-4, name="norm")
    layer.build(SHAPE)
    assert [weight.path for weight in layer.weights] == ["norm/gamma", "norm/beta"]
    again = LayerNorm.from_config(layer.get_config())
    assert (again.epsilon, again.name) == (1e-4, "norm")


def test_built_it_is_made_again_from_its_configuration():
    layer = LayerNorm(gamma_initializer="ones")
    layer.build(SHAPE)
    again = LayerNorm.from_config(layer.get_config())
    inputs, *_ = draw()
    np.testing.assert_array_equal(again(inputs), layer(inputs))


@pytest.mark.parametrize(
    "changes", [{"axis": 1}, {"axis": [1, 2]}, {"center": False}, {"scale": False}]
)
def test_refuses_what_would_be_another_function(changes):
    with pytest.raises(
        ValueError, match=r"LayerNorm normalises the last axis.*Received: .*Use ker"
    ):
        LayerNorm(**changes)
