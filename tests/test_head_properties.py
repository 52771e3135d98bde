"""Costs and gradients of every softmax head against the oracle, over random configurations.

In the manner of property-based tests: a case is drawn from its seed, which is the test's id, so
that a failure names what fails. Ids are the caller's, ranks are places in the head's tables.

D width of the hidden states, V vocabulary, T tokens.
"""

import functools
from typing import NamedTuple

import keras
import numpy as np
import pytest
import tensorflow as tf

import adaptive
from adaptive import AdaptiveEmbedding, cross_entropy
from tests.reference import heads as oracle

pytestmark = pytest.mark.usefixtures("graphs_as_written")

# A part of the cases finds most of what they all find; `make slow` runs the others.
SEEDS = [seed if seed < 12 else pytest.param(seed, marks=pytest.mark.slow) for seed in range(40)]


class Case(NamedTuple):
    head: keras.layers.Layer
    settings: dict  # what the head was made with
    random: np.random.Generator
    hidden: np.ndarray
    targets: np.ndarray  # ids, some of them ignore_index
    upstream: np.ndarray  # what each target's cost counts for

    @property
    def weights(self):
        return oracle_weights(self.head, self.settings.get("id_order"))

    @property
    def ignored(self):
        return self.settings.get("ignore_index")

    @property
    def smoothing(self):
        return self.settings.get("label_smoothing", 0.0)


def draw_case(seed, kind=None, max_size=31, shape=None, **fixed):
    """A built head with random weights, hidden states and targets; `fixed` overrules settings."""
    random = np.random.default_rng(seed)
    kind = kind or ("adaptive", "pytorch", "adaptive", "sampled")[seed % 4]
    vocab_size = int(random.choice([v for v in (2, 5, 11, 23, 31) if v <= max_size]))
    width = int(random.choice([5, 7, 13]))
    cutoffs = draw_cutoffs(random, vocab_size)
    order = random.permutation(vocab_size)
    settings = {"ignore_index": [None, -100, vocab_size + 3, int(order[0])][random.integers(4)]}
    if random.random() < 0.5:
        settings["id_order"] = order
    if kind != "sampled" and random.random() < 0.5:
        settings["label_smoothing"] = float(random.choice([0.1, 0.37]))
    settings |= fixed
    make = {"adaptive": make_adaptive, "pytorch": make_pytorch, "sampled": make_sampled}[kind]
    head = make(random, vocab_size, width, cutoffs, settings)

    if shape is None:
        shape = [(), (1,), (0,), (11,), (11,), (2, 3), (2, 3), (2, 1, 5)][random.integers(8)]
    hidden = random.normal(size=(*shape, width)).astype(np.float32)
    targets = draw_targets(random, shape, [0, *cutoffs, vocab_size])
    targets = np.asarray(settings.get("id_order", np.arange(vocab_size)))[targets]
    if settings["ignore_index"] is not None:
        targets = np.where(random.random(shape) < 0.3, settings["ignore_index"], targets)
    upstream = (random.normal(size=shape) * (random.random(shape) < 0.8)).astype(np.float32)
    return Case(head, settings, random, hidden, targets.astype(np.int32), upstream)


def draw_cutoffs(random, vocab_size):
    """None, some anywhere, or a run of them, which makes clusters of one word."""
    number = min(int(random.integers(5)), vocab_size - 1)
    if random.random() < 0.3:
        first = random.choice([1, vocab_size - number])
        return list(range(first, first + number))
    return sorted(random.choice(np.arange(1, vocab_size), number, replace=False).tolist())


def draw_targets(random, shape, edges):
    """Ranks: anywhere, at the clusters' edges, in one cluster, in all but one, all the same."""
    vocab_size = edges[-1]
    cluster = random.integers(len(edges) - 1)
    inside = np.arange(edges[cluster], edges[cluster + 1])
    outside = np.setdiff1d(np.arange(vocab_size), inside)
    pools = [
        np.arange(vocab_size),
        np.unique([*edges[:-1], *(np.array(edges[1:]) - 1)]),
        np.arange(edges[1]),
        inside,
        outside if len(outside) else inside,
        inside[:1],
    ]
    return random.choice(pools[random.integers(len(pools))], shape)


