"""AdaptiveSoftmax against the oracle, over a table of configurations and of target distributions.

D width of the hidden states, V vocabulary.
"""

import itertools
import json
from typing import NamedTuple

import keras
import numpy as np
import pytest
import tensorflow as tf

from adaptive import AdaptiveEmbedding, AdaptiveSoftmax, cross_entropy
from tests.reference import adaptive as oracle

pytestmark = pytest.mark.usefixtures("graphs_as_written")

D, SHAPE = 19, (3, 7)
V, CUTOFFS = 31, (3, 24)  # of the tests that need no table


class Case(NamedTuple):
    vocab_size: int
    both: dict  # arguments of the embedding and of the softmax
    binds: tuple | None  # of tables and of projections; None: no embedding to tie to
    chunk_bytes: int  # 1: chunks of 8 rows
    use_bias: bool
    jit_compile: bool | None  # None: eagerly


def draw_cases(number):
    """Every value of every option occurs; the combinations and the cutoffs are drawn."""
    random = np.random.default_rng(259)

    def column(*values):
        return random.permutation(list(itertools.islice(itertools.cycle(values), number))).tolist()

    for vocab_size, embed_dim, div_val, forced, num_cutoffs, ties, *rest in zip(
        column(11, 23, 31),
        column(None, 17, 23),  # as wide as the hidden states, narrower, wider
        column(1, 2, 4),
        column(None, True, False),
        column(0, 1, 2, 3),
        column("none", "all", "some", "some"),
        column(1, 2**26),  # chunk_bytes
        column(True, False),  # use_bias
        column(False, True, None),  # jit_compile
    ):
        num_cutoffs = min(num_cutoffs, 2) if div_val == 4 else num_cutoffs
        cutoffs = sorted(random.choice(np.arange(1, vocab_size), num_cutoffs, False).tolist())
        binds = tuple((random.random(num_cutoffs + 1) < 0.5).tolist() for _ in range(2))
        binds = {"none": None, "all": (True, True), "some": binds}[ties]
        both = dict(cutoffs=cutoffs, embed_dim=embed_dim, div_val=div_val, force_projection=forced)
        yield Case(vocab_size, both, binds, *rest)


# The last one has clusters of one word each, as the head and after it, and no projections.
CASES = [
    *draw_cases(6),
    Case(11, dict(cutoffs=(1, 2)), ([True, False, True], False), 1, True, None),
]


def randomize(*layers):
    """Draws of one size, since initial biases are 0 and initial tables small."""
    random = np.random.default_rng(0)
    for variable in {id(w): w for layer in layers for w in layer.weights}.values():
        variable.assign(random.normal(size=variable.shape) * 0.5)


def make(cutoffs=CUTOFFS, **kwargs):
    """A softmax, built, with weights large enough to matter."""
    head = AdaptiveSoftmax(D, V, cutoffs=cutoffs, div_val=2, **kwargs)
    head.build(None)
    randomize(head)
    return head


def parameters(head):
    """The oracle's arguments."""
    lists = (head.tables, head.biases, head.projections)
    arrays = [[None if w is None else w.numpy() for w in weights] for weights in lists]
    rest = (head.cluster_kernel, head.cluster_bias)
    return (*arrays, *(None if w is None else w.numpy() for w in rest))


def target_distributions(clusters):
    random = np.random.default_rng(1)
    vocab_size, (*_, last), count = clusters.vocab_size, clusters.starts, np.prod(SHAPE)
    zipf = 1 / np.arange(1, vocab_size + 1)
    edges = [*clusters.starts, *(start - 1 for start in clusters.cutoffs), vocab_size - 1]
    yield "zipf", random.choice(vocab_size, count, p=zipf / zipf.sum())
    yield "head", random.integers(0, clusters.shortlist, count)
    yield "last tail", random.integers(last, vocab_size, count)
    yield "boundaries", np.resize(edges, count)
    yield "no middle", random.choice([0, last], count)


def close(actual, expected, message=""):
    np.testing.assert_allclose(actual, expected, rtol=1e-5, atol=1e-5, err_msg=message)


def draw():
    random = np.random.default_rng(3)
    hidden = random.normal(size=(*SHAPE, D)).astype(np.float32)
    weights = random.normal(size=SHAPE).astype(np.float32)
    weights[:, ::3] = 0
    return hidden, weights


