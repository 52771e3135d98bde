"""Targets and weights whose sizes do not fit, where the sizes are known only when it runs."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from adaptive import AdaptiveSoftmax, linear_cross_entropy
from adaptive.head_training import product_of_weights
from transformer_xl import ModelConfig, TransformerXL

pytestmark = pytest.mark.usefixtures("graphs_as_written")

WIDTH = 7
WEIGHTS_RULE = r"Weights must have the shape of the targets.*one for each row. Received: weights of"


@pytest.fixture(scope="module")
def head():
    head = AdaptiveSoftmax(WIDTH, 11, cutoffs=[3])
    head.build(None)
    return head


def compiled(function, weight_shape=(None, None), jit_compile=False):
    signature = [
        tf.TensorSpec([None, None, WIDTH]),
        tf.TensorSpec([None, None], tf.int32),
        tf.TensorSpec(weight_shape),
    ]
    options = {"jit_compile": jit_compile, "autograph": False}
    return tf.function(function, input_signature=signature, **options)


def losses(head):
    """The functions that take targets, and weights."""
    return {
        "nll": lambda hidden, targets, _: head.nll(hidden, targets),
        "loss": head.loss,
        "fused": lambda hidden, targets, weights: linear_cross_entropy(
            hidden, head.tables[0], None, targets, weights
        ),
    }


@pytest.mark.parametrize("weight_shape", [[1, 1], [None, None], None])
def test_one_weight_does_not_stand_for_all(head, weight_shape):
    """Also where the weights' own sizes are known and only the tokens' are not, or no rank is."""
    loss = compiled(head.loss, weight_shape)
    one = loss(tf.ones([1, 1, WIDTH]), tf.ones([1, 1], tf.int32), tf.fill([1, 1], 2.0))
    expected = 2 * head.nll(tf.ones([WIDTH]), tf.constant(1))
    assert float(one) == pytest.approx(float(expected), rel=1e-6)
    with pytest.raises(tf.errors.InvalidArgumentError, match="sample_weight"):
        loss(tf.ones([2, 3, WIDTH]), tf.ones([2, 3], tf.int32), tf.ones([1, 1]))


@pytest.mark.parametrize("name", ["nll", "loss", "fused"])
def test_targets_and_weights_of_another_shape(head, name):
    loss = compiled(losses(head)[name])
    hidden = tf.constant(np.random.default_rng(0).normal(size=(2, 3, WIDTH)), tf.float32)
    ids, ones = tf.constant([[0, 1, 2], [2, 1, 0]]), tf.ones([2, 3])
    expected = losses(head)[name](hidden, ids, ones)
    np.testing.assert_allclose(loss(hidden, ids, ones), expected, rtol=1e-6)
    for shape in ([3, 2], [2, 4], [4, 3], [2, 1], [1, 1]):
        with pytest.raises(tf.errors.InvalidArgumentError, match="targets must have the shape of"):
            loss(hidden, tf.zeros(shape, tf.int32), tf.ones(shape))
        if name != "nll":
            with pytest.raises(tf.errors.InvalidArgumentError, match="sample_weight must have"):
                loss(hidden, ids, tf.ones(shape))


def test_xla_refuses_targets_in_another_order(head):
    loss = compiled(losses(head)["nll"], jit_compile=True)
    hidden, ids = tf.ones([2, 3, WIDTH]), tf.ones([2, 3], tf.int32)
    np.testing.assert_allclose(loss(hidden, ids, tf.ones([1, 1])), head.nll(hidden, ids), rtol=1e-6)
    with pytest.raises(tf.errors.InvalidArgumentError, match=r"\[3,2\]"):
        loss(hidden, tf.transpose(ids), tf.ones([1, 1]))


def test_known_sizes_cost_nothing(head):
    """No operation asks at run time what is known when it is traced."""
    loss = tf.function(losses(head)["fused"], autograph=False)
    graph = loss.get_concrete_function(
        tf.TensorSpec([2, 3, WIDTH]), tf.TensorSpec([2, 3], tf.int32), tf.TensorSpec([2, 3])
    ).graph
    assert not {"Assert", "BroadcastTo", "EnsureShape"} & {op.type for op in graph.get_operations()}


@pytest.mark.parametrize("known_rank", [True, False])
def test_weights_of_a_model(known_rank):
    """Those of the targets' first axes stand for the rest, and others for none."""

    def compiled(shape):
        signature = [tf.TensorSpec([None, None], tf.int32), tf.TensorSpec(shape)]
        return tf.function(product_of_weights, input_signature=signature, autograph=False)

    ids = tf.zeros([4, 6], tf.int32)
    for shape in ([4, 6], [4, 1], [4], [1, 6], [1], []):
        weights = np.random.default_rng(0).normal(size=shape).astype(np.float32)
        rows = weights[:, None] if shape == [4] else weights
        product = compiled([None] * len(shape) if known_rank else None)
        np.testing.assert_array_equal(product(ids, weights), np.broadcast_to(rows, [4, 6]))
    refused = ([4, 5], [3, 6], [6], [3], *([] if known_rank else [[4, 6, 1], [4, 6, 2]]))
    for shape in refused:
        product = compiled([None] * len(shape) if known_rank else None)
        with pytest.raises(tf.errors.InvalidArgumentError, match=WEIGHTS_RULE):
            product(ids, tf.ones(shape))
    with pytest.raises(tf.errors.InvalidArgumentError, match=WEIGHTS_RULE):
        compiled([None, None] if known_rank else None)(ids[:, :1], tf.ones([4, 6]))


def test_weights_in_fit():
    """As Keras' own message of a failed graph ends with it."""
    model = TransformerXL(ModelConfig(11, num_layers=1, model_dim=4, num_heads=1))
    model.compile(keras.optimizers.SGD(0.0))
    ids = np.zeros([4, 6], np.int32)
    batches = tf.data.Dataset.from_generator(
        lambda: iter([(ids, ids, np.ones([4, 5]))]),
        output_signature=(
            *[tf.TensorSpec([None, None], tf.int32)] * 2,
            tf.TensorSpec([None, None], tf.float64),
        ),
    )
    with pytest.raises(tf.errors.InvalidArgumentError, match=WEIGHTS_RULE):
        model.fit(batches, shuffle=False, verbose=0)
