"""Training: the loss and its gradients, fit, evaluate, predict, compile, and .keras files.

B batch, L segment length.
"""

import dataclasses
import functools

import keras
import numpy as np
import pytest
import tensorflow as tf

from transformer_xl import ModelConfig, TransformerXL

pytestmark = pytest.mark.usefixtures("graphs_as_written")

CONFIG = ModelConfig(
    vocab_size=23,
    num_layers=1,
    model_dim=14,
    num_heads=3,
    head_dim=5,
    feed_forward_dim=11,
    cutoffs=(5,),
    div_val=2,
    # One of a kind: these tests are about Keras, and tracing takes the time.
    block_pattern="af",
    memory_length=7,
    untie_position_biases=False,
    final_norm=True,
    init_stddev=0.3,
    dropout=0.0,
)
SHARED_BIASES = {"num_layers": 2, "block_pattern": "aaf"}
RNG = np.random.default_rng(5)
LENGTH = 7
# Batches of different sizes and weights: the mean of the batches' means is not the mean.
BATCHES = [
    (
        RNG.integers(0, 23, [size, LENGTH]).astype(np.int32),
        RNG.integers(0, 23, [size, LENGTH]).astype(np.int32),
        (top * RNG.uniform(0, 1, [size, LENGTH])).astype(np.float32),
    )
    for size, top in ((2, 0.1), (3, 1), (5, 0))
]
# The last batch is padding only.
BATCHES[2][2][:] = 0


def dataset(batches=BATCHES):
    first, *others = [tf.data.Dataset.from_tensors(batch) for batch in batches]
    return functools.reduce(lambda joined, other: joined.concatenate(other), others, first)


def make(**changes):
    keras.utils.set_random_seed(1)
    return TransformerXL(dataclasses.replace(CONFIG, **changes), seed=3)


@pytest.fixture(scope="module")
def model():
    model = make()
    model.compile(keras.optimizers.SGD(0.0))
    return model


@pytest.fixture(scope="module")
def expected(model):
    """The mean over all tokens, by hand."""
    nll = [model.nll(tokens, targets)[0].numpy() for tokens, targets, _ in BATCHES]
    weights = [weights for *_, weights in BATCHES]
    sums = [np.sum(one * weight) for one, weight in zip(nll, weights)]
    mean = np.sum(sums) / np.sum([weight.sum() for weight in weights])
    # Else a mean of means would pass as well.
    assert abs(mean - np.mean([one.mean() for one in nll[:2]])) > 0.01
    return mean


@pytest.mark.parametrize("training", [False, True])
def test_loss_is_the_weighted_sum(model, training):
    # Without dropout, training and evaluation are one function.
    tokens, targets, weights = BATCHES[1]
    _, memory = model(tokens[::-1])
    variables = [variable.value for variable in model.trainable_variables]
    with tf.GradientTape(persistent=True) as tape:
        nll, expected_memory = model.nll(tokens, targets, memory)
        expected = tf.reduce_sum(weights * nll)
        loss, next_memory = model.loss(tokens, targets, weights, memory, training=training)
    assert (loss.shape, loss.dtype) == ([], tf.float32)
    np.testing.assert_allclose(loss, expected, rtol=1e-6)
    tf.nest.map_structure(np.testing.assert_array_equal, next_memory, expected_memory)
    for one, other in zip(tape.gradient(loss, variables), tape.gradient(expected, variables)):
        one, other = tf.convert_to_tensor(one), tf.convert_to_tensor(other)
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    "changes", [SHARED_BIASES, {"untie_position_biases": True, "tie_tables": False}]
)
def test_every_weight_gets_a_gradient_in_training(changes):
    model = make(**changes, dropout=0.1, attention_dropout=0.1)
    tokens = np.arange(2 * 23).reshape(2, 23) % 23  # each id, so that each row of a table counts
    _, memory = model(tokens)
    variables = model.trainable_variables
    with tf.GradientTape() as tape:
        loss, _ = model.loss(tokens, tokens, np.ones([2, 23]), memory, training=True)
    for variable, gradient in zip(
        variables, tape.gradient(loss, [variable.value for variable in variables])
    ):
        assert np.abs(tf.convert_to_tensor(gradient)).max() > 1e-3, variable.path


def test_evaluate_gives_the_mean_over_tokens(model, expected):
    result = model.evaluate(dataset(), verbose=0, return_dict=True)
    assert set(result) == {"loss", "perplexity"}
    np.testing.assert_allclose(result["loss"], expected, rtol=1e-6)
    np.testing.assert_allclose(result["perplexity"], np.exp(expected), rtol=5e-6)
    # The metrics start anew.
    assert model.evaluate(dataset(), verbose=0, return_dict=True) == result