def make_adaptive(random, vocab_size, width, cutoffs, settings):
    embed_dim = [None, 17, 5][random.integers(3)]
    div_val = [1, 1, 2, 4, 1.5][random.integers(5)]
    while (embed_dim or width) // div_val ** len(cutoffs) < 1:
        cutoffs.pop()
    both = dict(embed_dim=embed_dim, cutoffs=cutoffs, div_val=div_val)
    both["force_projection"] = [None, True, False][random.integers(3)]
    ties, embedding = {}, None
    if random.random() < 0.6:
        order = {k: v for k, v in settings.items() if k == "id_order"}
        embedding = AdaptiveEmbedding(vocab_size, width, **both, **order)
        embedding.build(None)
        binds = random.random((2, len(cutoffs) + 1)) < 0.7
        ties = dict(zip(("bind_embeddings", "bind_projections"), binds.tolist()))
        ties["tied_to"] = embedding
    use_bias = bool(random.random() < 0.7)
    head = adaptive.AdaptiveSoftmax(
        width, vocab_size, **both, use_bias=use_bias, **ties, **settings
    )
    head.build(None)
    assert all((bias is not None) == use_bias for bias in head.biases or [None])
    if embedding is not None:
        for ours, theirs, bound in zip(head.tables, embedding.tables, ties["bind_embeddings"]):
            assert (ours is theirs) == bound
    randomize(random, head, embedding)
    return head


def make_pytorch(random, vocab_size, width, cutoffs, settings):
    div_value = float(random.choice([1.0, 2.0, 4.0, 1.5]))
    while width // div_value ** len(cutoffs) < 1:
        cutoffs.pop()
    head_bias = bool(random.random() < 0.5)
    head = adaptive.AdaptiveLogSoftmaxWithLoss(
        width, vocab_size, cutoffs, div_value, head_bias=head_bias, **settings
    )
    head.build(None)
    assert (head.head_biases is not None) == head_bias
    randomize(random, head)
    return head


def make_sampled(random, vocab_size, width, cutoffs, settings):
    """All ids are candidates, so that the sampled loss is the full one."""
    sampler = str(random.choice(["log_uniform", "uniform", "unigram"]))
    counts = random.integers(1, 50, vocab_size) if sampler == "unigram" else None
    settings = {"num_sampled": vocab_size, "input_dim": width, **settings}
    head = adaptive.SampledSoftmax(
        num_classes=vocab_size, sampler=sampler, counts=counts, **settings
    )
    head.build((None, width))
    randomize(random, head)
    return head


def randomize(random, *layers, scale=0.5):
    """Initial biases are 0, and initial tables small."""
    for layer in filter(None, layers):
        for variable in layer.trainable_weights:
            variable.assign(random.normal(size=variable.shape) * scale)


def oracle_weights(head, id_order=None):
    """The oracle's view of any head's weights."""

    def numpy(value):
        if isinstance(value, (tuple, list)):
            return [numpy(item) for item in value]
        return None if value is None else np.asarray(value)

    if hasattr(head, "head_kernel"):
        names = ("head_kernel", "head_biases", "projections", "tables")
        return oracle.from_pytorch(*(numpy(getattr(head, name)) for name in names), id_order)
    if isinstance(head, adaptive.AdaptiveSoftmax):
        names = ("tables", "biases", "projections", "cluster_kernel", "cluster_bias")
        return oracle.Weights(*(numpy(getattr(head, name)) for name in names), id_order)
    bias = None if head.bias is None else [numpy(head.bias)]
    return oracle.Weights([numpy(head.kernel)], bias)  # by id, whatever the order


