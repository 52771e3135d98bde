"""Costs against counts by hand and against the operations of a traced graph."""

import math

import pytest
import tensorflow as tf

from transformer_xl import ModelConfig, TransformerXL
from transformer_xl.model_cost import (
    forward_flops,
    parameters_by_part,
    training_bytes,
    training_flops,
)

CONFIG = ModelConfig(
    50,
    num_layers=2,
    model_dim=8,
    num_heads=2,
    head_dim=3,
    feed_forward_dim=11,
    cutoffs=(10, 20),
    div_val=2,
    memory_length=7,
)


def test_a_small_model_by_hand():
    """D 8, H K 6, F 11, N 2, L 5, M 7, B 3; clusters of 10 + 2, 10, 30 at widths 8, 4, 2."""
    flops = forward_flops(CONFIG, 5, batch_size=3, cluster_shares=(0.7, 0.2, 0.1))
    projections = 2 * 8 * 8 + 2 * 8 * 4 + 2 * 8 * 2
    by_hand = {
        "embedding's projections": projections,
        "queries, keys, values, results": 2 * 4 * (2 * 8 * 6),
        "keys and values of memory": 2 * 2 * (2 * 8 * 6) * 7 / 5,
        "positions": 2 * (2 * 8 * 6) * 12 / (5 * 3),
        "attention": 2 * 3 * (2 * 6 * 12),
        "feed-forward": 2 * (2 * 8 * 11 + 2 * 11 * 8),
        "softmax": projections + 2 * 8 * 12 + 0.2 * 2 * 4 * 10 + 0.1 * 2 * 2 * 30,
    }
    assert flops == pytest.approx(by_hand, rel=1e-12)
    two_gradients = sum(by_hand.values()) - by_hand["keys and values of memory"]
    two_gradients -= by_hand["positions"]
    once = by_hand["keys and values of memory"] + by_hand["positions"]
    assert training_flops(flops) == pytest.approx(3 * two_gradients + 2 * once, rel=1e-12)


def products(graph) -> float:
    """Two operations for each multiplication of the graph's matrix products."""
    total = 0
    for operation in graph.get_operations():
        if operation.type in ("MatMul", "BatchMatMulV2"):
            transposed = operation.get_attr(
                "transpose_a" if operation.type == "MatMul" else "adj_x"
            )
            inner = operation.inputs[0].shape[-2 if transposed else -1]
            total += 2 * inner * math.prod(operation.outputs[0].shape)
    return total


@pytest.mark.parametrize("pattern", ["afaf", "aaff", "aaf"])
def test_against_the_products_of_the_graph(pattern):
    """Of hidden states; the softmax' tails loop over as many rows as there are."""
    config = ModelConfig(**{**CONFIG.__dict__, "block_pattern": pattern})
    model = TransformerXL(config)
    batch, length = 3, 5

    @tf.function(autograph=False)
    def hidden(tokens, memory):
        return model(tokens, memory)

    graph = hidden.get_concrete_function(
        tf.TensorSpec([batch, length], tf.int32), model.initial_memory(batch)
    ).graph
    parts = forward_flops(config, length, batch)
    del parts["softmax"]
    assert sum(parts.values()) * batch * length == pytest.approx(products(graph), rel=1e-12)


def test_parameters_add_up():
    model = TransformerXL(CONFIG)
    parts = parameters_by_part(model)
    assert sum(parts.values()) == model.count_params()
    # Tables 10 x 8, 10 x 4, 30 x 2 and projections to 8.
    assert parts["embedding"] == 80 + 40 + 60 + 8 * 8 + 4 * 8 + 2 * 8
    assert parts["feed-forward"] == 2 * (8 * 11 + 11 + 11 * 8 + 8 + 2 * 8)


def test_memory_grows_as_it_should():
    small = training_bytes(CONFIG, 1000, 3, 5)
    assert small["weights, gradients, optimizer"] == 16_000
    assert small["memory of earlier segments"] == 2 * 4 * 2 * 3 * 7 * 8
    assert training_bytes(CONFIG, 1000, 6, 5)["activations"] == 2 * small["activations"]
    assert training_bytes(CONFIG, 1000, 3, 5, compute_bytes=2)["activations"] == (
        small["activations"] / 2
    )