def test_fit_reports_the_mean_over_tokens(model, expected):
    history = model.fit(
        dataset(), shuffle=False, validation_data=dataset(), epochs=2, verbose=0
    ).history
    assert set(history) == {"loss", "perplexity", "val_loss", "val_perplexity"}
    for name in ("loss", "val_loss"):
        np.testing.assert_allclose(history[name], [expected] * 2, rtol=1e-6)
    np.testing.assert_allclose(history["perplexity"], np.exp([expected] * 2), rtol=5e-6)


def test_without_weights_every_target_counts(model):
    tokens, targets, _ = BATCHES[1]
    nll = model.nll(tokens, targets)[0].numpy()
    loss, _ = model.evaluate(tokens, targets, verbose=0)
    np.testing.assert_allclose(loss, nll.mean(), rtol=1e-6)
    loss, _ = model.evaluate(tokens, targets, sample_weight=BATCHES[0][2][[0, 1, 0]], verbose=0)
    assert abs(loss - nll.mean()) > 1e-3


def test_predict_gives_each_targets_cost(model):
    predicted = model.predict(dataset(), verbose=0)
    costs = [model.nll(tokens, targets)[0] for tokens, targets, _ in BATCHES]
    assert predicted.dtype == np.float32
    np.testing.assert_allclose(predicted, np.concatenate(costs), rtol=1e-5, atol=1e-6)


def test_one_step_of_fit_follows_the_gradient_of_the_mean():
    model = make()
    tokens, targets, weights = BATCHES[1]
    variables = model.trainable_variables
    before = [variable.numpy() for variable in variables]
    with tf.GradientTape() as tape:
        nll, _ = model.nll(tokens, targets)
        mean = tf.reduce_sum(weights * nll) / tf.reduce_sum(weights)
    gradients = tape.gradient(mean, [variable.value for variable in variables])
    model.compile(keras.optimizers.SGD(0.5))
    model.fit(dataset(BATCHES[1:2]), shuffle=False, verbose=0)
    for variable, start, gradient in zip(variables, before, gradients):
        moved = start - 0.5 * tf.convert_to_tensor(gradient).numpy()
        np.testing.assert_allclose(
            variable.numpy(), moved, rtol=1e-5, atol=1e-6, err_msg=variable.path
        )


@pytest.mark.parametrize("run_eagerly", [True, pytest.param(False, marks=pytest.mark.slow)])
def test_a_weight_for_each_row_is_that_of_its_tokens(run_eagerly):
    tokens, targets, weights = BATCHES[1]
    rows = weights[:, 0]
    found = {}
    for name, given in (("row", rows), ("column", rows[:, None]), ("token", rows)):
        if name == "token":
            given = np.repeat(rows[:, None], LENGTH, 1)
        model = make()
        model.compile(keras.optimizers.SGD(0.5), run_eagerly=run_eagerly)
        history = model.fit(tokens, targets, sample_weight=given, shuffle=False, verbose=0)
        loss = model.evaluate(tokens, targets, sample_weight=given, verbose=0)
        found[name] = [*history.history["loss"], *loss, *model.get_weights()]
    nll, _ = make().nll(tokens, targets)
    np.testing.assert_allclose(found["row"][0], np.average(nll.numpy().mean(1), weights=rows), 1e-6)
    for name in ("column", "token"):
        for one, other in zip(found["row"], found[name]):
            np.testing.assert_array_equal(one, other)


def test_weights_of_tokens_then_of_rows(model):
    """Keras then traces its step again for weights of unknown rank."""
    tokens, targets, weights = BATCHES[1]
    model.evaluate(tokens, targets, sample_weight=weights, verbose=0)
    rows = weights[:, 0]
    loss, _ = model.evaluate(tokens, targets, sample_weight=rows, verbose=0)
    nll, _ = model.nll(tokens, targets)
    np.testing.assert_allclose(loss, np.average(nll.numpy().mean(1), weights=rows), rtol=1e-6)


@pytest.mark.parametrize("shape", [(LENGTH + 1,), (3, LENGTH, 1), (2,)])
def test_weights_that_do_not_fit_are_refused(model, shape):
    tokens, targets, _ = BATCHES[1]
    with pytest.raises(ValueError, match=r"one for each row. Received: weights of shape \("):
        model.test_step((tf.constant(tokens), tf.constant(targets), tf.ones(shape)))


