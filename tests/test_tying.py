"""Ties that hold: after saving, after loading, and never silently untied.

Models run eagerly: tracing would take most of the time, and has nothing to do with ties.
"""

import zipfile

import h5py
import keras
import numpy as np
import pytest

from adaptive import AdaptiveEmbedding, AdaptiveSoftmax, SampledSoftmax, SoftmaxModel

pytestmark = pytest.mark.usefixtures("graphs_as_written")

X = np.random.default_rng(0).integers(0, 30, (4, 7))
Y = np.random.default_rng(1).integers(0, 30, (4, 7))
OPTIONS = {"cutoffs": [5, 15, 25], "div_val": 2}


def functional_with_tensors():
    """The model of the documentation."""
    tokens = keras.Input((None,), dtype="int32")
    embedded, *tables = AdaptiveEmbedding(
        input_dim=30,
        output_dim=32,
        cutoffs=[5, 15, 25],
        div_val=2,
        return_embeddings=True,
        return_projections=True,
        mask_zero=True,
    )(tokens)
    hidden = keras.layers.Dense(32, activation="tanh")(embedded)
    probabilities = AdaptiveSoftmax(
        input_dim=32,
        output_dim=30,
        cutoffs=[5, 15, 25],
        div_val=2,
        bind_embeddings=True,
        bind_projections=True,
    )([hidden, *tables])
    model = keras.Model(tokens, probabilities)
    model.compile("adam", "sparse_categorical_crossentropy", run_eagerly=True)
    return model


def functional_with_layer():
    tokens = keras.Input((None,), dtype="int32")
    embedding = AdaptiveEmbedding(30, 32, **OPTIONS)
    hidden = keras.layers.Dense(32, activation="tanh")(embedding(tokens))
    head = AdaptiveSoftmax(32, 30, tied_to=embedding, **OPTIONS)
    model = keras.Model(tokens, head(hidden))
    model.compile("adam", "sparse_categorical_crossentropy", run_eagerly=True)
    return model


@keras.saving.register_keras_serializable(package="test_tying")
class Inner(keras.layers.Layer):
    """A layer that keeps its embedding to itself and says nothing of it in its configuration."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.embedding = AdaptiveEmbedding(30, 32, **OPTIONS)

    def build(self, input_shape):
        self.embedding.build(input_shape)

    def call(self, ids):
        return self.embedding(ids)

    def compute_output_shape(self, input_shape):
        return (*input_shape, 32)


@keras.saving.register_keras_serializable(package="test_tying")
class Subclassed(keras.Model):
    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.inner = Inner()
        self.dense = keras.layers.Dense(32)

    def build(self, input_shape):
        self.inner.build(input_shape)
        self.dense.build((*input_shape, 32))

    def call(self, ids):
        return self.dense(self.inner(ids))


def sequential():
    return keras.Sequential([AdaptiveEmbedding(30, 32, **OPTIONS), keras.layers.Dense(32)])


def softmax_model(kind):
    if kind == "sampled":
        embedding = keras.layers.Embedding(30, 32)
        backbone = keras.Sequential([embedding, keras.layers.Dense(32)])
        head = SampledSoftmax(9, 30, tied_to=embedding, seed=1)
    else:
        backbone = Subclassed() if kind == "subclassed" else sequential()
        embedding = backbone.inner.embedding if kind == "subclassed" else backbone.layers[0]
        head = AdaptiveSoftmax(32, 30, tied_to=embedding, **OPTIONS)
    model = SoftmaxModel(backbone, head)
    model.compile("adam", run_eagerly=True)
    return model


MODELS = {
    "tensors": functional_with_tensors,
    "layer": functional_with_layer,
    **{kind: lambda kind=kind: softmax_model(kind) for kind in ("model", "subclassed", "sampled")},
}
SHARED = [name for name in MODELS if name != "tensors"]


def head_of(model):
    return model.head if isinstance(model, SoftmaxModel) else model.layers[-1]


def numbers_in_file(path):
    """How many numbers of weights there are in a `.keras` file, without the optimizer's."""
    with zipfile.ZipFile(path) as archive, archive.open("model.weights.h5") as file:
        sizes = {}
        with h5py.File(file) as content:
            content.visititems(
                lambda name, value: (
                    sizes.update({name: value.size}) if isinstance(value, h5py.Dataset) else None
                )
            )
    return sum(size for name, size in sizes.items() if not name.startswith("optimizer"))


@pytest.mark.parametrize(
    "kind",
    [
        # The ways of the others, in other combinations.
        pytest.param(kind, marks=pytest.mark.slow) if kind in ("subclassed", "sampled") else kind
        for kind in MODELS
    ],
)
def test_saved_once_and_tied_after_loading(kind, tmp_path):
    model = MODELS[kind]()
    model.fit(X, Y, verbose=0)
    before = model.predict(X, verbose=0)
    model.save(tmp_path / "model.keras")
    # A head of its own would have the tables a second time.
    weights = sum(weight.numpy().size for weight in model.variables if "seed" not in weight.path)
    metrics = sum(v.numpy().size for one in model.metrics for v in one.variables)
    numbers = numbers_in_file(tmp_path / "model.keras")
    assert model.count_params() <= numbers <= weights + metrics + 2
    loaded = keras.models.load_model(tmp_path / "model.keras")
    loaded.run_eagerly = True  # not part of the file
    assert loaded.count_params() == model.count_params()
    for one, other in zip(
        keras.tree.flatten(before), keras.tree.flatten(loaded.predict(X, verbose=0))
    ):
        np.testing.assert_array_equal(other, one)
    if kind in SHARED:
        # The same variable at both ends: training moves both.
        ours = [id(v) for v in head_of(loaded).tied_to.variables]
        body = loaded.backbone if isinstance(loaded, SoftmaxModel) else loaded
        assert set(ours) <= {id(v) for v in body.variables}
    loaded.fit(X, Y, verbose=0)
    model.fit(X, Y, verbose=0)
    for one, other in zip(model.get_weights(), loaded.get_weights()):
        np.testing.assert_allclose(other, one, rtol=1e-5, atol=1e-6)


