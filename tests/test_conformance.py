"""Every layer that `adaptive` exports, held to everything that a Keras layer is expected to do.

A layer that is missing from the table fails the first test.
"""

import dataclasses
import json
from collections.abc import Callable

import keras
import numpy as np
import pytest
import tensorflow as tf

import adaptive

pytestmark = pytest.mark.usefixtures("graphs_as_written")

V, D, B, L = 31, 12, 4, 6
CUTOFFS = (7, 19)
ORDER = np.random.default_rng(0).permutation(V).tolist()
rng = np.random.default_rng(1)
IDS = rng.integers(0, V, (B, L)).astype(np.int32)
HIDDEN = rng.standard_normal((B, L, D)).astype(np.float32)
TARGETS = rng.integers(0, V, (B, L)).astype(np.int32)
WEIGHTS = rng.uniform(0.5, 2, (B, L)).astype(np.float32)


@dataclasses.dataclass(frozen=True)
class Row:
    """One layer of the table."""

    make: Callable[..., keras.layers.Layer]
    inputs: np.ndarray
    output_shape: tuple[int, ...]
    num_weights: int
    output_dtype: str | None = None  # None: the compute dtype


def backbone(dtype):
    return keras.Sequential(
        [
            keras.Input((L,), dtype="int32"),
            adaptive.AdaptiveEmbedding(V, D, cutoffs=CUTOFFS, div_val=2, dtype=dtype),
            keras.layers.Dense(D, dtype=dtype),
        ],
        name="backbone",
    )


def softmax_model(dtype=None, **kwargs):
    inner = backbone(dtype)
    head = adaptive.AdaptiveSoftmax(
        D, V, cutoffs=CUTOFFS, div_val=2, tied_to=inner.layers[0], dtype=dtype
    )
    return adaptive.SoftmaxModel(inner, head, top_k=5, dtype=dtype, **kwargs)


TABLE = {
    "AdaptiveEmbedding": Row(
        lambda **kwargs: adaptive.AdaptiveEmbedding(
            V, D, cutoffs=CUTOFFS, div_val=2, id_order=ORDER, **kwargs
        ),
        IDS,
        (B, L, D),
        6,
    ),
    "AdaptiveSoftmax": Row(
        lambda **kwargs: adaptive.AdaptiveSoftmax(
            D, V, cutoffs=CUTOFFS, div_val=2, id_order=ORDER, bias_initializer="normal", **kwargs
        ),
        HIDDEN,
        (B, L, V),
        11,
        "float32",
    ),
    "AdaptiveLogSoftmaxWithLoss": Row(
        lambda **kwargs: adaptive.AdaptiveLogSoftmaxWithLoss(
            D, V, CUTOFFS, div_value=2.0, head_bias=True, bias_initializer="normal", **kwargs
        ),
        HIDDEN,
        (B, L, V),
        6,
        "float32",
    ),
    "SampledSoftmax": Row(
        lambda **kwargs: adaptive.SampledSoftmax(
            11, V, input_dim=D, bias_initializer="normal", seed=3, **kwargs
        ),
        HIDDEN,
        (B, L, V),
        2,
        "float32",
    ),
    "SoftmaxModel": Row(softmax_model, IDS, (B, L, D), 6 + 2 + 5),
}
ROWS = list(TABLE)
HEADS = ("AdaptiveSoftmax", "AdaptiveLogSoftmaxWithLoss", "SampledSoftmax")
layers = pytest.mark.parametrize("name", TABLE)
heads = pytest.mark.parametrize("name", HEADS)
SLOW = {"marks": pytest.mark.slow}


def exported():
    values = {name: getattr(adaptive, name) for name in adaptive.__all__}
    return {
        name
        for name, value in values.items()
        if isinstance(value, type) and issubclass(value, keras.layers.Layer)
    }


def test_every_exported_layer_is_in_the_table():
    assert set(TABLE) == exported()
    assert all(type(row.make()).__name__ == name for name, row in TABLE.items())


def built(name, **kwargs):
    layer = TABLE[name].make(**kwargs)
    layer(TABLE[name].inputs)
    return layer


def saved_and_loaded(layer, path):
    layer.save(path / "model.keras")
    return keras.models.load_model(path / "model.keras")


def as_model(layer, name):
    """A functional model around a layer that is no model itself."""
    if isinstance(layer, keras.Model):
        return layer
    example = TABLE[name].inputs
    inputs = keras.Input(example.shape[1:], dtype=example.dtype.name)
    return keras.Model(inputs, layer(inputs))


