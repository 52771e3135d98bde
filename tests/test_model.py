"""The whole model against the NumPy oracle, and that it is causal however it is run.

What memory promises is in test_memory.py, training in test_fit.py, golden numbers in
test_golden.py.

B batch, L segment length, V vocabulary.
"""

import dataclasses
import re

import keras
import numpy as np
import pytest
import tensorflow as tf

from tests.reference import adaptive as adaptive_oracle
from tests.reference import transformer_xl as oracle
from transformer_xl import ModelConfig, TransformerXL

pytestmark = pytest.mark.usefixtures("graphs_as_written")

CONFIG = ModelConfig(
    vocab_size=23,
    num_layers=2,
    model_dim=14,
    num_heads=3,
    head_dim=5,
    feed_forward_dim=11,
    cutoffs=(5, 13),
    div_val=2,
    memory_length=7,
    # Evaluation must not drop.
    dropout=0.3,
    attention_dropout=0.2,
)
RNG = np.random.default_rng(5)
TOKENS = RNG.integers(0, 23, [2, 19]).astype(np.int32)
TARGETS = RNG.integers(0, 23, [2, 19]).astype(np.int32)
WEIGHTS = RNG.uniform(0.1, 2, [2, 19]).astype(np.float32)


def make(**changes):
    """A model with random weights, every one of them far from where it starts."""
    keras.utils.set_random_seed(1)
    changes = {"tie_projections": "all_but_head", **changes}
    policy = changes.pop("dtype", None)
    model = TransformerXL(dataclasses.replace(CONFIG, **changes), seed=2, dtype=policy)
    rng = np.random.default_rng(3)
    for variable in model.trainable_variables:
        mean = 1.0 if variable.name == "gamma" else 0.0
        variable.assign(rng.normal(mean, 0.3, variable.shape))
    return model


@pytest.fixture(scope="module")
def model():
    return make()


def float64(variable):
    return None if variable is None else np.asarray(variable, np.float64)


def oracle_weights(model, read=float64):
    """The model's weights as the two oracles take them."""

    def named(layer, *names):
        return {name: read(getattr(layer, name)) for name in names}

    blocks = []
    for block in model.blocks:
        inner = block.inner
        if block.attends:
            key, value = np.split(read(inner.key_value_kernel), 2, 1)
            weights = {
                "query": read(inner.query_kernel),
                "key": key,
                "value": value,
                "position": read(inner.position_kernel),
                "output": read(inner.output_kernel),
                "content_bias": read(inner.biases.content),
                "position_bias": read(inner.biases.position),
            }
        else:
            weights = named(inner, "inner_kernel", "inner_bias", "outer_kernel", "outer_bias")
        blocks.append({**weights, **named(block.norm, "gamma", "beta")})

    def adaptive(layer, *names):
        return {name: [read(variable) for variable in getattr(layer, name)] for name in names}

    final = model.final_norm and named(model.final_norm, "gamma", "beta")
    body = adaptive(model.embedding, "tables", "projections")
    head = adaptive(model.head, "tables", "projections", "biases")
    return (
        {**body, "blocks": blocks, "final_norm": final},
        {**head, **named(model.head, "cluster_kernel", "cluster_bias")},
    )


def oracle_settings(config):
    return {
        name: getattr(config, name)
        for name in (
            "num_heads",
            "head_dim",
            "clamp_length",
            "same_length",
            "layer_norm",
            "layer_norm_epsilon",
            "block_pattern",
        )
    }


def assert_close(actual, expected, atol=1e-5):
    np.testing.assert_allclose(np.asarray(actual, np.float64), expected, rtol=1e-5, atol=atol)