def variables_and_slopes(head, slopes):
    """Pairs of a variable of the head and the gradient the oracle has for it."""
    if hasattr(head, "head_kernel"):
        yield head.head_kernel, np.concatenate([slopes.tables[0], slopes.cluster_kernel])
        if head.head_biases is not None:
            yield head.head_biases, np.concatenate([slopes.biases[0], slopes.cluster_bias])
        pairs = [(head.tables[1:], slopes.tables[1:])]
        pairs += [(head.projections[1:], slopes.projections[1:])]
    elif isinstance(head, adaptive.AdaptiveSoftmax):
        names = ("tables", "biases", "projections")
        pairs = [(getattr(head, name) or [], getattr(slopes, name)) for name in names]
        pairs += [([getattr(head, n)], [getattr(slopes, n)]) for n in slopes._fields[-2:]]
    else:
        pairs = [([head.kernel], slopes.tables), ([head.bias], slopes.biases)]
    for variables, gradients in pairs:
        yield from ((v, g) for v, g in zip(variables, gradients) if v is not None)


def close(actual, expected, tolerance=1e-5, message=""):
    """To 1e-5 of the largest value that is expected, or of 1."""
    actual, expected = np.asarray(actual, np.float64), np.asarray(expected, np.float64)
    assert actual.shape == expected.shape, message
    scale = max(1.0, np.max(np.abs(expected), initial=0.0))
    np.testing.assert_allclose(actual, expected, rtol=0, atol=tolerance * scale, err_msg=message)


def check_gradients(case, compute, expected_value, slopes, output_gradients=None, message=""):
    """Value and gradients of compute(hidden), of the hidden states and of every weight."""
    pairs = list(variables_and_slopes(case.head, slopes))
    known = {id(variable) for variable, _ in pairs}
    # What a tied embedding has and the head does not use.
    others = [w for w in case.head.trainable_weights if id(w) not in known]
    pairs += [(w, np.zeros(w.shape)) for w in others]
    hidden = tf.constant(case.hidden)
    with tf.GradientTape() as tape:
        tape.watch(hidden)
        value = compute(hidden)
    assert value.dtype == tf.float32
    close(value, expected_value, message=message)
    sources = [hidden, *(variable.value for variable, _ in pairs)]
    seeds = None if output_gradients is None else tf.constant(output_gradients)
    actual = tape.gradient(value, sources, seeds, unconnected_gradients="zero")
    names = ["hidden", *(variable.path for variable, _ in pairs)]
    for name, one, other in zip(names, actual, [slopes.hidden, *(slope for _, slope in pairs)]):
        close(tf.convert_to_tensor(one), other, message=f"{message}: {name}")
    if case.ignored is not None:
        nothing = np.asarray(actual[0])[case.targets == case.ignored]
        np.testing.assert_array_equal(nothing, np.zeros_like(nothing))


@pytest.mark.parametrize("seed", SEEDS)
def test_costs_and_gradients(seed, monkeypatch):
    monkeypatch.setattr(cross_entropy, "CHUNK_BYTES", [1, 2**26][seed % 2])
    case = draw_case(seed)
    head, weights, targets, upstream = case.head, case.weights, case.targets, case.upstream
    for training in (None, True):
        smoothing = case.smoothing if training else 0.0
        arguments = (weights, smoothing, case.ignored)
        nll = oracle.nll(case.hidden, targets, *arguments)
        slopes = oracle.nll_gradients(case.hidden, targets, upstream, *arguments)
        kwargs = dict(targets=targets, training=training)
        by_nll = functools.partial(head.nll, **kwargs)
        by_loss = functools.partial(head.loss, sample_weight=upstream, **kwargs)
        check_gradients(case, by_nll, nll, slopes, upstream, f"nll, {training}")
        check_gradients(case, by_loss, np.sum(upstream * nll), slopes, None, f"loss, {training}")
        close(head.loss(case.hidden, targets, training=training), np.sum(nll))


@pytest.mark.parametrize("seed", SEEDS)
def test_probabilities(seed):
    """Whatever is smoothed or ignored in costs."""
    case = draw_case(seed + 1000)
    expected = oracle.log_prob(case.hidden, case.weights)
    log_prob = case.head.log_prob(case.hidden)
    close(log_prob, expected)
    close(np.exp(np.float64(log_prob)).sum(-1), np.ones(case.hidden.shape[:-1]))
    by_call = case.head(case.hidden)
    if hasattr(case.head, "head_kernel"):  # PyTorch's returns logarithms
        close(by_call, expected)
    else:
        close(by_call, np.exp(expected))
        close(np.float64(by_call).sum(-1), np.ones(case.hidden.shape[:-1]))
    assert log_prob.dtype == by_call.dtype == tf.float32


