"""Second derivatives: right where they are given, and refused where they would be wrong.

T rows, V columns, E width.
"""

import functools

import numpy as np
import pytest
import tensorflow as tf

from adaptive.cross_entropy import linear_loss, linear_nll
from tests.test_cross_entropy import E, T, draw, log_softmax, tensors

pytestmark = pytest.mark.usefixtures("graphs_as_written")

WRAP = pytest.mark.parametrize(
    "wrap", [lambda f: f, functools.partial(tf.function, autograph=False)], ids=["eager", "graph"]
)


@pytest.mark.parametrize("jit_compile", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_second_derivatives_of_nll(jit_compile):
    """Against (diag(p) - p p') between the tables, the curvature of a log-sum-exp."""
    inputs, table, bias, targets, weights = data = draw()
    direction = np.random.default_rng(2).normal(size=(T, E)).astype(np.float32)

    @tf.function(jit_compile=jit_compile, autograph=False)
    def product(inputs, direction):
        with tf.GradientTape() as outer:
            outer.watch(inputs)
            with tf.GradientTape() as inner:
                inner.watch(inputs)
                nll = linear_nll(inputs, *tensors(table, bias, targets), chunk_rows=8)
                total = tf.reduce_sum(weights * nll)
            gradient = inner.gradient(total, inputs)
        return outer.gradient(gradient, inputs, output_gradients=direction)

    inputs, table, bias, _, weights = (np.float64(array) for array in data)
    p = np.exp(log_softmax(inputs @ table.T + bias))
    along = direction @ table.T
    curved = p * (along - np.sum(p * along, -1, keepdims=True)) * weights[:, None]
    np.testing.assert_allclose(
        product(*tensors(data[0], direction)), curved @ table, rtol=1e-5, atol=3e-6
    )


@WRAP
def test_the_fused_loss_refuses_second_derivatives(wrap):
    """Its stored gradients look like constants: the second derivative would be 0, in silence."""
    inputs, table, bias, targets, weights = tensors(*draw())

    def curvature(inputs):
        with tf.GradientTape() as outer:
            outer.watch(inputs)
            with tf.GradientTape() as inner:
                inner.watch(inputs)
                loss = linear_loss(inputs, table, bias, targets, weights, chunk_rows=8)
            gradient = inner.gradient(loss, inputs)
        return outer.gradient(gradient, inputs)

    with pytest.raises(LookupError, match="no second derivative: use nll"):
        wrap(curvature)(inputs)