def check_against_oracle(model, memory, segment_lengths=(5, 3, 11), **lengths):
    """Segments of different lengths; after the first, row 1 begins anew."""
    weights, head = oracle_weights(model)
    settings = {**oracle_settings(model.config), **lengths}
    expected_memory = [np.asarray(layer, np.float64) for layer in memory.hidden]
    valid = memory.valid.numpy()
    start = 0
    for length in segment_lengths:
        tokens, targets = TOKENS[:, start : start + length], TARGETS[:, start : start + length]
        start += length
        expected = oracle.forward(tokens, weights, expected_memory, valid, **settings)
        hidden, memory = model(tokens, memory, **lengths)
        assert_close(hidden, expected.hidden)
        nll = adaptive_oracle.nll(expected.hidden, targets, **head)
        assert_close(model.head.nll(hidden, targets), nll)
        log_prob = adaptive_oracle.log_prob(expected.hidden, **head)
        assert_close(model.head.log_prob(hidden), log_prob)
        memory = memory.reset(np.array([False, start == segment_lengths[0]]))
        expected_memory, valid = expected.memory, expected.valid
        if start == segment_lengths[0]:
            valid[1] = 0
            for layer in expected_memory:
                layer[1] = 0
        np.testing.assert_array_equal(memory.valid, valid)
        for layer, expected_layer in zip(memory.hidden, expected_memory):
            assert_close(layer, expected_layer)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"num_heads": 7, "head_dim": None},
        {"memory_start": "zeros"},
        {"clamp_length": 1},
        {"clamp_length": 4, "memory_start": "zeros"},
        {"same_length": True},
        {"same_length": True, "memory_start": "zeros"},
        {"same_length": True, "memory_length": 1},
        {"memory_length": 0},
        {"memory_length": 17},
        {"layer_norm": "pre", "layer_norm_epsilon": 0.1},
        {"layer_norm": "pre", "final_norm": True},
        {"final_norm": True, "layer_norm_epsilon": 0.1},
        {"untie_position_biases": False},
        {"block_pattern": "aaff"},
        {"block_pattern": "afffa", "untie_position_biases": False},
        {"block_pattern": "fafaf", "layer_norm": "pre"},
        {"block_pattern": "aa"},
        {"cutoffs": (), "div_val": 1},
        {"div_val": 1},
        {"div_val": 1, "embedding_dim": 6},
        {"div_val": 1, "force_projection": True, "tie_projections": "none"},
        {"embedding_dim": 17, "tie_tables": False, "tie_projections": "all"},
        {"cutoffs": (2, 3, 19), "div_val": 1.5, "tie_projections": (True, False, True, False)},
    ],
    ids=lambda changes: "-".join(f"{k}={v}" for k, v in changes.items()) or "default",
)
def test_against_oracle(changes):
    model = make(**changes)
    check_against_oracle(model, model.initial_memory(2))


LENGTHS = {"clamp_length": 2, "same_length": True}


def test_lengths_of_the_call_win_over_the_configuration(model):
    check_against_oracle(model, model.initial_memory(2, 4), **LENGTHS)


@pytest.mark.parametrize("lengths", [{}, LENGTHS])
def test_every_method_reads_the_same_hidden_states(model, lengths):
    _, memory = model(TOKENS[:, :7])
    inputs, targets, weights = (array[:, 7:12] for array in (TOKENS, TARGETS, WEIGHTS))
    hidden, expected = model(inputs, memory, **lengths)
    nll, after_nll = model.nll(inputs, targets, memory, **lengths)
    loss, after_loss = model.loss(inputs, targets, weights, memory, **lengths)
    log_prob, after_log_prob = model.log_prob(inputs, memory, **lengths)
    np.testing.assert_array_equal(nll, model.head.nll(hidden, targets))
    np.testing.assert_array_equal(loss, model.head.loss(hidden, targets, weights))
    np.testing.assert_array_equal(log_prob, model.head.log_prob(hidden))
    for after in (after_nll, after_loss, after_log_prob):
        tf.nest.map_structure(np.testing.assert_array_equal, after, expected)


@pytest.mark.parametrize("layer_norm", ["post", "pre"])
def test_gradients_against_differences_of_the_oracle(layer_norm):
    model = make(layer_norm=layer_norm, final_norm=True, untie_position_biases=False)
    # Every cluster occurs in both, so that every weight has a gradient.
    tokens = np.array([[0, 7, 19, 3], [20, 4, 11, 0]])
    targets, weights = tokens[::-1, ::-1], WEIGHTS[:, :4]
    _, memory = model(TOKENS[:, :5])
    variables = model.trainable_variables
    with tf.GradientTape() as tape:
        loss, _ = model.loss(tokens, targets, weights, memory, training=False)
    gradients = tape.gradient(loss, [variable.value for variable in variables])
    remembered = [float64(layer) for layer in memory.hidden]

    def oracle_loss(moved, by):
        # Memory is a constant, but the weights that read it are not.
        def read(variable):
            return float64(variable) + by if variable is moved else float64(variable)

        body, head = oracle_weights(model, read)
        settings = oracle_settings(model.config)
        output = oracle.forward(tokens, body, remembered, memory.valid.numpy(), **settings)
        return np.sum(weights * adaptive_oracle.nll(output.hidden, targets, **head))

    rng = np.random.default_rng(7)
    for variable, gradient in zip(variables, gradients):
        step = 1e-5 * rng.choice([-1.0, 1.0], variable.shape)
        slope = (oracle_loss(variable, step) - oracle_loss(variable, -step)) / 2e-5
        gradient = float64(tf.convert_to_tensor(gradient))
        norm = np.linalg.norm(gradient)
        assert norm > 1e-3, variable.path
        assert abs(np.sum(gradient * step) / 1e-5 - slope) < 1e-5 * norm, variable.path


def compiled(model, **kwargs):
    return tf.function(lambda tokens, memory: model(tokens, memory), autograph=False, **kwargs)


@pytest.mark.parametrize("jit_compile", [False, True])
def test_a_future_token_changes_nothing_before_it(model, jit_compile):
    run = compiled(model, jit_compile=True) if jit_compile else model
    memory = model(TOKENS[:, :3])[1]
    tokens = TOKENS[:, 3:10]
    before, _ = run(tf.constant(tokens), memory)
    for position in (1, 4, 6):
        changed = tokens.copy()
        changed[:, position] = (changed[:, position] + 11) % 23
        after, _ = run(tf.constant(changed), memory)
        np.testing.assert_array_equal(after[:, :position], before[:, :position])
        assert np.abs(after - before)[:, position:].max((0, 2)).min() > 1e-3


