"""Stateless dropout: its statistics, its seeds, and the places where the model drops."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from transformer_xl import ModelConfig, TransformerXL, attention, block, feed_forward, model
from transformer_xl.dropout import dropout, relu_dropout

SEED = tf.constant([17, 5])
CONFIG = ModelConfig(
    vocab_size=23,
    num_layers=2,
    model_dim=14,
    num_heads=3,
    head_dim=5,
    feed_forward_dim=11,
    cutoffs=(5,),
    memory_length=7,
    dropout=0.3,
    attention_dropout=0.2,
)
TOKENS = tf.constant(np.random.default_rng(0).integers(0, 23, [2, 5]), tf.int32)


def kept(size, rate, seed=SEED, site=3):
    """Which of `size` ones stay, as an array of bools."""
    return dropout(tf.ones([size]), rate, seed, site).numpy() > 0


@pytest.mark.parametrize("rate", [0.1, 0.25, 0.9])
def test_rate_and_mean(rate):
    size = 10**6
    dropped = dropout(tf.ones([size]), rate, SEED, 3).numpy()
    # Four standard deviations, with a seed that is fixed.
    deviation = 4 * np.sqrt(rate * (1 - rate) / size)
    assert abs(np.mean(dropped == 0) - rate) < deviation
    assert abs(dropped.mean() - 1) < deviation / (1 - rate)
    values = np.unique(dropped)
    np.testing.assert_allclose(values, [0, 1 / (1 - rate)], rtol=2e-5 / (1 - rate))


def test_values_that_stay_are_scaled():
    inputs = np.random.default_rng(1).normal(size=[7, 11]).astype(np.float32)
    outputs = dropout(tf.constant(inputs), 0.25, SEED, 0).numpy()
    stays = outputs != 0
    assert 0 < stays.sum() < stays.size
    np.testing.assert_allclose(outputs[stays], inputs[stays] / 0.75, rtol=1e-6)


def test_rate_is_met_in_every_16_bits():
    # Two values share one random number: neither half may depend on the other.
    stays = kept(10**6, 0.3).reshape(-1, 2)
    np.testing.assert_allclose(stays.mean(0), 0.7, atol=4 * np.sqrt(0.21 / 5e5))
    assert abs(np.corrcoef(stays.T)[0, 1]) < 4 / np.sqrt(5e5)


def test_same_seed_and_site_draw_the_same():
    np.testing.assert_array_equal(kept(1001, 0.5), kept(1001, 0.5))


@pytest.mark.parametrize(
    "seed, site", [(SEED, 4), (SEED + [0, 1], 3), (SEED + [1, 0], 3), (SEED[::-1], 3)]
)
def test_another_site_or_step_draws_independently(seed, site):
    size = 10**5
    agreement = np.mean(kept(size, 0.5) == kept(size, 0.5, seed, site))
    assert abs(agreement - 0.5) < 4 * 0.5 / np.sqrt(size)


def test_site_does_not_stand_for_a_later_step():
    # Site 4 of one step must not be site 3 of the next.
    assert not np.array_equal(kept(1001, 0.5, SEED, 4), kept(1001, 0.5, SEED + [0, 1], 3))


def test_same_mask_with_xla_whatever_the_shape():
    shapes = [[], [1], [7], [3, 5, 7], [2, 3, 5, 11], [0, 3]]

    def drop(inputs, seed):
        return [dropout(ones, 0.4, seed, 2) for ones in inputs]

    inputs = [tf.ones(shape) for shape in shapes]
    compiled = tf.function(drop, jit_compile=True, autograph=False)
    for one, other, shape in zip(drop(inputs, SEED), compiled(inputs, SEED), shapes):
        assert one.shape == shape
        np.testing.assert_array_equal(one, other)


def test_unknown_shape():
    signature = [tf.TensorSpec([None, None, 7])]
    drop = tf.function(
        lambda x: dropout(x, 0.4, SEED, 2), input_signature=signature, autograph=False
    )
    inputs = tf.ones([3, 5, 7])
    np.testing.assert_array_equal(drop(inputs), dropout(inputs, 0.4, SEED, 2))


@pytest.mark.parametrize("rate, seed", [(0.0, SEED), (0.5, None), (0.0, None)])
def test_identity(rate, seed):
    inputs = tf.constant([1.0, -2.0, 3.0])
    assert dropout(inputs, rate, seed, 0) is inputs


def test_bfloat16_keeps_its_type_and_the_mask():
    outputs = dropout(tf.ones([1001], tf.bfloat16), 0.5, SEED, 3)
    assert outputs.dtype == tf.bfloat16
    np.testing.assert_array_equal(tf.cast(outputs, tf.float32), 2.0 * kept(1001, 0.5))


def test_infinities_that_are_dropped_become_zero():
    assert not np.any(np.isnan(dropout(tf.fill([1001], np.inf), 0.5, SEED, 3)))


@pytest.fixture(scope="module")
def language_model():
    keras.utils.set_random_seed(11)
    return TransformerXL(CONFIG, seed=13)


def test_training_advances_the_seed_once(language_model):
    state = language_model.seed_generator.state
    before = state.numpy()
    language_model(TOKENS, training=True)
    np.testing.assert_array_equal(state.numpy(), before + [0, 1])
    language_model.loss(TOKENS, TOKENS, tf.ones([2, 5]), training=True)
    np.testing.assert_array_equal(state.numpy(), before + [0, 2])


def test_evaluation_leaves_the_seed(language_model):
    before = language_model.seed_generator.state.numpy()
    first, _ = language_model(TOKENS)
    second, _ = language_model(TOKENS, training=False)
    language_model.nll(TOKENS, TOKENS)
    language_model.log_prob(TOKENS)
    np.testing.assert_array_equal(language_model.seed_generator.state, before)
    np.testing.assert_array_equal(first, second)


def test_two_training_calls_differ_and_a_seed_repeats_one(language_model):
    state = language_model.seed_generator.state
    before = state.numpy()
    first, _ = language_model(TOKENS, training=True)
    second, _ = language_model(TOKENS, training=True)
    assert not np.array_equal(first == 0, second == 0)
    state.assign(before)
    np.testing.assert_array_equal(language_model(TOKENS, training=True)[0], first)


def test_the_model_without_rates_trains_as_it_evaluates():
    rates = {"dropout": 0.0, "attention_dropout": 0.0}
    plain = TransformerXL(ModelConfig(**{**vars(CONFIG), **rates}))
    np.testing.assert_array_equal(plain(TOKENS, training=True)[0], plain(TOKENS)[0])


@pytest.mark.parametrize("training", [False, True])
def test_every_place_drops_with_a_site_of_its_own(language_model, monkeypatch, training):
    calls = []

    def record(inputs, rate, seed, site):
        calls.append((tuple(inputs.shape), rate, site))
        assert (seed is not None) == training
        return inputs

    for module in (attention, block, model):
        monkeypatch.setattr(module, "dropout", record)
    monkeypatch.setattr(feed_forward, "relu_dropout", lambda *arguments: (record(*arguments), None))
    language_model(TOKENS, training=training)
    sites = [site for *_, site in calls]
    assert len(set(sites)) == len(sites)
    batch, length, width, keys = 2, 5, 14, 12
    one_layer = [
        *[((batch, 3, length, keys), 0.2)] * training,  # attention weights
        ((batch, length, width), 0.3),  # what attention returns
        ((batch * length, 11), 0.3),  # inside the feed-forward layer
        ((batch, length, width), 0.3),  # what it returns
    ]
    assert [(shape, rate) for shape, rate, _ in calls] == [
        ((batch, length, width), 0.3),  # embedding
        ((keys, width), 0.3),  # positions
        *one_layer * 2,
        ((batch, length, width), 0.3),  # last hidden state
    ]


@pytest.mark.parametrize("jit_compile", [False, True])
def test_relu_and_dropout_in_one(jit_compile):
    """As one after the other, with the gradient that they have."""
    inputs = tf.constant(np.random.default_rng(1).normal(size=[13, 7]), tf.float32)
    upstream = tf.constant(np.random.default_rng(2).normal(size=[13, 7]), tf.float32)

    @tf.function(jit_compile=jit_compile, autograph=False)
    def with_gradient(apart):
        with tf.GradientTape() as tape:
            tape.watch(inputs)
            if apart:
                values = dropout(tf.nn.relu(inputs), 0.3, SEED, 5)
            else:
                values, scale = relu_dropout(inputs, 0.3, SEED, 5)
                values *= scale
        return values, tape.gradient(values, inputs, upstream)

    values, gradient = with_gradient(False)
    assert 0.1 < np.mean((values == 0) & (inputs > 0)) < 0.2
    for one, other in zip((values, gradient), with_gradient(True)):
        np.testing.assert_allclose(one, other, rtol=1e-6)


def test_remembered_states_are_those_that_attention_saw(language_model):
    # The embedding's dropout is part of them, so exact zeros are remembered.
    _, memory = language_model(TOKENS, training=True)
    zeros = np.mean(memory.hidden[0][:, -5:].numpy() == 0)
    assert 0.1 < zeros < 0.5
