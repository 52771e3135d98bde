"""SoftmaxModel: fit, evaluate and predict through a head, against plain NumPy.

Each is compiled in one test or more; others run eagerly, since tracing takes most of the time.
"""

import warnings

import keras
import numpy as np
import pytest
import tensorflow as tf

from adaptive import (
    Accuracy,
    AdaptiveEmbedding,
    AdaptiveLogSoftmaxWithLoss,
    AdaptiveSoftmax,
    SampledSoftmax,
    SoftmaxModel,
    TopK,
    TopKAccuracy,
)

pytestmark = pytest.mark.usefixtures("graphs_as_written")

V, D, L, N = 29, 8, 5, 11
CUTOFFS = (7,)
rng = np.random.default_rng(3)
X = rng.integers(0, V, (N, L))
Y = rng.integers(0, V, (N, L))
W = rng.uniform(0, 3, (N, L)).astype(np.float32)

HEADS = {
    "adaptive": lambda **kwargs: AdaptiveSoftmax(D, V, cutoffs=CUTOFFS, div_val=2, **kwargs),
    "pytorch": lambda **kwargs: AdaptiveLogSoftmaxWithLoss(D, V, CUTOFFS, 2.0, **kwargs),
    "sampled": lambda **kwargs: SampledSoftmax(13, V, **kwargs),
}
heads = pytest.mark.parametrize("head", HEADS)


def backbone(mask_zero=False):
    return keras.Sequential(
        [
            keras.Input((None,), dtype="int32"),
            AdaptiveEmbedding(V, D, cutoffs=CUTOFFS, div_val=2, mask_zero=mask_zero),
            keras.layers.Dense(D),
        ]
    )


def make(head="adaptive", mask_zero=False, head_options=None, **kwargs):
    return SoftmaxModel(backbone(mask_zero), HEADS[head](**(head_options or {})), **kwargs)


def built(head="adaptive", optimizer=None, **kwargs):
    """With all its variables; else the first step makes them, and is traced again without that."""
    model = make(head, **kwargs)
    model(X)
    if optimizer is not None:
        model.compile(optimizer)
        model.optimizer.build(model.trainable_variables)
    return model


def tied_model():
    inner = backbone()
    return SoftmaxModel(inner, HEADS["adaptive"](tied_to=inner.layers[0]))


def log_prob(model, x=X):
    return np.asarray(model.head.log_prob(model(x)), np.float64)


def nll(model, x=X, y=Y):
    return -np.take_along_axis(log_prob(model, x), y[..., None], -1)[..., 0]


def test_metrics_weigh_targets_also_where_lengths_differ():
    model = make()
    model.compile("sgd", metrics=["accuracy"], run_eagerly=True)
    data = tf.data.Dataset.from_generator(
        lambda: [(X[:4, :2], Y[:4, :2]), (X[4:], Y[4:])],
        output_signature=(tf.TensorSpec([None, None], tf.int32),) * 2,
    )
    results = model.evaluate(data, verbose=0, return_dict=True)
    counted = np.ones((N, L))
    counted[:4, 2:] = 0
    hits = log_prob(model).argmax(-1) == Y
    np.testing.assert_allclose(results["accuracy"], (counted * hits).sum() / counted.sum())
    np.testing.assert_allclose(results["loss"], (counted * nll(model)).sum() / counted.sum(), 1e-5)


@heads
def test_evaluate_is_a_weighted_mean_over_the_whole_epoch(head):
    """Batches of 4, 4 and 3, with very different weights."""
    model = built(head)
    metrics = ["accuracy", TopKAccuracy(3), TopKAccuracy(V + 5, name="all")]
    # One is compiled; the others' losses are in test_fit and test_conformance.py.
    model.compile("sgd", metrics=metrics, run_eagerly=head != "sampled")
    results = model.evaluate(X, Y, sample_weight=W, batch_size=4, verbose=0, return_dict=True)
    mean = (W * nll(model)).sum() / W.sum()
    rank = (log_prob(model) > -nll(model)[..., None]).sum(-1)
    expected = {
        "loss": mean,
        "perplexity": np.exp(mean),
        "accuracy": W[rank < 1].sum() / W.sum(),
        "top_3_accuracy": W[rank < 3].sum() / W.sum(),
        "all": 1.0,
    }
    assert set(results) == set(expected)
    for name, value in expected.items():
        np.testing.assert_allclose(results[name], value, rtol=1e-5, err_msg=name)


# The other heads' losses are in test_evaluate. The sampled one learns in mixed precision below;
# test_conformance.py trains it, and the other one compiled.
@pytest.mark.parametrize(
    "head",
    ["adaptive", *(pytest.param(head, marks=pytest.mark.slow) for head in ("pytorch", "sampled"))],
)
def test_fit_learns_and_reports_the_exact_loss_of_validation(head):
    model = built(head, keras.optimizers.Adam(0.05))
    history = model.fit(
        X, Y, epochs=15, batch_size=4, validation_data=(X, Y), verbose=0, shuffle=False
    ).history
    assert history["loss"][-1] < 0.75 * history["loss"][0]
    np.testing.assert_allclose(history["val_loss"][-1], nll(model).mean(), rtol=1e-5)
    np.testing.assert_allclose(history["val_perplexity"], np.exp(history["val_loss"]), rtol=1e-5)