def test_xla_and_graph_equal_eager(model):
    memory = model(TOKENS[:, :3])[1].reset(np.array([True, False]))
    tokens = tf.constant(TOKENS[:, 3:8])
    expected = model(tokens, memory)
    for run in (compiled(model), compiled(model, jit_compile=True)):
        actual = run(tokens, memory)
        tf.nest.map_structure(lambda a, b: assert_close(a, b, 2e-6), actual, expected)


def test_unknown_batch_size_and_length():
    model = make(num_layers=1, block_pattern=None)

    @tf.function(input_signature=[tf.TensorSpec([None, None], tf.int32)], autograph=False)
    def run(tokens):
        hidden, memory = model(tokens)
        assert hidden.shape.as_list() == [None, None, 14]
        assert all(layer.shape.as_list() == [None, 7, 14] for layer in memory.hidden)
        nll, memory = model.nll(tokens, tokens, memory)
        return nll, memory

    for tokens in (TOKENS, TOKENS[:1, :2]):
        _, memory = model(tokens)
        expected = model.nll(tokens, tokens, memory)
        tf.nest.map_structure(lambda a, b: assert_close(a, b, 2e-6), run(tokens), expected)


def test_other_integers(model):
    expected, _ = model.nll(TOKENS, TARGETS)
    actual, _ = model.nll(TOKENS.astype(np.int64), tf.constant(TARGETS, tf.int64))
    np.testing.assert_array_equal(actual, expected)


def test_mixed_bfloat16(model):
    mixed = make(dtype="mixed_bfloat16")
    assert all(variable.dtype == "float32" for variable in mixed.trainable_variables)
    expected_memory, memory = model.initial_memory(2), mixed.initial_memory(2)
    for start in (0, 5):
        inputs = TOKENS[:, start : start + 5], TARGETS[:, start : start + 5]
        hidden, _ = mixed(inputs[0], memory)
        nll, memory = mixed.nll(*inputs, memory)
        expected, expected_memory = model.nll(*inputs, expected_memory)
        assert (hidden.dtype, nll.dtype) == (tf.bfloat16, tf.float32)
        assert all(layer.dtype == tf.bfloat16 for layer in memory.hidden)
        assert 1e-6 < np.abs(nll - expected).mean() < 0.05
        assert mixed.log_prob(inputs[0])[0].dtype == tf.float32


def test_ids_outside_the_vocabulary_are_refused(model):
    for ids in ([[0, 23]], [[-1, 0]]):
        with pytest.raises(ValueError, match="ids from 0 to 22. Received ids from"):
            model(tf.constant(ids))
        with pytest.raises(ValueError, match="targets .*ids from 0 to 22. Received ids from"):
            model.nll(tf.constant([[0, 1]]), tf.constant(ids))
    with pytest.raises(ValueError, match="integer ids. Received: dtype"):
        model(tf.constant([[0.5, 1.0]]))


@pytest.mark.parametrize(
    "tokens, received",
    [
        (np.zeros([7], np.int32), "of shape (7,)"),
        (np.zeros([1, 2, 3], np.int32), "of shape (1, 2, 3)"),
        (tf.ragged.constant([[1, 2], [3]]), "RaggedTensor of shape (2, None)"),
    ],
    ids=["one axis", "three axes", "ragged"],
)
def test_tokens_of_another_shape_are_refused(model, tokens, received):
    message = r"Tokens must be .* \[B, L\]. Received: .*" + re.escape(received)
    with pytest.raises(ValueError, match=message):
        model(tokens)
    with pytest.raises(ValueError, match=message):
        model.extend(tokens, model.initial_cache(1))


def test_tokens_of_unknown_axes_are_refused(model):
    read = tf.function(model, input_signature=[tf.TensorSpec(None, tf.int32)])
    with pytest.raises(ValueError, match=r"of shape <unknown>.*ensure_shape\(tokens"):
        read(TOKENS)


def test_one_head_multiplies_without_broadcasting():
    """Where all of one side's batch sizes are 1, TensorFlow 2.21 on CPUs overwrites memory.

    https://github.com/tensorflow/tensorflow/issues/117700. Looks at the graph, since running into
    it may end the process.
    """
    one_head = make(num_heads=1)
    graph = compiled(one_head).get_concrete_function(TOKENS, one_head.initial_memory(2)).graph
    products = [op for op in graph.get_operations() if op.type == "BatchMatMulV2"]
    assert len(products) == 3 * CONFIG.num_layers
    for product in products:
        left, right = (operand.shape[:-2].as_list() for operand in product.inputs)
        assert left == right == [2, 1]
    check_against_oracle(one_head, one_head.initial_memory(2))
