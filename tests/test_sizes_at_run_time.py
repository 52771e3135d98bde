"""Targets and weights whose sizes do not fit, where the sizes are known only when it runs."""

import numpy as np
import pytest
import tensorflow as tf

from adaptive import AdaptiveSoftmax, linear_cross_entropy

pytestmark = pytest.mark.usefixtures("graphs_as_written")

WIDTH = 7


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
