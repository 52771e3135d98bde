"""linear_cross_entropy against float64 NumPy, and in a model of one's own.

B rows of a batch, L positions, D width, V classes.
"""

import keras
import numpy as np
import pytest
import tensorflow as tf

import adaptive
from adaptive import cross_entropy, linear_cross_entropy

pytestmark = pytest.mark.usefixtures("graphs_as_written")

B, L, D, V = 3, 5, 7, 23


def draw(seed=0):
    """Hidden states, table, bias, targets, weights; some weights are 0, some negative."""
    random = np.random.default_rng(seed)
    weights = random.normal(size=(B, L)).astype(np.float32)
    weights[0, :2] = 0
    return (
        random.normal(size=(B, L, D)).astype(np.float32),
        random.normal(size=(V, D)).astype(np.float32),
        random.normal(size=V).astype(np.float32),
        random.integers(0, V, (B, L)).astype(np.int64),
        weights,
    )


def expected(hidden, table, bias, targets, weights):
    """The loss, and its gradients by hidden states, table and bias, in float64, word by word."""
    loss, gradients = 0.0, [np.zeros(one.shape) for one in (hidden, table, bias)]
    hidden, table, bias, weights = (np.float64(one) for one in (hidden, table, bias, weights))
    for place in np.ndindex(B, L):
        exponentials = np.exp(table @ hidden[place] + bias)
        probabilities = exponentials / exponentials.sum()
        loss -= weights[place] * np.log(probabilities[targets[place]])
        slopes = weights[place] * (probabilities - (np.arange(V) == targets[place]))
        gradients[0][place] = table.T @ slopes
        gradients[1] += np.outer(slopes, hidden[place])
        gradients[2] += slopes
    return loss, *gradients


def compute(hidden, table, bias, targets, weights, **kwargs):
    """The loss and its gradients, of three times the loss divided by three."""
    sources = (hidden, table) if bias is None else (hidden, table, bias)
    with tf.GradientTape() as tape:
        tape.watch(sources)
        loss = 3.0 * linear_cross_entropy(hidden, table, bias, targets, weights, **kwargs)
    return [one / 3.0 for one in (loss, *tape.gradient(loss, sources))]


def tensors(arrays):
    return [tf.constant(one) for one in arrays]


@pytest.mark.parametrize("jit_compile", [None, False, True])
@pytest.mark.parametrize("memory_bytes", [1, 8 * 8 * V, 2**20])
@pytest.mark.parametrize("training", [True, False])
def test_loss_and_gradients(jit_compile, memory_bytes, training):
    def function(*arguments):
        return compute(*arguments, memory_bytes=memory_bytes, training=training)

    if jit_compile is not None:
        function = tf.function(function, jit_compile=jit_compile, autograph=False)
    data = draw()
    for actual, wanted in zip(function(*tensors(data)), expected(*data), strict=True):
        np.testing.assert_allclose(actual, wanted, rtol=1e-5, atol=5e-6)


def test_without_bias_and_weights():
    hidden, table, bias, targets, weights = draw()
    loss, *gradients = expected(hidden, table, 0 * bias, targets, np.ones_like(weights))
    actual = compute(*tensors([hidden, table]), None, tf.constant(targets), None)
    for one, wanted in zip(actual, (loss, *gradients[:2]), strict=True):
        np.testing.assert_allclose(one, wanted, rtol=1e-5, atol=5e-6)


def test_a_batch_of_any_size():
    signature = [
        tf.TensorSpec([None, None, D]),
        tf.TensorSpec([V, D]),
        tf.TensorSpec([V]),
        tf.TensorSpec([None, None], tf.int64),
        tf.TensorSpec([None, None]),
    ]
    function = tf.function(compute, input_signature=signature, autograph=False)
    data = draw()
    for actual, wanted in zip(function(*tensors(data)), expected(*data), strict=True):
        np.testing.assert_allclose(actual, wanted, rtol=1e-5, atol=5e-6)


@pytest.mark.parametrize("memory_bytes, rows", [(1, 8), (2 * 4 * V * 8, 8), (2**20, 15)])
def test_chunks_stay_within_the_budget(memory_bytes, rows, monkeypatch):
    sizes = []
    chunk = cross_entropy._chunk
    monkeypatch.setattr(
        cross_entropy,
        "_chunk",
        lambda inputs, *rest: sizes.append(len(inputs)) or chunk(inputs, *rest),
    )
    linear_cross_entropy(*tensors(draw()), memory_bytes=memory_bytes)
    assert max(sizes) == rows