def test_one_step_is_the_step_of_the_mean_loss():
    """Gradients from the slow path, applied by hand."""
    model = make()
    model.compile(keras.optimizers.SGD(0.5))
    model(X)
    variables = model.trainable_variables
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(W * model.head.nll(model(X), Y)) / W.sum()
    gradients = tape.gradient(loss, [variable.value for variable in variables])
    expected = [
        variable.numpy() - 0.5 * tf.convert_to_tensor(gradient).numpy()
        for variable, gradient in zip(variables, gradients)
    ]
    reported = model.train_on_batch(X, Y, sample_weight=W)
    np.testing.assert_allclose(reported[0], loss, rtol=1e-5)
    for variable, value in zip(variables, expected):
        np.testing.assert_allclose(variable.numpy(), value, rtol=1e-4, atol=1e-6)


def test_what_does_not_count():
    """A mask of the backbone, ignored targets, weights for whole rows, targets `[N, L, 1]`."""
    x = np.where(np.arange(L) < 3, np.maximum(X, 1), 0)
    y = np.where(Y == 4, -100, Y)
    row_weights = np.arange(1.0, N + 1)
    model = make(mask_zero=True, head_options={"ignore_index": -100})
    model.compile("sgd", metrics=[Accuracy()], run_eagerly=True)
    results = model.evaluate(
        x, y[..., None], sample_weight=row_weights, verbose=0, return_dict=True
    )
    counted = row_weights[:, None] * (x != 0) * (y != -100)
    y = np.maximum(y, 0)
    np.testing.assert_allclose(
        results["loss"], (counted * nll(model, x, y)).sum() / counted.sum(), rtol=1e-5
    )
    hits = log_prob(model, x).argmax(-1) == y
    np.testing.assert_allclose(results["accuracy"], (counted * hits).sum() / counted.sum())


def test_nothing_counts():
    model = make(head_options={"ignore_index": 0})
    model.compile("sgd", run_eagerly=True)
    loss, perplexity = model.evaluate(X, np.zeros_like(Y), verbose=0)
    assert loss == 0 and perplexity == 1
    before = [weight.copy() for weight in model.get_weights()]
    model.fit(X, np.zeros_like(Y), verbose=0)
    for weight, was in zip(model.get_weights(), before):
        np.testing.assert_array_equal(weight, was)


def test_predict():
    model = built(top_k=4)
    found = model.predict(X, batch_size=4, verbose=0)
    assert isinstance(found, TopK)
    order = np.argsort(-log_prob(model), -1, kind="stable")[..., :4]
    np.testing.assert_array_equal(found.ids, order)
    np.testing.assert_allclose(
        found.log_probabilities, np.take_along_axis(log_prob(model), order, -1), atol=1e-5
    )
    every = make(top_k=1000)
    every.run_eagerly = True
    assert every.predict(X, verbose=0).ids.shape == (N, L, V)


@pytest.mark.parametrize(
    ("head", "policy"),
    [
        ("adaptive", "mixed_bfloat16"),
        *(
            pytest.param(head, "mixed_float16", marks=pytest.mark.slow)
            for head in ("adaptive", "pytorch", "sampled")
        ),
    ],
)
def test_mixed_precision_learns(head, policy):
    keras.config.set_dtype_policy(policy)
    try:
        model = built(head, keras.optimizers.Adam(0.05))
        scaled = isinstance(model.optimizer, keras.optimizers.LossScaleOptimizer)
        assert scaled == (policy == "mixed_float16")
        # The scale begins at 2**15 and the first steps that overflow are skipped.
        losses = model.fit(X, Y, epochs=20, batch_size=N, verbose=0).history["loss"]
    finally:
        keras.config.set_dtype_policy("float32")
    assert np.isfinite(losses).all() and losses[-1] < 0.8 * losses[0]
    assert all(weight.dtype == "float32" for weight in model.trainable_weights)


def test_compiled_by_xla_and_several_steps_at_once():
    plain, compiled = built(), built()
    compiled.set_weights(plain.get_weights())
    data = tf.data.Dataset.from_tensor_slices((X, Y, W)).batch(4, drop_remainder=True).repeat(3)
    losses = []
    for model, options in (
        (plain, {}),
        (compiled, {"jit_compile": True, "steps_per_execution": 3}),
    ):
        model.compile(keras.optimizers.SGD(0.5), **options)
        losses.append(model.fit(data, verbose=0).history["loss"])
    np.testing.assert_allclose(*losses, rtol=1e-5)
    for one, other in zip(plain.get_weights(), compiled.get_weights()):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"loss": "mse"}, r"loss of its own, its head's.*loss='mse'.*with an optimizer only"),
        ({"metrics": ["mse"]}, r"on hidden states.*'mse'.*TopKAccuracy"),
        ({"metrics": [keras.metrics.SparseCategoricalAccuracy()]}, r"on hidden states"),
        ({"weighted_metrics": "sparse_top_k_categorical_accuracy"}, r"on hidden states"),
    ],
)
def test_compile_refuses(options, message):
    with pytest.raises(ValueError, match=message):
        make().compile("sgd", **options)