def test_a_batch_of_padding_moves_nothing():
    model = make()
    model.compile(keras.optimizers.SGD(0.5), run_eagerly=True)
    before = model.get_weights()
    model.fit(dataset(BATCHES[2:]), shuffle=False, verbose=0)
    for start, now in zip(before, model.get_weights()):
        np.testing.assert_array_equal(start, now)


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"loss": "mse"}, r"loss of its own.*loss='mse'.*with an optimizer only"),
        ({"metrics": ["accuracy"]}, r"Received: metrics=\['accuracy'\]"),
        ({"weighted_metrics": ["accuracy"]}, r"weighted_metrics=\['accuracy'\]"),
    ],
)
def test_compile_refuses(arguments, message):
    with pytest.raises(ValueError, match=message):
        make().compile("adam", **arguments)


def test_tokens_without_targets_are_refused(model):
    with pytest.raises(ValueError, match=r"takes batches \(inputs, targets\).*inputs only"):
        model.predict(BATCHES[0][0], verbose=0)


def test_config_round_trip(model):
    config = model.get_config()
    assert config["config"] == dataclasses.asdict(CONFIG)
    again = TransformerXL.from_config(config)
    assert again.config == CONFIG
    assert again.get_config() == config
    assert [v.shape for v in again.weights] == [v.shape for v in model.weights]


def test_config_keeps_the_seed_of_dropout():
    config = dataclasses.replace(CONFIG, dropout=0.5)
    first = TransformerXL(config, seed=7)
    again = TransformerXL.from_config(first.get_config())
    for variable, value in zip(again.trainable_variables, first.trainable_variables):
        variable.assign(value)
    tokens = BATCHES[0][0]
    expected, _ = first(tokens, training=True)
    found, _ = again(tokens, training=True)
    np.testing.assert_array_equal(found, expected)


def test_config_keeps_the_precision():
    mixed = TransformerXL(CONFIG, dtype="mixed_bfloat16")
    again = TransformerXL.from_config(mixed.get_config())
    assert again.compute_dtype == "bfloat16"
    assert again.blocks[0].inner.compute_dtype == "bfloat16"


def test_summary_counts_every_weight_once(model):
    lines = []
    model.summary(print_fn=lines.append)
    count = sum(int(np.prod(variable.shape)) for variable in model.trainable_variables)
    assert f"{count:,}" in "\n".join(lines)


def test_keras_file(tmp_path):
    model = make(tie_projections="all", **SHARED_BIASES)
    model.compile(keras.optimizers.Adam(1e-2), run_eagerly=True)
    model.fit(dataset(), shuffle=False, verbose=0)
    path = tmp_path / "model.keras"
    model.save(path)
    loaded = keras.saving.load_model(path)
    assert loaded.config == model.config
    assert loaded.count_params() == model.count_params()
    # Still tied, not copies.
    for name in ("tables", "projections"):
        for own, shared in zip(getattr(loaded.head, name), getattr(loaded.embedding, name)):
            assert own is shared
    first, *others = [block.inner.biases for block in loaded.blocks if block.attends]
    assert all(biases is first for biases in others)

    tokens, targets, weights = BATCHES[1]
    _, memory = model(tokens)
    for saved, now in zip(model.nll(tokens, targets, memory), loaded.nll(tokens, targets, memory)):
        tf.nest.map_structure(np.testing.assert_array_equal, saved, now)
    # The optimizer goes on where it was: another step makes the same weights.
    loaded.run_eagerly = True  # not part of the file
    for one in (model, loaded):
        one.fit(tokens, targets, sample_weight=weights, shuffle=False, verbose=0)
    assert loaded.optimizer.iterations == 4
    for variable, saved in zip(loaded.trainable_variables, model.trainable_variables):
        np.testing.assert_array_equal(variable.numpy(), saved.numpy(), err_msg=variable.path)


def test_two_replicas_train_like_one(mirrored):
    """Replicas get rows of very different weights; the mean is over all of them."""
    tokens, targets, weights = (np.concatenate(parts) for parts in zip(*BATCHES[:2]))
    tokens, targets, weights = (value[:4] for value in (tokens, targets, weights))
    results = []
    # One alone need not be traced: test_one_step_of_fit_follows_the_gradient_of_the_mean is.
    for strategy, eagerly in ((tf.distribute.get_strategy(), True), (mirrored, False)):
        with strategy.scope():
            model = make()
            model.compile(keras.optimizers.SGD(0.5), run_eagerly=eagerly)
        loss = model.fit(tokens, targets, sample_weight=weights, batch_size=4, verbose=0)
        results.append((loss.history["loss"][0], model.get_weights()))
    np.testing.assert_allclose(results[1][0], results[0][0], rtol=1e-5)
    for one, other in zip(results[0][1], results[1][1]):
        np.testing.assert_allclose(other, one, rtol=1e-4, atol=1e-6)