@pytest.mark.parametrize("case", CASES)
def test_against_the_oracle(case, monkeypatch):
    monkeypatch.setattr(cross_entropy, "CHUNK_BYTES", case.chunk_bytes)
    embedding = AdaptiveEmbedding(case.vocab_size, D, **case.both)
    embedding.build(None)
    ties = {}
    if case.binds is not None:
        ties = dict(zip(("bind_embeddings", "bind_projections"), case.binds), tied_to=embedding)
    head = AdaptiveSoftmax(D, case.vocab_size, use_bias=case.use_bias, **case.both, **ties)
    head.build(None)
    randomize(embedding, head)
    cutoffs = case.both["cutoffs"]
    for ours, theirs, bind in (
        (head.tables, embedding.tables, head.bind_embeddings),
        (head.projections, embedding.projections, head.bind_projections),
    ):
        assert all(o is None or (o is t) == b for o, t, b in zip(ours, theirs, bind))
    variables = {id(w): w for w in embedding.weights + head.weights}

    def train(hidden, ids, targets, weights):
        def gradients(compute, **kwargs):
            with tf.GradientTape() as tape:
                tape.watch(hidden)
                result = compute(hidden + embedding(ids))
            sources = [hidden, *variables.values()]
            slopes = tape.gradient(result, sources, unconnected_gradients="zero", **kwargs)
            return result, [tf.convert_to_tensor(slope) for slope in slopes]

        return (
            gradients(lambda states: head.loss(states, targets, weights, training=True)),
            gradients(lambda states: head.nll(states, targets), output_gradients=weights),
        )

    if case.jit_compile is not None:
        train = tf.function(train, jit_compile=case.jit_compile, autograph=False)
    hidden, weights = draw()
    ids = np.random.default_rng(5).integers(0, case.vocab_size, SHAPE)
    arguments = parameters(head)
    embedding_tables = [w.numpy() for w in embedding.tables]
    embedding_projections = [None if w is None else w.numpy() for w in embedding.projections]
    states = hidden + oracle.embed(ids, embedding_tables, embedding_projections)
    log_prob = head.log_prob(states)
    close(log_prob, oracle.log_prob(states, *arguments))
    close(np.exp(np.float64(log_prob)).sum(-1), np.ones(SHAPE))

    for name, targets in target_distributions(head.clusters):
        targets = targets.reshape(SHAPE)
        expected_nll = oracle.nll(states, targets, *arguments)
        share = oracle.nll_gradients(states, targets, weights, *arguments)
        expected = {key: np.zeros(w.shape) for key, w in variables.items()}
        ours = (*head.tables, *head.biases, *head.projections)
        slopes = (*share.tables, *share.biases, *share.projections)
        for variable, slope in zip(
            (*ours, head.cluster_kernel, head.cluster_bias),
            (*slopes, share.cluster_kernel, share.cluster_bias),
        ):
            if variable is not None:
                expected[id(variable)] += slope
        # The embedding's share, by hand: of the row of each id, and of its cluster's projection.
        for word, slope in zip(ids.ravel(), share.hidden.reshape(-1, D)):
            i = int(np.searchsorted(cutoffs, word, side="right"))
            row, projection = word - (0, *cutoffs)[i], embedding_projections[i]
            to_row = slope if projection is None else projection @ slope
            expected[id(embedding.tables[i])][row] += to_row
            if projection is not None:
                to_projection = np.outer(embedding_tables[i][row], slope)
                expected[id(embedding.projections[i])] += to_projection

        tensors = [tf.constant(x) for x in (hidden, ids, targets, weights)]
        (loss, by_loss), (nll, by_nll) = train(*tensors)
        evaluated = head.loss(states, targets, weights, training=False)
        close(nll, expected_nll, name)
        close(loss, np.sum(weights * expected_nll), name)
        close(evaluated, np.sum(weights * expected_nll), name)
        for by in (by_loss, by_nll):
            for slope, wanted in zip(by, [share.hidden, *expected.values()]):
                close(slope, wanted, name)