def config_of(layer):
    """The configuration as JSON, without the shapes that inner layers were built with."""

    def plain(value):
        if isinstance(value, dict):
            return {key: plain(one) for key, one in value.items() if key != "build_config"}
        return [plain(one) for one in value] if isinstance(value, list) else value

    return json.dumps(plain(json.loads(json.dumps(layer.get_config()))))


@layers
def test_config_round_trip(name):
    layer = TABLE[name].make()
    config = config_of(layer)
    layer(TABLE[name].inputs)
    assert config_of(layer) == config
    copy = type(layer).from_config(json.loads(config))
    assert config_of(copy) == config
    copy(TABLE[name].inputs)
    assert [w.shape for w in copy.weights] == [w.shape for w in layer.weights]


@layers
def test_build_from_shape(name):
    row = TABLE[name]
    layer = row.make()
    layer.build((None, *row.inputs.shape[1:]))
    assert layer.built
    assert len(layer.trainable_weights) == row.num_weights
    names = [weight.path for weight in layer.trainable_weights]
    assert len(set(names)) == len(names)
    layer(row.inputs)
    assert len(layer.trainable_weights) == row.num_weights


@layers
@pytest.mark.parametrize("batch", [None, B])
def test_symbolic_call(name, batch):
    row = TABLE[name]
    layer = row.make()
    shape = (batch, *row.inputs.shape[1:])
    symbolic = layer(keras.KerasTensor(shape, dtype=row.inputs.dtype.name))
    eager = layer(row.inputs)
    assert symbolic.shape == (batch, *row.output_shape[1:])
    assert tuple(eager.shape) == row.output_shape
    assert symbolic.dtype == eager.dtype.name == (row.output_dtype or layer.compute_dtype)


@layers
@pytest.mark.parametrize("jit_compile", [False, True])
def test_compiled_equals_eager(name, jit_compile):
    layer = built(name)
    if jit_compile and not layer.supports_jit:
        pytest.skip("the layer says that it does not support XLA")
    compiled = tf.function(layer, jit_compile=jit_compile, autograph=False)
    inputs = tf.constant(TABLE[name].inputs)
    np.testing.assert_allclose(compiled(inputs), layer(inputs), rtol=1e-5, atol=1e-6)


@layers
def test_unknown_batch(name):
    layer = built(name)
    inputs = tf.constant(TABLE[name].inputs)
    shape = [None] * inputs.shape.rank if inputs.dtype.is_integer else [None, None, D]
    spec = tf.TensorSpec(shape, inputs.dtype)
    compiled = tf.function(layer, input_signature=[spec], autograph=False)
    for size in (1, B):
        np.testing.assert_allclose(compiled(inputs[:size]), layer(inputs[:size]), rtol=1e-5)


# The two adaptive heads give other weights to the same functions. XLA knows sizes when it compiles.
@pytest.mark.parametrize(
    ("name", "jit_compile", "known"),
    [
        (HEADS[2], False, False),
        *(pytest.param(HEADS[i], i > 0, i > 0, **SLOW) for i in (0, 1, 2)),
        pytest.param(HEADS[0], True, True, **SLOW),
        *(pytest.param(name, False, True, **SLOW) for name in HEADS),
    ],
)
def test_methods_compiled_equal_eager(name, jit_compile, known):
    """With sizes known beforehand and, outside XLA, without."""
    head = built(name)
    seed = tf.constant([4, 2])

    def everything(hidden, targets, weights):
        with tf.GradientTape() as tape:
            tape.watch(hidden)
            loss = head.loss(hidden, targets, weights)
        return {
            "nll": head.nll(hidden, targets),
            "loss": loss,
            "gradient": tape.gradient(loss, hidden),
            "log_prob": head.log_prob(hidden),
            "predict": head.predict(hidden),
            "top_k": head.top_k(hidden, 9),
            "sample": head.sample(hidden, seed),
            "sample_of_top_k": head.sample(hidden, seed, temperature=0.7, top_k=5, top_p=0.8),
        }

    arguments = [tf.constant(value) for value in (HIDDEN, TARGETS, WEIGHTS)]
    specs = [tf.TensorSpec(value.shape, value.dtype) for value in arguments]
    if not known:
        specs = [tf.TensorSpec([None, None, *spec.shape[2:]], spec.dtype) for spec in specs]
    compiled = tf.function(
        everything, jit_compile=jit_compile, autograph=False, input_signature=specs
    )
    expected, results = everything(*arguments), compiled(*arguments)
    for key, value in expected.items():
        for one, other in zip(tf.nest.flatten(value), tf.nest.flatten(results[key])):
            np.testing.assert_allclose(other, one, rtol=1e-5, atol=1e-5, err_msg=key)