@pytest.mark.parametrize("kind", ["adaptive", "pytorch", "sampled"])
@pytest.mark.parametrize("seed", range(4))
def test_extreme_weights(seed, kind):
    """Probabilities far below what float32 can hold: logits are some 1e4, to 1e-5 of that."""
    case = draw_case(seed + 2000, kind, ignore_index=None)
    randomize(case.random, case.head, scale=3e3 if kind == "sampled" else 1e2)
    nll = oracle.nll(case.hidden, case.targets, case.weights)
    log_prob = oracle.log_prob(case.hidden, case.weights)
    close(case.head.log_prob(case.hidden), log_prob)
    for training in (None, True):
        smoothing = case.smoothing if training else 0.0
        nll = oracle.nll(case.hidden, case.targets, case.weights, smoothing)
        hidden = tf.constant(case.hidden)
        with tf.GradientTape() as tape:
            tape.watch(hidden)
            actual = case.head.nll(hidden, case.targets, training=training)
        close(actual, nll)
        loss = case.head.loss(case.hidden, case.targets, case.upstream, training=training)
        close(loss, np.sum(case.upstream * nll))
        assert np.all(np.isfinite(tape.gradient(actual, hidden)))


@pytest.mark.parametrize("kind", ["adaptive", "pytorch", "sampled"])
def test_ignored_and_refused_targets(kind):
    """What is ignored costs exactly 0, also if all is; other ids outside are errors still."""
    case = draw_case(3002, kind, ignore_index=-100, shape=(2, 3))
    targets = np.full((2, 3), -100)
    for training in (None, True):
        hidden = tf.constant(case.hidden)
        with tf.GradientTape(persistent=True) as tape:
            tape.watch(hidden)
            nll = case.head.nll(hidden, targets, training=training)
            loss, each = case.head.loss_and_nll(hidden, targets, training=training)
        for parts in (nll, each):
            np.testing.assert_array_equal(parts, np.zeros(targets.shape))
        assert loss == 0
        for value in (nll, loss):
            for slope in tape.gradient(
                value, [hidden, *case.head.trainable_weights], unconnected_gradients="zero"
            ):
                slope = tf.convert_to_tensor(slope)
                np.testing.assert_array_equal(slope, np.zeros(slope.shape))
    for wrong in (-1, case.weights.vocab_size):
        targets.flat[0] = wrong
        for compute in (case.head.nll, case.head.loss):
            with pytest.raises(ValueError):
                compute(case.hidden, targets)


@pytest.mark.parametrize("seed", range(12))
def test_pair_of_pytorch(seed):
    """Never smoothed; the mean is that of the targets which are not ignored."""
    case = draw_case(seed + 4000, "pytorch")
    nll = oracle.nll(case.hidden, case.targets, case.weights, 0.0, case.ignored)
    counted = np.array(case.targets != case.ignored, np.float64)
    share = counted / max(1, counted.sum())
    output, _ = case.head(case.hidden, case.targets)
    assert np.all(np.asarray(output)[counted == 0] == 0)
    if not counted.sum():
        return
    for field, value, seeds in ((0, -nll, -case.upstream), (1, np.sum(share * nll), share)):
        slopes = oracle.nll_gradients(
            case.hidden, case.targets, seeds, case.weights, 0.0, case.ignored
        )
        check_gradients(
            case,
            lambda hidden: case.head(hidden, case.targets)[field],  # noqa: B023
            value,
            slopes,
            case.upstream if field == 0 else None,
        )


def test_order_of_counts():
    for seed in range(20):
        counts = np.random.default_rng(seed).integers(0, 6, [1, 7, 40][seed % 3])
        order = np.asarray(adaptive.id_order_from_counts(counts))
        np.testing.assert_array_equal(order, oracle.id_order_from_counts(counts))