@pytest.mark.parametrize("shape", [(5,), (5, 3), (5, 3, 2), (0, 3)])
def test_any_rank_in_the_order_of_the_input(shape):
    head = make()
    random = np.random.default_rng(6)
    hidden, weights = random.normal(size=(*shape, D)), random.normal(size=shape)
    targets = random.integers(0, V, shape)
    expected = oracle.nll(hidden, targets, *parameters(head)).reshape(shape)
    close(head.nll(hidden, targets), expected)
    close(head.loss(hidden, targets, weights), np.sum(weights * expected))
    close(head.loss(hidden, targets, training=True), np.sum(expected))


def test_probabilities():
    head = make()
    hidden, _ = draw()
    expected = np.exp(oracle.log_prob(hidden, *parameters(head)))
    np.testing.assert_allclose(head(hidden), expected, rtol=2e-5)
    log_prob = tf.function(head.log_prob, jit_compile=True, autograph=False)(hidden)
    np.testing.assert_allclose(np.exp(log_prob), expected, rtol=2e-5)
    output = head(keras.Input((None, D)))
    assert (output.shape, output.dtype) == ((None, None, V), "float32")


@pytest.mark.parametrize("jit_compile", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_tails_without_targets_are_not_computed(jit_compile):
    """Not even multiplied by zero: a tail full of NaN does not show until a target is in it."""
    head = make()
    hidden, weights = draw()
    others = [w for w in head.weights if not w.name.endswith("_1")]

    @tf.function(jit_compile=jit_compile, autograph=False)
    def run(targets):
        with tf.GradientTape() as tape:
            loss = head.loss(hidden, targets, weights, training=True)
        slopes = tape.gradient(loss, others + [head.tables[1]])
        with tf.GradientTape() as tape:
            nll = head.nll(hidden, targets)
        return nll, loss, slopes, tape.gradient(nll, others, output_gradients=weights)

    targets = np.resize([0, 2, 24, 30], SHAPE)  # 3 .. 23 are tail 1
    before = run(tf.constant(targets))
    for weight in (head.tables[1], head.biases[1]):
        weight.assign(np.full(weight.shape, np.nan))
    after = run(tf.constant(targets))
    for one, other in zip(tf.nest.flatten(before), tf.nest.flatten(after)):
        np.testing.assert_array_equal(one, other)
    assert np.all(np.isfinite(after[0]))
    np.testing.assert_array_equal(after[2][-1], np.zeros(head.tables[1].shape))

    targets[1, 2] = 3
    nll, loss, *_ = run(tf.constant(targets))
    np.testing.assert_array_equal(np.argwhere(np.isnan(nll)), [[1, 2]])
    assert np.isnan(loss)


def test_each_tail_is_computed_for_its_own_tokens(monkeypatch):
    computed = []
    chunk = cross_entropy._chunk

    def spy(inputs, table, *rest):
        computed.append((len(table), len(inputs)))
        return chunk(inputs, table, *rest)

    monkeypatch.setattr(cross_entropy, "_chunk", spy)
    monkeypatch.setattr(cross_entropy, "CHUNK_BYTES", 1)
    targets = np.array([0] * 10 + [5] * 9 + [30] * 2)  # none in tail 1, 9 in tail 2, 2 in tail 3
    make(cutoffs=(3, 5, 24)).nll(draw()[0].reshape(-1, D), targets)
    # The head has 3 words, its columns apart; tails 2 and 3 have 19 and 7 words. In chunks of 8.
    assert computed == [(3, 8)] * 3 + [(19, 8)] * 2 + [(7, 8)]


# AutoGraph, which test_cross_entropy.py has read the losses, takes twice the time.
@pytest.mark.parametrize("autograph", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_sizes_known_only_at_run_time(autograph):
    """And weights made on first use, inside a function."""
    head = AdaptiveSoftmax(D, V, cutoffs=(5,), div_val=2)
    ids, floats = (tf.TensorSpec([None, None], dtype) for dtype in (tf.int32, tf.float32))
    signature = [tf.TensorSpec([None, None, D]), ids, floats]

    @tf.function(input_signature=signature, autograph=autograph)
    def run(hidden, targets, weights):
        nll, log_prob = head.nll(hidden, targets), head.log_prob(hidden)
        assert (nll.shape.rank, log_prob.shape[-1]) == (2, V)
        losses = [head.loss(hidden, targets, weights, training=x) for x in (True, False)]
        return nll, log_prob, losses

    hidden, weights = draw()
    targets = np.resize([0, 30, 4, 17], SHAPE).astype(np.int32)
    nll, log_prob, losses = run(hidden, targets, weights)
    close(nll, oracle.nll(hidden, targets, *parameters(head)))
    close(log_prob, oracle.log_prob(hidden, *parameters(head)))
    close(losses, [np.sum(weights * nll)] * 2)
    with pytest.raises(tf.errors.InvalidArgumentError):  # rather than broadcast
        run(hidden, targets, weights[:1, :1])


def test_mixed_precision():
    head, exact = make(dtype="mixed_bfloat16"), make()
    assert {w.dtype for w in head.weights} == {"float32"}
    assert head(keras.Input((D,))).dtype == "float32"
    hidden, weights = draw()
    targets = np.resize([0, 30, 4, 17], SHAPE)
    results = (head.nll(hidden, targets), head.log_prob(hidden), head(hidden))
    assert {x.dtype for x in (*results, head.loss(hidden, targets, weights))} == {tf.float32}
    error = np.abs(results[0] - exact.nll(hidden, targets))
    # Half a unit in 8 bits of the largest logit, 14, twice, for the inputs and for the product; in
    # the target's logit and in the normaliser. Most roundings are smaller.
    assert 0 < np.max(error) < 4 * 2**-9 * 14
    assert np.mean(error) < 2**-9 * 14


def test_config_round_trip():
    embedding = AdaptiveEmbedding(V, D, cutoffs=CUTOFFS, div_val=2)
    head = make(use_bias=False, tied_to=embedding, bind_projections=[True, False, True])
    config = json.dumps(head.get_config())
    copy = AdaptiveSoftmax.from_config({**json.loads(config), "tied_to": embedding})
    assert json.dumps(copy.get_config()) == config
    copy.build(None)
    assert [w.shape for w in copy.weights] == [w.shape for w in head.weights]
    assert copy.tables[1] is embedding.tables[1]


@pytest.mark.parametrize(
    ("width", "targets", "weights_shape", "message"),
    [
        (D, np.zeros((3, 7)), None, r"must be integer ids.*float64"),
        (D, np.zeros((7, 3), int), None, r"without the last axis.*\(7, 3\)"),
        (D, np.zeros(21, int), None, r"without the last axis"),
        (D + 1, np.zeros((3, 7), int), None, r"must be input_dim=19 wide.*\(3, 7, 20\)"),
        (D, np.full((3, 7), V), None, r"AdaptiveSoftmax must be ids from 0 to 30.*31 to 31"),
        (D, np.full((3, 7), -100), None, r"AdaptiveSoftmax must be ids from 0 to 30.*from -100"),
        (D, np.zeros((3, 7), int), (7, 3), r"sample_weight must have the shape.*\(7, 3\)"),
        (D, np.zeros((3, 7), int), 3, r"sample_weight must have the shape.*\(3,\)"),
    ],
)
def test_refused_inputs(width, targets, weights_shape, message):
    head, hidden = make(), np.zeros((3, 7, width), np.float32)
    weights = None if weights_shape is None else np.ones(weights_shape)
    with pytest.raises(ValueError, match=message):
        head.loss(hidden, targets, weights, training=True)
    if weights is None:
        with pytest.raises(ValueError, match=message):
            head.nll(hidden, targets)


def test_hidden_states_of_another_width_are_refused():
    # Twice the width could be reshaped to twice as many tokens.
    for hidden in (np.zeros((3, 2 * D), np.float32), keras.Input((2 * D,))):
        with pytest.raises(ValueError, match=r"input_dim=19 wide.*38"):
            make()(hidden)


@pytest.mark.parametrize("method", ["nll", "loss", "log_prob"])
def test_methods_refuse_symbolic_tensors(method):
    targets = [] if method == "log_prob" else [keras.Input((7,), dtype="int32")]
    with pytest.raises(ValueError, match=r"Call the layer itself there.*SoftmaxModel"):
        getattr(make(), method)(keras.Input((7, D)), *targets)