@layers
@pytest.mark.parametrize(
    ("policy", "tolerance"), [("mixed_bfloat16", 0.015), ("mixed_float16", 0.0015)]
)
def test_mixed_precision(name, policy, tolerance):
    row = TABLE[name]
    exact, layer = built(name), built(name, dtype=policy)
    layer.set_weights(exact.get_weights())
    assert all(weight.dtype == "float32" for weight in layer.trainable_weights)
    output = layer(row.inputs)
    assert output.dtype.name == (row.output_dtype or policy.removeprefix("mixed_"))
    reference = np.asarray(exact(row.inputs))
    # Products are rounded, and there are up to three of them in a row.
    np.testing.assert_allclose(
        tf.cast(output, tf.float32), reference, rtol=0, atol=tolerance * np.abs(reference).max()
    )
    if name in HEADS:
        nll = layer.nll(HIDDEN, TARGETS)
        assert nll.dtype == layer.log_prob(HIDDEN).dtype == tf.float32
        np.testing.assert_allclose(nll, exact.nll(HIDDEN, TARGETS), rtol=0, atol=2 * tolerance)


@layers
def test_keras_file(name, tmp_path):
    row = TABLE[name]
    model = as_model(row.make(), name)
    before = model(row.inputs)
    loaded = saved_and_loaded(model, tmp_path)
    np.testing.assert_array_equal(loaded(row.inputs), before)
    assert loaded.count_params() == model.count_params()


@pytest.mark.parametrize("name", [*ROWS[:4], pytest.param(ROWS[4], **SLOW)])  # test_softmax_model's
def test_saved_model(name, tmp_path):
    row = TABLE[name]
    model = as_model(row.make(), name)
    expected = model(row.inputs)
    if name == "SoftmaxModel":
        expected = model.serve(tf.constant(row.inputs)).ids
    model.export(tmp_path / "exported", verbose=False)
    reloaded = tf.saved_model.load(tmp_path / "exported")
    served = reloaded.serve(tf.constant(row.inputs))
    if name == "SoftmaxModel":
        served = served["ids"]
    np.testing.assert_allclose(served, expected, rtol=1e-5, atol=1e-6)


@layers
def test_every_trainable_weight_gets_a_gradient(name):
    layer = built(name)
    with tf.GradientTape() as tape:
        if name in HEADS:
            loss = layer.loss(HIDDEN, TARGETS, training=True)
        elif name == "SoftmaxModel":
            loss = layer.summed_loss(IDS, TARGETS, WEIGHTS, training=True)[0]
        else:
            loss = tf.reduce_sum(layer(IDS) ** 2)
    gradients = tape.gradient(loss, [weight.value for weight in layer.trainable_weights])
    for weight, gradient in zip(layer.trainable_weights, gradients):
        assert gradient is not None, weight.path
        assert np.abs(tf.convert_to_tensor(gradient)).max() > 0, weight.path


@keras.saving.register_keras_serializable(package="test_conformance")
class Identity(keras.layers.Layer):
    def call(self, inputs):
        return inputs


def trained(name, strategy):
    """The weights after two steps, and the last loss."""
    row = TABLE[name]
    keras.utils.set_random_seed(5)
    with strategy.scope():
        layer = row.make()
        if name == "AdaptiveEmbedding":
            model = keras.Sequential([layer, keras.layers.Dense(1)])
            model.compile(keras.optimizers.SGD(0.5), "mse")
        else:
            model = adaptive.SoftmaxModel(Identity(), layer) if name in HEADS else layer
            model.compile(keras.optimizers.SGD(0.5))
    inputs = np.concatenate([row.inputs, row.inputs[::-1]])
    targets = np.concatenate([TARGETS, TARGETS[::-1]])
    data = {"x": inputs, "y": targets, "sample_weight": np.concatenate([WEIGHTS, 2 * WEIGHTS])}
    if name == "AdaptiveEmbedding":
        data = {"x": inputs, "y": targets[..., None].astype(np.float32) / V}
    history = model.fit(**data, batch_size=B, epochs=1, shuffle=False, verbose=0)
    return model.get_weights(), history.history["loss"][-1]


# The others are in the SoftmaxModel, or differ from its head as above.
@pytest.mark.parametrize("name", [ROWS[3], *(pytest.param(ROWS[i], **SLOW) for i in (0, 1, 2, 4))])
def test_two_replicas_equal_one(name, mirrored):
    assert mirrored.num_replicas_in_sync == 2
    weights, loss = trained(name, tf.distribute.get_strategy())
    replicated, replicated_loss = trained(name, mirrored)
    np.testing.assert_allclose(replicated_loss, loss, rtol=1e-5)
    for one, other in zip(weights, replicated):
        np.testing.assert_allclose(other, one, rtol=1e-4, atol=1e-6)