def test_products_in_bfloat16_losses_in_float32():
    """A logit is off by 2**-8 of the largest at most; the loss of a row by twice that."""
    hidden, table, bias, targets, weights = draw()
    rounded = [tf.cast(one, tf.bfloat16) for one in (hidden, table)]
    loss, *gradients = compute(*rounded, *tensors([bias, targets, weights]))
    data = [np.asarray(tf.cast(one, tf.float32)) for one in rounded]
    wanted, *_ = expected(*data, bias, targets, weights)
    largest = np.abs(data[0] @ data[1].T).max()
    assert loss.dtype == tf.float32
    assert abs(loss - wanted) <= 2 * 2**-8 * largest * np.abs(weights).sum()
    assert [one.dtype for one in gradients] == [tf.bfloat16, tf.bfloat16, tf.float32]


def test_many_rows_do_not_leave_the_range_of_float16():
    """Gradients are sums over the rows of a chunk, which for few classes would be all of them."""
    num_rows = 2**18
    hidden, table = tf.ones([num_rows, 1], tf.float16), tf.zeros([2, 1])
    weights = tf.fill([num_rows], 1 / num_rows)
    targets = tf.zeros([num_rows], tf.int32)
    _, _, *gradients = compute(hidden, table, tf.zeros([2]), targets, weights)
    for gradient in gradients:
        np.testing.assert_allclose(tf.reshape(gradient, [-1]), [-0.5, 0.5], rtol=1e-3)


def test_ids_outside_are_refused():
    hidden, table, bias, targets, weights = tensors(draw())
    compiled = tf.function(compute, autograph=False)
    for wrong in (-1, V):
        ids = tf.tensor_scatter_nd_update(targets, [[1, 2]], [wrong])
        with pytest.raises(ValueError, match=f"from 0 to {V - 1}. Received: {wrong}"):
            linear_cross_entropy(hidden, table, bias, ids, weights)
        # Compiled code cannot raise; a weight of zero does not hide it.
        loss, to_hidden, *others = compiled(hidden, table, bias, ids, 0 * weights)
        for one in (loss, to_hidden[1, 2], *others):
            assert np.all(np.isnan(one))


@pytest.mark.parametrize(
    "change, message",
    [
        ({"table": tf.zeros([D, V])}, "transpose"),
        ({"bias": tf.zeros([V + 1])}, "bias must be"),
        ({"targets": tf.zeros([B, L + 1], tf.int32)}, "targets must have the shape"),
        ({"targets": tf.zeros([B, L])}, "integer ids"),
        ({"hidden": tf.zeros([B, L, D], tf.int32)}, "must be floating"),
        ({"sample_weight": tf.zeros([B])}, "sample_weight must have the shape"),
        ({"memory_bytes": 0}, "memory_bytes must be"),
        ({"hidden": keras.KerasTensor([B, L, D])}, "symbolic"),
    ],
)
def test_what_does_not_fit_is_refused(change, message):
    names = ("hidden", "table", "bias", "targets", "sample_weight")
    with pytest.raises(ValueError, match=message):
        linear_cross_entropy(**{**dict(zip(names, tensors(draw()))), **change})


class Classifier(keras.Model):
    """Rows of a table for the classes, and the loss of `linear_cross_entropy` in training."""

    def __init__(self):
        super().__init__()
        self.dense = keras.layers.Dense(D, "tanh")
        self.table = self.add_weight(shape=(V, D), initializer="glorot_uniform")
        self.bias = self.add_weight(shape=(V,), initializer="zeros")

    def call(self, features):
        return self.dense(features)

    def train_step(self, data):
        features, labels = data
        with tf.GradientTape() as tape:
            hidden = self(features, training=True)
            loss = linear_cross_entropy(hidden, self.table, self.bias, labels)
            loss /= tf.cast(tf.shape(labels)[0], tf.float32)
        variables = self.trainable_variables
        gradients = tape.gradient(loss, [variable.value for variable in variables])
        self.optimizer.apply(gradients, variables)
        return {"nats": loss}


@pytest.mark.parametrize("jit_compile", [False, True])
def test_a_model_learns_by_it(jit_compile):
    """Each label is a function of its features, so the loss falls far below log V."""
    keras.utils.set_random_seed(1)
    labels = np.random.default_rng(0).integers(0, V, 256)
    features = np.random.default_rng(1).normal(size=(V, 11)).astype(np.float32)[labels]
    model = Classifier()
    model(features)
    model.compile(keras.optimizers.Adam(0.03), jit_compile=jit_compile)
    # Else the first step would make its variables, and be traced again without that.
    model.optimizer.build(model.trainable_variables)
    losses = model.fit(features, labels, batch_size=32, epochs=10, verbose=0).history["nats"]
    assert losses[-1] < 0.1 * np.log(V) < losses[0]


def test_it_is_public():
    assert adaptive.linear_cross_entropy is cross_entropy.linear_cross_entropy
