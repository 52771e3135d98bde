"""A table of float32 whose products are in 16 bits: its copy goes, and numbers stay the same.

T rows, V columns, E width.
"""

import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf

from adaptive.chunk import Smoothing
from adaptive.cross_entropy import Rows, linear_loss, linear_nll

T, V, E = 37, 23, 5
CHUNK = 8


@pytest.mark.parametrize("case", ["known", "unknown"])
def test_the_gradient_takes_the_place_of_the_copy(case):
    """In sizes of the table: the copy is 0.5, the gradient's product 0.5, the gradient itself 1.

    The copy goes before that product is made, and so at most 1.5 are there at once. The same number
    is there beside a copy in float32, which TensorFlow makes for products where the processor has
    none in 16 bits. There it is 2.1 with the copy kept for a loop, and 3.2 without the wait.
    """
    command = [sys.executable, "-m", "tests.copy_of_a_table", case]
    done = subprocess.run(command, capture_output=True, text=True)
    assert not done.returncode, done.stderr
    if not done.stdout:
        pytest.skip("TensorFlow does not say what it holds on this processor")
    assert 1.4 < float(done.stdout) < 1.75


@pytest.mark.parametrize(
    ("dtype", "jit_compile", "smoothed"),
    [
        (tf.bfloat16, False, False),
        (tf.bfloat16, True, True),
        (tf.float16, False, True),
    ],
)
def test_the_same_numbers_as_from_a_table_in_16_bits(dtype, jit_compile, smoothed):
    """Copied or not, for no rows, for one chunk and for several: equal once they are rounded."""
    random = np.random.default_rng(0)
    inputs, table = (tf.cast(random.normal(size=(rows, E)), dtype) for rows in (T, V))
    bias = tf.constant(random.normal(size=V), tf.float32)
    targets = tf.constant(random.integers(0, V, T), tf.int32)
    weights = tf.constant(random.normal(size=T), tf.float32)
    order = tf.constant(random.permutation(T), tf.int32)
    smoothing = Smoothing(tf.fill([T], 0.9), tf.fill([V], 0.1 / V)) if smoothed else None

    @tf.function(jit_compile=jit_compile, autograph=False)
    def loss_and_gradients(table, count):
        found = []
        some_rows = Rows(order, tf.constant(2), count)
        for rows, chunk in ((some_rows, CHUNK), (None, CHUNK), (None, T)):
            with tf.GradientTape() as tape:
                tape.watch([inputs, table, bias])
                settings = (rows, chunk, smoothing, None, not jit_compile)
                loss = linear_loss(inputs, table, bias, targets, weights, *settings)
            found.append((loss, tape.gradient(loss, [inputs, table, bias])))
            with tf.GradientTape() as tape:
                tape.watch([inputs, table, bias])
                nll = linear_nll(inputs, table, bias, targets, *settings)
            upstream = {"output_gradients": weights}
            found.append((nll, tape.gradient(nll, [inputs, table, bias], **upstream)))
        return found

    for count in (0, 5, CHUNK, 3 * CHUNK + 1):
        copied = loss_and_gradients(tf.cast(table, tf.float32), tf.constant(count))
        same = loss_and_gradients(table, tf.constant(count))
        for one, other in zip(tf.nest.flatten(copied), tf.nest.flatten(same)):
            np.testing.assert_array_equal(tf.cast(one, other.dtype), other)
        of_the_rows = copied[0][1][1]
        assert bool(tf.reduce_any(of_the_rows != 0)) == bool(count)
