"""Ragged and sparse tensors: one error that says what to give, which then is right.

D width, V vocabulary.
"""

import keras
import numpy as np
import pytest
import tensorflow as tf

from adaptive import (
    AdaptiveEmbedding,
    AdaptiveLogSoftmaxWithLoss,
    AdaptiveSoftmax,
    SampledSoftmax,
    SoftmaxModel,
    linear_cross_entropy,
)
from transformer_xl import ModelConfig, TransformerXL

pytestmark = pytest.mark.usefixtures("graphs_as_written")

D, V = 4, 10
LENGTHS = [2, 3]
RANDOM = np.random.default_rng(0)
FLAT_HIDDEN = RANDOM.normal(size=(5, D)).astype(np.float32)
FLAT_IDS = np.array([1, 9, 3, 0, 1])
TABLE = RANDOM.normal(size=(V, D)).astype(np.float32)
HIDDEN = tf.RaggedTensor.from_row_lengths(FLAT_HIDDEN, LENGTHS)
IDS = tf.RaggedTensor.from_row_lengths(FLAT_IDS, LENGTHS)
WEIGHTS = tf.ragged.constant([[1.0, 2.0], [0.0, 1.0, 3.0]])
EVEN_HIDDEN, EVEN_IDS = tf.zeros([2, 3, D]), tf.zeros([2, 3], tf.int32)
ADVICE = "Received: a RaggedTensor of shape .*Give the `flat_values`"

HEADS = {
    "adaptive": lambda: AdaptiveSoftmax(D, V, cutoffs=[3]),
    "torch": lambda: AdaptiveLogSoftmaxWithLoss(D, V, cutoffs=[3]),
    "sampled": lambda: SampledSoftmax(3, V, D),
}
METHODS = {
    "loss": lambda head: head.loss(HIDDEN, IDS),
    "nll": lambda head: head.nll(HIDDEN, IDS),
    "log_prob": lambda head: head.log_prob(HIDDEN),
    "predict": lambda head: head.predict(HIDDEN),
    "top_k": lambda head: head.top_k(HIDDEN, 2),
    "sample": lambda head: head.sample(HIDDEN, [1, 2]),
    "call": lambda head: head(HIDDEN),
    "targets of loss": lambda head: head.loss(EVEN_HIDDEN, IDS),
    "targets of nll": lambda head: head.nll(EVEN_HIDDEN, IDS),
    "weights": lambda head: head.loss(EVEN_HIDDEN, EVEN_IDS, WEIGHTS),
}


@pytest.mark.parametrize("in_graph", [False, True])
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("kind", HEADS)
def test_heads(kind, method, in_graph):
    head = HEADS[kind]()
    call = tf.function(METHODS[method], autograph=False) if in_graph else METHODS[method]
    with pytest.raises(ValueError, match=f"must be dense. {ADVICE}"):
        call(head)


@pytest.mark.parametrize(
    "change",
    [
        {"hidden": HIDDEN, "targets": IDS},
        {"targets": IDS},
        {"sample_weight": WEIGHTS},
        {"table": tf.RaggedTensor.from_row_lengths(TABLE, [4, 6])},
        {"bias": tf.RaggedTensor.from_row_lengths(TABLE[:, 0], [4, 6])},
    ],
)
def test_linear_cross_entropy(change):
    fine = {"hidden": EVEN_HIDDEN, "table": TABLE, "bias": None, "targets": EVEN_IDS}
    with pytest.raises(ValueError, match=f"{next(iter(change))} must be dense. {ADVICE}"):
        linear_cross_entropy(**{**fine, **change})


def test_what_the_error_advises_is_the_loss_of_the_rows():
    wanted = 0.0
    for hidden, targets, weights in zip(HIDDEN.to_list(), IDS.to_list(), WEIGHTS.to_list()):
        for row, target, weight in zip(hidden, targets, weights, strict=True):
            logits = np.float64(TABLE) @ row
            wanted += weight * (np.log(np.exp(logits).sum()) - logits[target])
    flat = linear_cross_entropy(
        HIDDEN.flat_values, TABLE, None, IDS.flat_values, WEIGHTS.flat_values
    )
    padded = linear_cross_entropy(
        HIDDEN.to_tensor(), TABLE, None, IDS.to_tensor(), WEIGHTS.to_tensor()
    )
    np.testing.assert_allclose([flat, padded], [wanted] * 2, rtol=1e-5)


def test_embedding():
    embedding = AdaptiveEmbedding(V, D, cutoffs=[3])
    for call in (embedding, tf.function(embedding, autograph=False)):
        with pytest.raises(ValueError, match=f"The inputs of AdaptiveEmbedding .*{ADVICE}"):
            call(IDS)
    vectors = IDS.with_flat_values(embedding(IDS.flat_values))
    table = np.concatenate([np.asarray(one) for one in embedding.tables])
    assert [len(row) for row in vectors] == LENGTHS
    np.testing.assert_allclose(vectors[1], table[FLAT_IDS[2:]], rtol=1e-6)


def test_a_functional_model_is_refused_where_it_is_made():
    for layer, inputs in (
        (AdaptiveEmbedding(V, D), keras.Input((None,), dtype="int32", ragged=True)),
        (HEADS["adaptive"](), keras.Input((None, D), ragged=True)),
    ):
        with pytest.raises(ValueError, match=ADVICE):
            layer(inputs)


def test_sparse_tensors():
    ids, hidden = tf.sparse.from_dense(EVEN_IDS), tf.sparse.from_dense(EVEN_HIDDEN + 1)
    for call in (
        lambda: linear_cross_entropy(EVEN_HIDDEN, TABLE, None, ids),
        lambda: HEADS["adaptive"]().nll(EVEN_HIDDEN, ids),
        lambda: HEADS["adaptive"]()(hidden),
        lambda: AdaptiveEmbedding(V, D)(ids),
    ):
        with pytest.raises(ValueError, match="a SparseTensor of shape.*tf.sparse.to_dense"):
            call()


@pytest.mark.parametrize("batch", [(EVEN_IDS, IDS), (EVEN_IDS, EVEN_IDS, WEIGHTS)])
def test_fit(batch):
    head = AdaptiveSoftmax(D, V, cutoffs=[3])
    of_layers = SoftmaxModel(keras.Sequential([AdaptiveEmbedding(V, D)]), head)
    for model in (of_layers, TransformerXL(ModelConfig(V, num_layers=1, model_dim=D, num_heads=1))):
        model.compile("sgd", run_eagerly=True)
        with pytest.raises(ValueError, match=f"(Targets|Weights) must be dense. {ADVICE}"):
            model.fit(tf.data.Dataset.from_tensors(batch), shuffle=False, verbose=0)


def test_prompts():
    model = TransformerXL(ModelConfig(V, num_layers=1, model_dim=D, num_heads=1))
    with pytest.raises(ValueError, match=r"list of prompts. Received: a RaggedTensor.*to_list\(\)"):
        model.generate(IDS, 1, [1, 2])