def test_other_refusals():
    inner = backbone()
    with pytest.raises(ValueError, match=r"must be in the backbone.*'elsewhere'"):
        elsewhere = AdaptiveEmbedding(V, D, cutoffs=CUTOFFS, div_val=2, name="elsewhere")
        SoftmaxModel(inner, HEADS["adaptive"](tied_to=elsewhere))
    with pytest.raises(ValueError, match=r"head must be.*Dense"):
        SoftmaxModel(inner, keras.layers.Dense(V))
    with pytest.raises(ValueError, match=r"top_k must be a positive integer.*top_k=0"):
        make(top_k=0)
    with pytest.raises(ValueError, match=r"bind_projections need the embedding"):
        model = make(head_options={"bind_projections": True})
        model.compile("sgd")
        model.fit(X, Y, verbose=0)
    model = make()
    model.compile("sgd")
    with pytest.raises(ValueError, match=r"inputs only"):
        model.fit(X, verbose=0)
    with pytest.raises(ValueError, match=r"k must be a positive integer.*k=0"):
        TopKAccuracy(0)
    with pytest.raises(ValueError, match=r'exports to "tf_saved_model".*onnx'):
        model.export("unused", format="onnx")


def test_a_loaded_model_goes_on_training(tmp_path):
    model = tied_model()
    metrics = ["accuracy", TopKAccuracy(3)]
    model.compile(keras.optimizers.Adam(0.05), metrics=metrics, run_eagerly=True)
    model.fit(X, Y, verbose=0, epochs=2, shuffle=False)
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    loaded.run_eagerly = True  # not part of the file
    assert loaded.evaluate(X, Y, verbose=0) == model.evaluate(X, Y, verbose=0)
    for one in (model, loaded):
        one.fit(X, Y, verbose=0, epochs=2, shuffle=False)
    for weight, other in zip(model.get_weights(), loaded.get_weights()):
        np.testing.assert_array_equal(other, weight)
    assert loaded.head.tied_to is loaded.backbone.layers[0]


def test_a_model_that_was_not_compiled_comes_back_so(tmp_path):
    model = make()
    model(X)
    model.save(tmp_path / "model.keras")
    assert not model.compiled and not keras.models.load_model(tmp_path / "model.keras").compiled


@pytest.mark.parametrize(
    "head",
    ["adaptive", *(pytest.param(head, marks=pytest.mark.slow) for head in ("pytorch", "sampled"))],
)
def test_export(head, tmp_path):
    model = make(head, top_k=3)
    model.run_eagerly = True  # test_predict's is compiled
    expected = model.predict(X, verbose=0)
    model.export(tmp_path / "exported", verbose=False)
    served = tf.saved_model.load(tmp_path / "exported")
    signature = served.signatures["serving_default"]
    (spec,) = signature.structured_input_signature[1].values()
    assert spec.dtype == tf.int32 and spec.shape.as_list() == [None, None]
    found = signature(tf.constant(X[:, :4], tf.int32))
    np.testing.assert_array_equal(found["ids"], expected.ids[:, :4])
    np.testing.assert_allclose(
        found["log_probabilities"], expected.log_probabilities[:, :4], atol=1e-5
    )


@pytest.mark.slow
def test_a_warning_where_ids_are_not_sorted():
    x, y = np.tile(X, (40, 1)), np.full((40 * N, L), V - 1)
    model = make()
    model.compile("sgd")
    with pytest.warns(UserWarning, match=r"100% of 2,200 targets are in the tails.*id_order"):
        model.fit(x, y, verbose=0)
    sorted_model = make()
    sorted_model.compile("sgd")
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        sorted_model.fit(x, np.zeros_like(y), verbose=0)


@pytest.mark.slow  # as test_fit.py's, of another model
def test_weights_of_tokens_then_of_rows():
    """Keras then traces its step again for weights of unknown rank."""
    model = built()
    model.compile("sgd", jit_compile=False)
    model.evaluate(X, Y, sample_weight=W, verbose=0)
    loss = model.evaluate(X, Y, sample_weight=W[:, 0], verbose=0, return_dict=True)["loss"]
    nll = -np.take_along_axis(log_prob(model), Y[..., None], -1)[..., 0]
    expected = np.average(nll, weights=np.broadcast_to(W[:, :1], Y.shape))
    assert loss == pytest.approx(expected, rel=1e-5)


def test_targets_of_unknown_rank_are_refused():
    model = make()
    model.compile("sgd", jit_compile=False)
    batches = tf.data.Dataset.from_generator(lambda: iter([(X, Y)]), output_types=(tf.int32,) * 2)
    with pytest.raises(ValueError, match="known number of axes.*output_signature"):
        model.evaluate(batches, verbose=0)
