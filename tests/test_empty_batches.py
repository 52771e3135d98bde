"""Batches without tokens, in compiled code."""

import numpy as np
import pytest
import tensorflow as tf

from adaptive import AdaptiveSoftmax, SampledSoftmax


# Narrow tables are multiplied in float32 whatever the dtype.
@pytest.mark.parametrize("width", [4, 40])
@pytest.mark.parametrize("dtype", ["float32", "mixed_bfloat16", "mixed_float16"])
@pytest.mark.parametrize(
    "make",
    [
        lambda width, dtype: AdaptiveSoftmax(width, 30, cutoffs=[5, 11], dtype=dtype),
        lambda width, dtype: SampledSoftmax(7, 30, width, dtype=dtype),
    ],
)
def test_no_tokens(make, width, dtype):
    """Nothing comes out, the loss is 0 and no weight moves."""
    head = make(width, dtype)
    head.build(None)

    @tf.function(autograph=False)
    def everything(hidden, targets):
        with tf.GradientTape() as tape:
            loss = head.loss(hidden, targets, training=True)
            nll = head.nll(hidden, targets)
        gradients = tape.gradient([loss, nll], [one.value for one in head.trainable_variables])
        gradients = [tf.convert_to_tensor(one) for one in gradients]
        found = head.predict(hidden), head.top_k(hidden, 3).ids, head.sample(hidden, [1, 2])
        return loss, nll, gradients, found

    loss, nll, gradients, found = everything(tf.zeros([0, width]), tf.zeros([0], tf.int32))
    assert float(loss) == 0 and nll.shape == (0,)
    assert [tuple(one.shape) for one in found] == [(0,), (0, 3), (0,)]
    for gradient in gradients:
        np.testing.assert_array_equal(gradient, np.zeros(gradient.shape))
