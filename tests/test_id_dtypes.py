"""Ids of narrow, unsigned and wide dtypes: none is taken for another one.

D width, V vocabulary.
"""

import keras
import numpy as np
import pytest
import tensorflow as tf

from adaptive import AdaptiveEmbedding, AdaptiveSoftmax, SoftmaxModel, linear_cross_entropy
from tests.reference import adaptive as oracle

D, V = 5, 256
IDS = np.array([100, 3, 127, 60])  # which each dtype holds


@pytest.fixture(scope="module")
def head():
    head = AdaptiveSoftmax(D, V, cutoffs=[20, 90], ignore_index=-100)
    head.build(None)
    random = np.random.default_rng(0)
    for weight in head.weights:
        weight.assign(random.normal(size=weight.shape))
    return head


@pytest.fixture(scope="module")
def hidden():
    return np.random.default_rng(1).normal(size=(4, D)).astype(np.float32)


def expected(head, hidden, targets):
    tables, biases = ([one.numpy() for one in kind] for kind in (head.tables, head.biases))
    columns = head.cluster_kernel.numpy(), head.cluster_bias.numpy()
    return oracle.nll(hidden, targets, tables, biases, None, *columns)


@pytest.mark.parametrize(
    "dtype, compiled",
    [
        *((dtype, False) for dtype in ("int8", "uint8", "int16", "uint16", "uint32", "uint64")),
        ("uint8", True),
        *(pytest.param(dtype, True, marks=pytest.mark.slow) for dtype in ("int8", "uint64")),
    ],
)
def test_targets_of_any_integer_dtype(head, hidden, dtype, compiled):
    def losses(hidden, targets):
        fused = linear_cross_entropy(hidden, head.tables[0], None, targets % 20)
        return head.nll(hidden, targets), head.loss(hidden, targets, training=True), fused

    function = tf.function(losses, autograph=False) if compiled else losses
    nll, loss, fused = function(hidden, tf.constant(IDS, dtype))
    wanted = expected(head, hidden, IDS)
    np.testing.assert_allclose(nll, wanted, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(loss, wanted.sum(), rtol=1e-5)
    first = oracle.nll(hidden, IDS % 20, [head.tables[0].numpy()])
    np.testing.assert_allclose(fused, first.sum(), rtol=1e-5)


@pytest.mark.parametrize("compiled", [False, True])
def test_a_byte_is_not_ignored_for_what_it_would_wrap_to(head, hidden, compiled):
    """156 is -100 modulo 256, and 256, the size of the vocabulary, is 0."""
    targets = np.array([156, 155, 255, 0])
    function = tf.function(head.nll, autograph=False) if compiled else head.nll
    nll = function(hidden, tf.constant(targets, tf.uint8))
    np.testing.assert_allclose(nll, expected(head, hidden, targets), rtol=1e-5, atol=1e-5)
    weights = head.target_weights(tf.constant(targets, tf.uint8))
    np.testing.assert_array_equal(weights, [1, 1, 1, 1])
    # Of a dtype that holds it, it is still ignored.
    np.testing.assert_array_equal(head.target_weights(tf.constant([-100, 3], tf.int8)), [0, 1])


def test_a_model_is_evaluated_on_bytes(head, hidden):
    model = SoftmaxModel(keras.layers.Identity(), head)
    model.compile("sgd", metrics=["accuracy"], run_eagerly=True)
    targets = np.array([156, 255, 0, 7])
    wanted = expected(head, hidden, targets).mean()
    loss = model.evaluate(hidden, targets.astype(np.uint8), verbose=0, return_dict=True)["loss"]
    assert loss == pytest.approx(wanted, rel=1e-5)


@pytest.mark.parametrize("wrong", [2**32 + 5, 2**31 + 7, 2**63 + 3])
def test_an_id_beyond_int32_is_outside(head, hidden, wrong):
    dtype = np.uint64 if wrong >= 2**63 else np.int64
    ids = tf.constant(np.array([7, wrong], dtype))
    nll = tf.function(head.nll, autograph=False)(hidden[:2], ids)
    np.testing.assert_array_equal(np.isnan(nll), [False, True])
    embedding = AdaptiveEmbedding(V, D, cutoffs=[20, 90])
    vectors = tf.function(embedding, autograph=False)(ids)
    np.testing.assert_array_equal(np.isnan(vectors), [[False] * D, [True] * D])
    for function in (lambda: head.nll(hidden[:2], ids), lambda: embedding(ids)):
        with pytest.raises(ValueError, match="must be ids from 0 to 255"):
            function()


def test_a_float_that_is_no_number_has_no_vector():
    """Of any float dtype: float16 has neither all ids nor the size of the vocabulary."""
    embedding = AdaptiveEmbedding(100_000, D)
    ids = [np.nan, -1.0, 7.0, np.inf]
    for dtype in (tf.float16, tf.float32):
        vectors = tf.function(embedding, autograph=False)(tf.constant(ids, dtype))
        np.testing.assert_array_equal(np.isnan(vectors[:, 0]), [True, True, False, True])
        np.testing.assert_array_equal(vectors[2], embedding(tf.constant(7)))