def test_clone_model_does_not_untie():
    with pytest.raises(ValueError, match=r"tied AdaptiveSoftmax.*clone_model.*weights of its own"):
        keras.models.clone_model(functional_with_layer())
    # These can be tied again.
    for kind in ("model", "subclassed", "sampled"):
        model = softmax_model(kind)
        model(X)
        clone = keras.models.clone_model(model)
        clone(X)
        assert clone.head.tied_to is not model.head.tied_to
        body = {id(variable) for variable in clone.backbone.variables}
        assert {id(variable) for variable in clone.head.tied_to.variables} <= body
        assert clone.count_params() == model.count_params()
    clone = keras.models.clone_model(functional_with_tensors())
    assert clone.count_params() == functional_with_tensors().count_params()


@pytest.mark.parametrize("kind", SHARED)
def test_a_lone_configuration_is_refused(kind):
    head = head_of(MODELS[kind]())
    config = head.get_config()
    with pytest.raises(
        ValueError, match=rf"tied {type(head).__name__}.*from_config\(\{{\*\*config"
    ):
        type(head).from_config(config)
    copy = type(head).from_config({**config, "tied_to": head.tied_to})
    assert copy.tied_to is head.tied_to


def test_freezing_the_head_leaves_the_embedding():
    model = softmax_model("model")
    model(X)
    model.backbone.layers[0].tables[1].trainable = False
    count = len(model.trainable_variables)
    own = 4 + 2  # biases, cluster_kernel and cluster_bias
    model.head.trainable = False
    assert len(model.trainable_variables) == count - own
    assert not model.head.trainable and model.backbone.layers[0].trainable
    assert not model.backbone.layers[0].tables[1].trainable
    model.head.trainable = True
    assert len(model.trainable_variables) == count


@pytest.mark.parametrize(
    ("given", "options", "message"),
    [
        ([], {"bind_embeddings": True}, r"4 tensors for each of \['tables'\].*0 tensors"),
        ([(5, 32)], {"bind_embeddings": True}, r"Received: 1 tensors"),
        (
            [(5, 32), (10, 16), (10, 8), (5, 4)],
            {"bind_embeddings": True, "bind_projections": True},
            r"each of \['tables', 'projections'\].*4 tensors",
        ),
        (
            [(5, 32), (10, 16), (11, 8), (5, 4)],
            {"bind_embeddings": True},
            r"cluster 2 shape \(10, 8\).*\(11, 8\)",
        ),
        ([(5, 32)] * 4, {}, r"for each of \[\].*4 tensors"),
    ],
)
def test_tensors_that_do_not_fit(given, options, message):
    head = AdaptiveSoftmax(32, 30, **OPTIONS, **options)
    inputs = [keras.Input((None, 32)), *(keras.KerasTensor(shape) for shape in given)]
    with pytest.raises(ValueError, match=message):
        head(inputs)


def test_projections_alone_are_bound():
    """Only the projections returned, only the projections bound: no table is taken for one."""
    tokens = keras.Input((None,), dtype="int32")
    embedding = AdaptiveEmbedding(30, 32, return_projections=True, **OPTIONS)
    embedded, *projections = embedding(tokens)
    assert [tuple(one.shape) for one in projections] == [(32, 32), (16, 32), (8, 32), (4, 32)]
    head = AdaptiveSoftmax(32, 30, bind_projections=[False, True, True, False], **OPTIONS)
    model = keras.Model(tokens, [embedded, head([embedded, *projections])])
    embedded, probabilities = model.predict(X, verbose=0)
    tied = AdaptiveSoftmax(
        32,
        30,
        tied_to=embedding,
        bind_embeddings=False,
        bind_projections=[False, True, True, False],
        **OPTIONS,
    )
    tied.build(None)
    for mine, other in zip(tied._trainable_variables, head._trainable_variables):
        mine.assign(other)
    np.testing.assert_allclose(tied(embedded), probabilities, rtol=1e-5, atol=1e-7)


def test_clusters_without_a_projection_return_a_placeholder():
    layer = AdaptiveEmbedding(
        30, 32, force_projection=False, return_embeddings=True, return_projections=True, **OPTIONS
    )
    returned = layer(X)
    assert len(returned) == 1 + 4 + 4 and returned[5].shape == ()
    plain = AdaptiveEmbedding(
        30, 32, cutoffs=[5, 15], return_embeddings=True, return_projections=True
    )
    assert [tuple(one.shape) for one in plain(X)] == [(4, 7, 32), (5, 32), (10, 32), (15, 32)]
