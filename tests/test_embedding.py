"""AdaptiveEmbedding against the oracle; as a Keras layer; tied to an AdaptiveSoftmax.

V vocabulary, D output width, E a cluster's embedding width.
"""

import itertools
import json
import zipfile

import h5py
import keras
import numpy as np
import pytest
import tensorflow as tf

from adaptive import AdaptiveEmbedding, AdaptiveSoftmax
from tests.reference import adaptive as oracle

V, D = 29, 19
TAILS = (3, 5, 24)

# cutoffs, embed_dim, div_val, force_projection: and which clusters then have projections.
CASES = {
    "no_cutoffs": ((), None, 1, None, (False,)),
    "no_cutoffs_div2": ((), None, 2, None, (True,)),
    "no_cutoffs_narrow": ((), 7, 1, None, (True,)),
    "div1": ((5, 11), None, 1, None, (False,) * 3),
    "div1_forced": ((5, 11), None, 1, True, (True,) * 3),
    "div1_narrow": ((5, 11), 17, 1, False, (True,) * 3),
    "div2": ((3, 4, 23), None, 2, None, (True,) * 4),
    "div2_not_forced": ((3, 4, 23), None, 2, False, (False, True, True, True)),
    "div4_wide": ((1, 28), 23, 4, None, (True,) * 3),
    "div4_narrow": ((1, 2), 16, 4, True, (True,) * 3),
    "fraction": ((13,), 37, 1.9, False, (True, False)),  # 37 // 1.9 is 19
}


def make(case, **kwargs):
    cutoffs, embed_dim, div_val, force_projection, _ = CASES[case]
    return AdaptiveEmbedding(V, D, embed_dim, cutoffs, div_val, force_projection, **kwargs)


def randomize(layer, seed=0):
    """Draws of one size, since initial values are so small that a wrong row would look right."""
    random = np.random.default_rng(seed)
    for weight in layer.weights:
        weight.assign(random.normal(size=weight.shape))
    return layer


def arrays(variables):
    return [None if variable is None else variable.numpy() for variable in variables]


def boundaries(layer):
    """Every cluster's first and last id, and the id 7 three times."""
    starts = layer.clusters.starts
    return np.array([*starts, *(start - 1 for start in (*starts[1:], V)), 7, 7, 7], np.int32)


@pytest.mark.parametrize("case", CASES)
def test_vectors_and_gradients(case):
    layer = make(case)
    layer.build(None)
    randomize(layer)
    assert tuple(p is not None for p in layer.projections) == CASES[case][-1]
    ids = boundaries(layer)
    upstream = np.random.default_rng(1).normal(size=(len(ids), D)).astype(np.float32)

    @tf.function(jit_compile=case in ("div1", "div4_wide"), autograph=False)
    def run(ids):
        with tf.GradientTape() as tape:
            vectors = layer(ids)
        return vectors, [
            tf.convert_to_tensor(gradient)
            for gradient in tape.gradient(
                vectors, layer.trainable_variables, output_gradients=upstream
            )
        ]

    vectors, gradients = run(tf.constant(ids))
    tables, projections = arrays(layer.tables), arrays(layer.projections)
    expected = oracle.embed(ids, tables, projections)
    np.testing.assert_allclose(vectors, expected, rtol=1e-5, atol=1e-5)

    # By hand: each id adds its upstream gradient to its row, and to its cluster's projection.
    expected_tables = [np.zeros(table.shape) for table in tables]
    expected_projections = [p if p is None else np.zeros(p.shape) for p in projections]
    for word, slope in zip(ids, upstream):
        cluster = int(np.searchsorted(CASES[case][0], word, side="right"))
        row = word - (0, *CASES[case][0])[cluster]
        projection = projections[cluster]
        expected_tables[cluster][row] += slope if projection is None else projection @ slope
        if projection is not None:
            expected_projections[cluster] += np.outer(tables[cluster][row], slope)
    expected_gradients = expected_tables + [p for p in expected_projections if p is not None]
    assert len(gradients) == len(expected_gradients)
    for actual, wanted in zip(gradients, expected_gradients):
        np.testing.assert_allclose(actual, wanted, rtol=1e-5, atol=1e-5)


