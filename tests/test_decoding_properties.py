"""predict, top_k and sample of every head, and the draws of SampledSoftmax, against the oracle.

Cases are drawn from their seeds as in test_head_properties.py. Samples are compared with the
probabilities they must have by Pearson's chi-square test; all seeds are fixed, so that a test
which passes once passes always.

D width of the hidden states, V vocabulary.
"""

import numpy as np
import pytest
import tensorflow as tf

import adaptive
from adaptive import cross_entropy
from adaptive.search import search
from tests.reference import heads as oracle
from tests.test_head_properties import SEEDS, close, draw_case, oracle_weights, randomize

pytestmark = pytest.mark.usefixtures("graphs_as_written")

DRAWS = 20_000


def deviate(counts, probabilities):
    """Pearson's statistic as a standard normal deviate, by Wilson and Hilferty (1931).

    Cells that are expected fewer than 5 times are joined. What cannot be must not be.
    """
    counts, expected = np.ravel(counts), np.ravel(probabilities) * np.sum(counts)
    assert not np.any(counts[expected == 0]), "drawn in spite of a probability of 0"
    order = np.argsort(expected)
    counts, expected = counts[order], expected[order]
    first = int(np.sum(np.cumsum(expected) < 5)) + 1
    first = max(first, int(np.sum(expected < 5)))
    counts = np.append(counts[:first].sum(), counts[first:])
    expected = np.append(expected[:first].sum(), expected[first:])
    freedom = len(counts) - 1
    if freedom == 0:
        return 0.0
    ratio = np.sum((counts - expected) ** 2 / expected) / freedom
    spread = 2 / (9 * freedom)
    return float((np.cbrt(ratio) - (1 - spread)) / np.sqrt(spread))


def check_top_k(head, hidden, log_prob, k, exact):
    """Sorted, right and, where no rounding can decide, with the very ids of the oracle."""
    actual, expected = head.top_k(hidden, k), oracle.top_k(log_prob, k)
    known = head.top_k(hidden, k, bounds=head.tail_bounds())
    close(known.log_probabilities, expected.log_probabilities, message=f"k={k}, bounds known")
    if exact:
        np.testing.assert_array_equal(known.ids, expected.ids, err_msg=f"k={k}, bounds known")
    assert actual.ids.dtype == tf.int32 and actual.log_probabilities.dtype == tf.float32
    values, ids = np.asarray(actual.log_probabilities), np.asarray(actual.ids)
    close(values, expected.log_probabilities, message=f"k={k}")
    assert ids.shape == expected.ids.shape
    assert np.all(np.diff(values, axis=-1) <= 0)
    assert np.all(np.diff(np.sort(ids, axis=-1), axis=-1) > 0), "an id occurs twice"
    if exact:
        np.testing.assert_array_equal(ids, expected.ids, err_msg=f"k={k}")
    close(np.take_along_axis(log_prob, ids, -1), expected.log_probabilities, message=f"k={k}")


