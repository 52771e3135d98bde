"""Weights whose sizes do not fit, where the sizes are known only when it runs."""

import pytest
import tensorflow as tf

from adaptive import AdaptiveSoftmax

WIDTH = 7


@pytest.fixture(scope="module")
def head():
    head = AdaptiveSoftmax(WIDTH, 11, cutoffs=[3])
    head.build(None)
    return head


@pytest.mark.parametrize("weight_shape", [[1, 1], [None, None]])
def test_one_weight_does_not_stand_for_all(head, weight_shape):
    """Also where the weights' own sizes are known and only the tokens' are not."""

    @tf.function(
        input_signature=[
            tf.TensorSpec([None, None, WIDTH]),
            tf.TensorSpec([None, None], tf.int32),
            tf.TensorSpec(weight_shape),
        ]
    )
    def loss(hidden, targets, weights):
        return head.loss(hidden, targets, weights)

    one = loss(tf.ones([1, 1, WIDTH]), tf.ones([1, 1], tf.int32), tf.fill([1, 1], 2.0))
    expected = 2 * head.nll(tf.ones([WIDTH]), tf.constant(1))
    assert float(one) == pytest.approx(float(expected), rel=1e-6)
    with pytest.raises(tf.errors.InvalidArgumentError, match="sample_weight"):
        loss(tf.ones([2, 3, WIDTH]), tf.ones([2, 3], tf.int32), tf.ones([1, 1]))