def test_ids_of_any_rank_and_integer_dtype():
    layer = make("div2")
    layer.build(None)
    randomize(layer)
    ids = np.arange(24).reshape(2, 3, 4)
    expected = oracle.embed(ids, arrays(layer.tables), arrays(layer.projections))
    for dtype in ("int8", "uint8", "int16", "uint16", "int32", "uint32", "int64"):
        np.testing.assert_allclose(layer(tf.constant(ids, dtype)), expected, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(layer(ids[1]), expected[1], rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(layer(ids[1, 2]), expected[1, 2], rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(layer(tf.constant(23)), expected[1, 2, 3], rtol=1e-5, atol=1e-5)
    assert layer(np.zeros((0, 3), np.int32)).shape == (0, 3, D)


def test_small_dtypes_in_a_large_vocabulary():
    """No cutoff or table size has to fit into the dtype of the ids."""
    layer = AdaptiveEmbedding(300, D, cutoffs=(17, 280))
    ids = np.array([0, 16, 17, 127])
    np.testing.assert_array_equal(layer(tf.constant(ids, tf.int8)), layer(ids))


def test_symbolic_calls_know_shape_and_dtype():
    layer = make("div2")
    for shape in ((None,), (7,), (None, 5)):
        output = layer(keras.Input(shape, dtype="int32"))
        assert output.shape == (None, *shape, D)
        assert output.dtype == "float32"


@pytest.mark.parametrize("case", ["div1", "div2"])
def test_each_cluster_has_variables_of_its_own(case):
    layer = make(case)
    layer.build(None)
    cutoffs, _, div_val, _, has_projection = CASES[case]
    widths = [D // div_val**i for i in range(len(cutoffs) + 1)]
    sizes = np.diff([0, *cutoffs, V])
    assert [tuple(table.shape) for table in layer.tables] == list(zip(sizes, widths))
    assert [p if p is None else tuple(p.shape) for p in layer.projections] == [
        (width, D) if has else None for width, has in zip(widths, has_projection)
    ]
    assert len(layer.trainable_variables) == len(sizes) + sum(has_projection)


def test_tables_have_sparse_gradients():
    """Not the size of the table, also at div_val=1: the reason for one variable per cluster."""
    layer = make("div1")
    with tf.GradientTape() as tape:
        vectors = layer(np.array([[0, 6, 28]]))
    for gradient in tape.gradient(vectors, layer.trainable_variables):
        assert isinstance(gradient, tf.IndexedSlices)
        assert gradient.values.shape == (3, D)


def test_mixed_precision():
    layer = make("div2", dtype="mixed_bfloat16")
    layer.build(None)
    randomize(layer)
    assert {weight.dtype for weight in layer.weights} == {"float32"}
    ids = boundaries(layer)
    vectors = layer(ids)
    assert vectors.dtype == tf.bfloat16
    assert layer(keras.Input((None,), dtype="int32")).dtype == "bfloat16"
    tables, projections = arrays(layer.tables), arrays(layer.projections)
    # Both factors and the result are rounded, by half a unit in the last of 8 bits each.
    sizes = oracle.embed(ids, [abs(t) for t in tables], [abs(p) for p in projections])
    error = np.abs(np.float64(vectors) - oracle.embed(ids, tables, projections))
    assert np.all(error <= 3.1 * 2**-8 * sizes)
    assert np.max(error) > 0


def test_a_mixed_model_around_them_does_not_cast_their_weights():
    """That would cast whole tables and make their gradients dense, and it would round biases."""

    class Outer(keras.Model):
        def __init__(self):
            super().__init__(dtype="mixed_bfloat16")
            self.embedding = make("div1", dtype="float32")
            self.head = AdaptiveSoftmax(
                D, V, bias_initializer=lambda *_, **__: 1 / np.arange(1, V + 1), dtype="float32"
            )

        def call(self, ids):
            vectors = self.embedding(ids)
            return vectors, self.head.log_prob(vectors)

    model = Outer()
    ids = np.array([[0, 6, 28]])
    with tf.GradientTape() as tape:
        vectors, log_prob = model(ids)
    for gradient in tape.gradient(vectors, model.embedding.trainable_variables):
        assert isinstance(gradient, tf.IndexedSlices)
    assert vectors.dtype == log_prob.dtype == tf.float32
    np.testing.assert_array_equal(vectors, model.embedding(ids))
    np.testing.assert_array_equal(log_prob, model.head.log_prob(vectors))


def test_weights_start_different():
    """One initializer object draws for all clusters, and each draw has to be its own."""
    shared = keras.initializers.RandomNormal()
    # Tables of 9 words each, and square projections of the same shape.
    options = dict(cutoffs=(9, 18), force_projection=True, kernel_initializer=shared)

    def start():
        embedding = AdaptiveEmbedding(27, 9, embeddings_initializer=shared, **options)
        head = AdaptiveSoftmax(9, 27, embeddings_initializer=shared, use_bias=False, **options)
        embedding.build(None)
        head.build(None)
        return arrays(embedding.weights + head.weights)

    keras.utils.set_random_seed(1)
    first, others = start(), start()
    for one, other in itertools.combinations(first + others, 2):
        assert not np.array_equal(one, other)
    keras.utils.set_random_seed(1)
    for one, again in zip(first, start()):
        np.testing.assert_array_equal(one, again)
    keras.utils.set_random_seed(2)
    for one, other in zip(first, start()):
        assert not np.array_equal(one, other)


@pytest.mark.parametrize("case", CASES)
def test_config_round_trip(case):
    layer = make(case, embeddings_initializer=keras.initializers.RandomNormal(stddev=0.02))
    config = json.dumps(layer.get_config())
    layer.build(None)
    assert json.dumps(layer.get_config()) == config
    copy = AdaptiveEmbedding.from_config(json.loads(config))
    assert json.dumps(copy.get_config()) == config
    copy.build(None)
    assert [w.shape for w in copy.weights] == [w.shape for w in layer.weights]


def test_saving(tmp_path):
    ids = keras.Input((None,), dtype="int32")
    model = randomize(keras.Model(ids, make("div2_not_forced")(ids)))
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    tokens = np.arange(V)[None]
    np.testing.assert_array_equal(loaded(tokens), model(tokens))


@pytest.mark.parametrize(
    ("ids", "message"),
    [
        (np.array([1.0, 2.5]), r"embeds integer ids.*float.*Cast the ids to int32"),
        (np.array([True, False]), r"embeds integer ids.*bool"),
        (np.array([3, V]), rf"AdaptiveEmbedding must be ids from 0 to {V - 1}.*from 3 to {V}"),
        (np.array([-1, 3]), rf"AdaptiveEmbedding must be ids from 0 to {V - 1}.*from -1 to 3"),
    ],
)
def test_refused_ids(ids, message):
    with pytest.raises(ValueError, match=message):
        make("div2")(ids)


@keras.saving.register_keras_serializable(package="test_embedding")
class LanguageModel(keras.Model):
    """As a user writes one: no `build`, and a head that `call` may leave alone."""

    def __init__(self, head_in_call=True, **kwargs):
        super().__init__(**kwargs)
        self.head_in_call = head_in_call
        self.embedding = AdaptiveEmbedding(V, D, cutoffs=TAILS, div_val=2)
        self.dense = keras.layers.Dense(D)
        self.head = AdaptiveSoftmax(D, V, cutoffs=TAILS, div_val=2, tied_to=self.embedding)

    def call(self, ids):
        hidden = self.dense(self.embedding(ids))
        return self.head(hidden) if self.head_in_call else hidden

    def get_config(self):
        return {**super().get_config(), "head_in_call": self.head_in_call}


def functional_model():
    ids = keras.Input((None,), dtype="int32")
    embedding = AdaptiveEmbedding(V, D, cutoffs=TAILS, div_val=2)
    head = AdaptiveSoftmax(D, V, cutoffs=TAILS, div_val=2, tied_to=embedding)
    return keras.Model(ids, head(keras.layers.Dense(D)(embedding(ids))))


@pytest.mark.parametrize(
    "construct", [functional_model, LanguageModel, lambda: LanguageModel(head_in_call=False)]
)
def test_a_saved_model_is_still_tied(construct, tmp_path):
    def parts(model):
        wanted = (AdaptiveEmbedding, keras.layers.Dense, AdaptiveSoftmax)
        return [next(x for x in model.layers if isinstance(x, one)) for one in wanted]

    def probabilities(model, ids):
        embedding, dense, head = parts(model)
        return head(dense(embedding(ids)))

    model, ids = construct(), np.arange(V)[None]
    model(ids)
    probabilities(model, ids)
    randomize(model)
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(probabilities(loaded, ids), probabilities(model, ids))
    embedding, _, head = parts(loaded)
    assert head.tied_to is embedding
    tied = zip(head.tables + head.projections, embedding.tables + embedding.projections)
    assert all(one is other for one, other in tied)
    assert loaded.count_params() == model.count_params()
    assert len(loaded.trainable_variables) == len(model.trainable_variables)

    zipfile.ZipFile(tmp_path / "model.keras").extract("model.weights.h5", tmp_path)
    stored = []
    with h5py.File(tmp_path / "model.weights.h5") as file:
        file.visititems(lambda _, x: stored.append(x.size) if isinstance(x, h5py.Dataset) else None)
    assert sum(stored) == model.count_params()  # each once


@pytest.mark.parametrize(
    ("embedding", "kwargs", "message"),
    [
        ({"cutoffs": (3, 5)}, {}, r"same clusters.*\(3, 5, 24\).*\(3, 5\)"),
        ({"input_dim": 37}, {}, r"same clusters.*vocab_size=29.*vocab_size=37"),
        ({"div_val": 1}, {}, r"same cluster widths.*\(19, 9, 4, 2\).*\(19, 19, 19, 19\)"),
        ({"force_projection": False}, {}, r"Cluster 0 has a projection here and none in the"),
        ({"output_dim": 23, "embed_dim": 19}, {}, r"input_dim=19 here, output_dim=23 in the"),
        ({}, {"bind_embeddings": [True]}, r"bind_embeddings must be.*each of the 4 clusters"),
        (None, {"tied_to": keras.layers.Embedding(V, D)}, r"must be the AdaptiveEmbedding"),
    ],
)
def test_refused_ties(embedding, kwargs, message):
    if embedding is not None:
        options = {"input_dim": V, "output_dim": D, "cutoffs": TAILS, "div_val": 2}
        kwargs = {**kwargs, "tied_to": AdaptiveEmbedding(**{**options, **embedding})}
    with pytest.raises(ValueError, match=message):
        AdaptiveSoftmax(D, V, cutoffs=TAILS, div_val=2, **kwargs)


def test_what_misfits_only_where_it_is_bound_can_be_tied():
    embedding = AdaptiveEmbedding(V, 23, 19, TAILS, 2)
    head = AdaptiveSoftmax(D, V, None, TAILS, 2, tied_to=embedding, bind_projections=False)
    head.build(None)
    assert head.tables == embedding.tables
    assert head.projections[0].shape == (19, D)
    assert len(head.tied_to.weights) == 8