@pytest.mark.parametrize("seed", SEEDS)
def test_predict_and_top_k(seed, monkeypatch):
    """All at once or in chunks of 8 rows."""
    monkeypatch.setattr(cross_entropy, "CHUNK_BYTES", [1, 2**26][seed // 4 % 2])
    case = draw_case(seed + 5000)
    log_prob = oracle.log_prob(case.hidden, case.weights)
    vocab_size = case.weights.vocab_size
    gaps = -np.diff(np.sort(log_prob, axis=-1)[..., ::-1], axis=-1)
    distinct = np.min(gaps, initial=1.0) > 1e-4
    ks = {1, 2, int(case.random.integers(1, vocab_size + 1)), vocab_size}
    for k in range(1, vocab_size + 1) if vocab_size <= 5 else sorted(ks):
        check_top_k(case.head, case.hidden, log_prob, k, distinct)
    ids = case.head.predict(case.hidden)
    assert ids.dtype == tf.int32 and ids.shape == case.hidden.shape[:-1]
    chosen = np.take_along_axis(log_prob, np.asarray(ids)[..., None], -1)[..., 0]
    close(chosen, log_prob.max(-1))
    if distinct:
        np.testing.assert_array_equal(ids, oracle.predict(log_prob))


def tied_head(seed):
    """Weights and hidden states of which all products are exact in float32, and ids that tie.

    Ties are within a cluster; between words of the head and tails of one word; and between tails
    that are copies of each other.
    """
    random = np.random.default_rng(seed)
    vocab_size, width = 12, 3
    cutoffs = [[], [3, 4, 5, 6, 7, 8, 9, 10, 11], [4, 8], [1, 2, 7], [4, 8]][seed % 5]
    how = ["zeros", "halves", "copies"][seed // 5 % 3]
    order = random.permutation(vocab_size) if seed % 2 else None
    kind = seed % 4 if len(cutoffs) != 9 else seed % 2
    if kind == 3:
        head = adaptive.AdaptiveLogSoftmaxWithLoss(
            width, vocab_size, cutoffs, 1.0, head_bias=True, id_order=order
        )
    else:
        head = adaptive.AdaptiveSoftmax(
            width, vocab_size, cutoffs=cutoffs, use_bias=kind == 2, id_order=order
        )
    head.build(None)
    copies = {}
    for variable in head.trainable_weights:
        value = np.round(random.normal(size=variable.shape)) / 2
        if how == "zeros":
            value = np.zeros_like(value)
        elif how == "copies":
            value = copies.setdefault(value.shape, value)
            if len(value) == len(cutoffs):  # the columns of the tails
                value = np.zeros_like(value)
        variable.assign(value)
    hidden = np.round(random.normal(size=(11, width))) / 2
    return head, hidden.astype(np.float32), oracle_weights(head, order)


@pytest.mark.parametrize("seed", SEEDS[:30])
def test_ties_go_to_the_lower_id(seed, monkeypatch):
    monkeypatch.setattr(cross_entropy, "CHUNK_BYTES", [2**26, 1][seed // 2 % 2])
    head, hidden, weights = tied_head(seed)
    log_prob = oracle.log_prob(hidden, weights)
    for k in sorted({*range(1 + seed % 5, 12, 5), weights.vocab_size}):
        check_top_k(head, hidden, log_prob, k, exact=True)
    np.testing.assert_array_equal(head.predict(hidden), oracle.predict(log_prob))


def draw_filters(random, row):
    """Arguments of `sample`; top_p never so near a sum of probabilities that rounding decides."""
    filters = {}
    if random.random() < 0.6:
        filters["temperature"] = float(random.choice([0.3, 0.7, 1.6, 3.0]))
    if random.random() < 0.6:
        filters["top_k"] = int(random.choice([1, 2, 3, len(row) // 2 + 1, len(row)]))
    if random.random() < 0.6:
        without = np.sort(oracle.filtered(row, **filters))[::-1]
        sums = np.append(0.0, np.cumsum(without))
        candidates = [p for p in (0.31, 0.62, 0.83, 0.97) if np.min(np.abs(sums - p)) > 1e-3]
        filters["top_p"] = float(random.choice(candidates))
    return filters


@pytest.mark.parametrize("seed", SEEDS)
def test_sample(seed, monkeypatch):
    """Every fifth case without filters; all rows have the same hidden state."""
    case = draw_case(seed + 6000, shape=())
    chunk_bytes = 4 * case.weights.vocab_size * 6007  # few chunks, which do not come out even
    monkeypatch.setattr(cross_entropy, "CHUNK_BYTES", [2**26, chunk_bytes][seed % 2])
    row = oracle.log_prob(case.hidden, case.weights)
    filters = draw_filters(case.random, row) if seed % 5 else {}
    probabilities = oracle.filtered(row, **filters)
    vocab_size = len(row)
    hidden = np.tile(case.hidden, (DRAWS, 1))
    ids = np.asarray(case.head.sample(hidden, [seed, 5], **filters))
    assert ids.dtype == np.int32 and ids.shape == (DRAWS,)
    counts = np.bincount(ids, minlength=vocab_size)
    assert counts.shape == (vocab_size,)
    assert deviate(counts, probabilities) < 4.5, filters

    np.testing.assert_array_equal(case.head.sample(hidden, [seed, 5], **filters), ids)
    other = np.asarray(case.head.sample(hidden, [seed, 6], **filters))
    # The draws of neighbours, of rows far apart and of other seeds have nothing to do with it.
    joint = np.outer(probabilities, probabilities)
    for one, two in ((ids[::2], ids[1::2]), (ids[: DRAWS // 2], ids[DRAWS // 2 :]), (ids, other)):
        pairs = np.bincount(one * vocab_size + two, minlength=vocab_size**2)
        assert deviate(pairs, joint.ravel()) < 4.5, filters


@pytest.mark.parametrize("seed", range(4))
def test_sample_of_several_hidden_states(seed):
    """In one call, of any rank; the same ids in a compiled function."""
    case = draw_case(seed + 7000, shape=(2, 3))
    log_prob = oracle.log_prob(case.hidden, case.weights).reshape(6, -1)
    filters = draw_filters(case.random, log_prob[0])
    filters.pop("top_p", None)  # chosen for the first row only
    hidden = np.tile(case.hidden[:, None], (1, DRAWS // 6, 1, 1))
    ids = np.asarray(case.head.sample(hidden, [3, seed], **filters))
    assert ids.shape == (2, DRAWS // 6, 3)
    for row, drawn in zip(log_prob, np.moveaxis(ids, 1, -1).reshape(6, -1)):
        counts = np.bincount(drawn, minlength=len(row))
        assert deviate(counts, oracle.filtered(row, **filters)) < 4.5, filters
    compiled = tf.function(
        lambda hidden, key: case.head.sample(hidden, key, **filters), autograph=False
    )
    by_graph = compiled(tf.constant(hidden), tf.constant([3, seed]))
    assert np.mean(np.asarray(by_graph) == ids) > 0.999  # rounding may decide between two
    one = case.head.sample(case.hidden[0, 0], [1, seed], **filters)
    assert one.shape == () and one.dtype == tf.int32
    greedy = case.head.sample(hidden, [2, seed], top_k=1)
    np.testing.assert_array_equal(greedy, case.head.predict(hidden))


@pytest.mark.parametrize("kind", ["adaptive", "pytorch", "sampled"])
@pytest.mark.parametrize("seed", range(2))
def test_decoding_of_extreme_weights(seed, kind):
    case = draw_case(seed + 8000, kind, shape=(3,))
    randomize(case.random, case.head, scale=3e3 if kind == "sampled" else 1e2)
    log_prob = oracle.log_prob(case.hidden, case.weights)
    vocab_size = case.weights.vocab_size
    close(case.head.top_k(case.hidden, vocab_size)[0], np.sort(log_prob)[:, ::-1])
    np.testing.assert_array_equal(case.head.predict(case.hidden), oracle.predict(log_prob))
    hidden = np.tile(case.hidden[0], (1000, 1))
    for filters in ({}, {"top_p": 0.9}, {"temperature": 1e9}, {"temperature": 1e-6, "top_k": 3}):
        ids = case.head.sample(hidden, [seed, 3], **filters)
        counts = np.bincount(ids, minlength=vocab_size)
        assert deviate(counts, oracle.filtered(log_prob[0], **filters)) < 4.5, filters


@pytest.mark.parametrize("seed", [1, 6])
def test_sample_among_ties(seed):
    """What is kept of ids that are equally likely are the lower ones."""
    head, hidden, weights = tied_head(seed)
    log_prob = oracle.log_prob(hidden[0], weights)
    for filters in ({"top_k": 4}, {"top_p": 0.47}, {"top_k": 7, "top_p": 0.8, "temperature": 2.0}):
        ids = head.sample(np.tile(hidden[0], (1000, 1)), [1, 2], **filters)
        counts = np.bincount(ids, minlength=weights.vocab_size)
        assert deviate(counts, oracle.filtered(log_prob, **filters)) < 4.5, filters


def sampled_case(seed, **settings):
    """A sampled softmax, its weights, its sampler's log q by id, hidden states and targets."""
    sampler = ("log_uniform", "uniform", "unigram")[seed % 3]
    random = np.random.default_rng(seed)
    vocab_size = 13
    counts = random.integers(0, 30, vocab_size)
    order = random.permutation(vocab_size) if seed % 2 else None
    head = adaptive.SampledSoftmax(
        num_classes=vocab_size,
        input_dim=5,
        sampler=sampler,
        counts=counts if sampler == "unigram" else None,
        id_order=order,
        seed=seed,
        **settings,
    )
    head.build((None, 5))
    randomize(random, head, scale=0.4)
    log_q = oracle.sampler_log_q(sampler, vocab_size, counts, order)
    hidden = random.normal(size=(4, 5)).astype(np.float32)
    targets = random.integers(0, vocab_size, 4)
    return head, oracle_weights(head), log_q, hidden, targets


@pytest.mark.parametrize("paths", ["nll", "loss"])
@pytest.mark.parametrize("seed", range(12))
def test_sampled_loss_of_its_own_candidates(seed, paths):
    """The gradient of the bias tells which candidates were drawn and how each was weighted."""
    num_sampled = (1, 3, 6, 12)[seed // 3]
    head, weights, log_q, hidden, targets = sampled_case(seed, num_sampled=num_sampled)
    exact = oracle.nll(hidden, targets, weights)
    close(head.nll(hidden, targets), exact)
    close(head.nll(hidden, targets, training=False), exact)
    close(head.loss(hidden, targets), exact.sum())
    kernel, bias = weights.tables[0].astype(np.float64), weights.biases[0].astype(np.float64)
    for state, target in zip(hidden[:2], targets):
        inputs = tf.constant(state)
        with tf.GradientTape() as tape:
            tape.watch(inputs)
            value = getattr(head, paths)(inputs, target, training=True)
        sources = [inputs, head.kernel.value, head.bias.value]
        slopes = [np.float64(tf.convert_to_tensor(s)) for s in tape.gradient(value, sources)]
        others = np.flatnonzero(slopes[2])
        others = others[others != target]
        assert num_sampled - 1 <= len(others) <= num_sampled
        # d cost / d bias_s = exp(logit_s) / inclusion_s / (the estimated partition function)
        logits = kernel @ state + bias
        inclusion = np.exp(logits[others] - logits[target] - float(value)) / slopes[2][others]
        assert np.all(inclusion < 1 + 1e-4)
        # inclusion_s = 1 - exp(-exp(log q_s - kappa)), for one and the same kappa
        unsure = inclusion < 0.999
        kappas = log_q[others][unsure] - np.log(-np.log1p(-inclusion[unsure]))
        assert len(kappas) < 2 or np.ptp(kappas) < 1e-2
        cost, *expected = oracle.sampled_nll(
            state, target, kernel, bias, others, np.minimum(inclusion, 1.0)
        )
        close(value, cost, 1e-4)
        for one, other in zip(slopes, expected):
            close(one, other, 1e-4)


def draws(number, compute):
    """The results of calls in one compiled loop, each with a seed of its own: [number, ...]."""

    @tf.function(autograph=False)
    def loop():
        return tf.map_fn(lambda _: compute(), tf.range(number), fn_output_signature=tf.float32)

    return np.asarray(loop(), np.float64)


@pytest.mark.parametrize("seed", range(6))
def test_sampled_partition_function_is_unbiased(seed):
    """The mean of 2,000 estimates is within 5 standard errors of the full sum."""
    head, weights, _, hidden, targets = sampled_case(seed, num_sampled=(2, 5)[seed % 2])
    costs = draws(2000, lambda: head.nll(hidden, targets, training=True))
    log_prob = oracle.log_prob(hidden, weights)
    # Z_estimate / Z = exp(sampled nll + true logit) / Z = exp(sampled nll + true log-probability)
    ratios = np.exp(costs + np.take_along_axis(log_prob, targets[:, None], 1)[:, 0])
    errors = ratios.std(0) / np.sqrt(len(ratios))
    assert np.all(errors > 0) and np.all(errors < 0.1)
    assert np.all(np.abs(ratios.mean(0) - 1) < 5 * errors)


@pytest.mark.parametrize("seed", range(6))
def test_one_candidate_is_drawn_from_the_sampler(seed):
    """Of a single candidate the gradient of the bias tells which; 1,000 of them in proportion."""
    head, _, log_q, hidden, _ = sampled_case(seed, num_sampled=1)
    target = int(np.argmin(log_q))

    def slopes():
        with tf.GradientTape() as tape:
            cost = head.nll(hidden[0], target, training=True)
        return tf.convert_to_tensor(tape.gradient(cost, head.bias.value))

    counts = np.sum(draws(1000, slopes) > 0, axis=0)
    counts[target] = 1000 - counts.sum()  # an accidental hit: no other has a gradient
    assert deviate(counts, np.exp(log_q)) < 4.5


@pytest.mark.parametrize("known", [False, True])
def test_known_norms_save_the_products_of_a_wide_tail(known):
    """A tail of equally likely words: likelier as a whole than any word of the head."""
    head = adaptive.AdaptiveSoftmax(40, 200, cutoffs=[50], embeddings_initializer="zeros")
    head.build(None)
    head.cluster_bias.assign([1.0])
    hidden = tf.ones([3, 40])
    bounds = head.tail_bounds() if known else None
    found = search(hidden, head.linears(), head.clusters, head.id_order, 1, bounds=bounds)
    ((computed, compared),) = found.rows
    assert (int(computed), int(compared)) == (0 if known else 3, 0)
    np.testing.assert_array_equal(found.best.ids, np.zeros([3, 1]))
