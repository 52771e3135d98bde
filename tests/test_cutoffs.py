"""Cutoffs: the least cost by brute force, the cost by a plain loop, what is said about it."""

import dataclasses
import itertools
import math

import numpy as np
import pytest

from adaptive import cost_model, cutoffs
from adaptive.cross_entropy import rows_per_chunk
from adaptive.cutoffs import (
    Comparison,
    CostModel,
    compare_with_full_softmax,
    expected_cost,
    measure_cost_model,
    optimal_cutoffs,
)

# Each has another term that decides.
MODELS = {
    "default": CostModel(),
    "products": CostModel(1e-5, 0.0, 1e-9, 0.0, 0.0, 0.0),
    "logits": CostModel(1e-5, 0.0, 0.0, 1e-7, 0.0, 0.0),
    "table": CostModel(1e-5, 0.0, 1e-12, 1e-9, 1e-7, 0.0),
    "chunks": CostModel(1e-5, 0.0, 1e-11, 1e-8, 1e-9, 1e-4),
    "mostly free": CostModel(1e-3, 2e-4, 1e-10, 3e-8, 1e-8, 1e-6),
}
SMALL_CHUNKS = 700  # logits; the real limit is beyond any vocabulary that brute force can do


@pytest.fixture(params=[None, SMALL_CHUNKS], ids=["any chunk", "small chunks"])
def chunk_logits(request, monkeypatch):
    """Also as if memory bounded the rows of a chunk in vocabularies of ten words."""
    if request.param is not None:
        monkeypatch.setattr(cost_model, "_CHUNK_LOGITS", request.param)
    return cost_model._CHUNK_LOGITS


def plain_softmax(model, columns, rows, width, chunk_rows, padding, chunk_logits):
    chunk = min(chunk_rows, chunk_logits / columns)
    computed = max(chunk, rows + padding * chunk)
    work = 3 * columns * computed * width * model.product_seconds
    work += columns * computed * model.logit_seconds
    work += columns * width * (1 + computed / chunk) * model.table_seconds
    work += computed / chunk * model.chunk_seconds
    return model.softmax_seconds + max(0.0, work - model.free_seconds)


def plain_cost(counts, cuts, hidden_dim, div_val, embed_dim, batch_size, model, chunk_logits):
    """The expected cost from its description, one number after the other."""
    counts = sorted((float(count) for count in counts), reverse=True)
    embed_dim = hidden_dim if embed_dim is None else embed_dim
    edges = [0, *cuts, len(counts)]
    tail_rows = math.ceil(min(batch_size, max(64, batch_size // 16)) / 8) * 8
    seconds = 0.0
    for i, (start, end) in enumerate(itertools.pairwise(edges)):
        width = int(embed_dim // div_val**i)
        if div_val > 1 or embed_dim != hidden_dim:
            seconds += 3 * batch_size * hidden_dim * width * model.product_seconds
        if i == 0:
            columns = end + len(cuts)
            rest = batch_size, width, batch_size, 0.0
        else:
            columns = end - start
            rest = batch_size * sum(counts[start:end]) / sum(counts), width, tail_rows, 0.5
        seconds += plain_softmax(model, columns, *rest, chunk_logits)
    return seconds


def allowed(vocab_size, num_clusters, multiple_of):
    """All cutoffs of which the head's columns and the tails but the last are multiples."""
    columns = range(multiple_of, vocab_size + num_clusters, multiple_of)
    cuts = [end - num_clusters + 1 for end in columns]
    return itertools.combinations([c for c in cuts if 0 < c < vocab_size], num_clusters - 1)


def random_counts(random, vocab_size):
    kind = random.integers(4)
    if kind == 0:
        return 1000.0 / np.arange(1, vocab_size + 1) ** random.uniform(0.3, 2.5)
    if kind == 1:
        return random.integers(1, 50, vocab_size)
    if kind == 2:
        return random.integers(0, 3, vocab_size) + np.eye(vocab_size, dtype=int)[3]
    return np.full(vocab_size, 7)


@pytest.mark.parametrize("multiple_of", [1, 2, 8])
@pytest.mark.parametrize("num_clusters", [1, 2, 3, 4])
@pytest.mark.parametrize("div_val", [1, 2, 4])
def test_no_cutoffs_cost_less(div_val, num_clusters, multiple_of, chunk_logits):
    random = np.random.default_rng(div_val * 100 + num_clusters * 10 + multiple_of)
    for name, model in MODELS.items():
        vocab_size = int(random.integers(32, 40) if multiple_of == 8 else random.integers(9, 14))
        counts = random_counts(random, vocab_size)
        embed_dim = random.choice([None, 64, 100])
        batch_size = int(random.choice([8, 100, 1024, 5000]))
        setting = (64, div_val, embed_dim, batch_size, model)
        costs = {
            cuts: plain_cost(counts, cuts, *setting, chunk_logits)
            for cuts in allowed(vocab_size, num_clusters, multiple_of)
        }
        found = optimal_cutoffs(counts, num_clusters, *setting, multiple_of)
        least = min(costs.values())
        assert costs[found] == pytest.approx(least, rel=1e-12), (name, found)
        if sum(cost <= least * (1 + 1e-9) for cost in costs.values()) == 1:
            assert found == min(costs, key=costs.get)
        for cuts in random.permutation(list(costs))[:10].tolist():
            assert expected_cost(counts, cuts, *setting) == pytest.approx(
                costs[tuple(cuts)], rel=1e-12
            )


@pytest.mark.parametrize("model", MODELS.values(), ids=MODELS)
@pytest.mark.parametrize("counts", ["zipf", "random", "uniform", "half zeros"])
def test_more_words_and_six_clusters(model, counts, chunk_logits):
    """Against dynamic programming that tries every start for every end."""
    vocab_size, num_clusters, batch_size, div_val = 70, 6, 3000, 1.5
    random = np.random.default_rng(2)
    counts = {
        "zipf": 1e6 / np.arange(1, vocab_size + 1),
        "random": random.pareto(1.0, vocab_size),
        "uniform": np.ones(vocab_size),
        "half zeros": np.repeat([3, 0], vocab_size // 2),
    }[counts]
    below = [0.0, *np.cumsum(np.sort(counts)[::-1]) / counts.sum()]
    widths = [int(200 // div_val**i) for i in range(num_clusters)]

    def tail(i, start, end):
        rows = batch_size * (below[end] - below[start])
        return plain_softmax(model, end - start, rows, widths[i], 192, 0.5, chunk_logits)

    best = {
        end: plain_softmax(model, end + 5, batch_size, 200, batch_size, 0.0, chunk_logits)
        for end in range(1, vocab_size)
    }
    for i in range(1, num_clusters - 1):
        best = {
            end: min(best[start] + tail(i, start, end) for start in best if start < end)
            for end in range(i + 1, vocab_size)
        }
    least = min(best[start] + tail(num_clusters - 1, start, vocab_size) for start in best)
    least += 3 * batch_size * 200 * sum(widths) * model.product_seconds
    setting = (200, div_val, None, batch_size, model)
    found = optimal_cutoffs(counts, num_clusters, *setting, multiple_of=1)
    assert expected_cost(counts, found, *setting) == pytest.approx(least, rel=1e-12)


@pytest.mark.parametrize("num_clusters", [3, 4, 5])
def test_no_neighbour_of_wikitext_103s_cutoffs_is_better(num_clusters):
    counts = 1e8 / np.arange(1, 267_736)
    found = optimal_cutoffs(counts, num_clusters, 410)
    assert (found[0] + num_clusters - 1) % 8 == 0
    assert not any(size % 8 for size in np.diff(found))
    least = expected_cost(counts, found, 410)
    random = np.random.default_rng(0)
    moves = [move * one for move in (8, -8, 64, -64, 2048) for one in np.eye(len(found), dtype=int)]
    moves += [8 * random.integers(-9, 10, len(found)) for _ in range(15)]
    for move in moves:
        assert expected_cost(counts, (found + move).tolist(), 410) >= least * (1 - 1e-12)


def test_more_clusters_than_pay_cost_more():
    counts = 1e4 / np.arange(1, 201)
    model = {"cost_model": CostModel(1e-3, 1e-3, 2e-11, 2e-8, 3e-9, 4e-4)}
    cutoffs = [optimal_cutoffs(counts, n, 256, **model) for n in (1, 2, 3, 4)]
    costs = [expected_cost(counts, one, 256, **model) for one in cutoffs]
    assert costs[2] < costs[1] < costs[0]
    assert costs[3] > costs[2]


def test_counts_may_come_in_any_order_and_are_left_alone():
    counts = np.random.default_rng(0).integers(0, 100, 50)
    before = counts.copy()
    ordered = np.sort(counts)[::-1]
    assert optimal_cutoffs(counts, 3, 64) == optimal_cutoffs(ordered.tolist(), 3, 64)
    assert expected_cost(counts, (9, 20), 64) == expected_cost(ordered, (9, 20), 64)
    assert expected_cost(counts, (9, 20), 64, batch_size=np.int64(1024)) == expected_cost(
        ordered, np.array([9, 20]), np.int32(64)
    )
    np.testing.assert_array_equal(counts, before)


@pytest.mark.parametrize(
    "model", [CostModel(*[0.0] * 6), CostModel(1e-3, 10.0, product_seconds=0.0)]
)
@pytest.mark.parametrize("multiple_of", [None, 1, 8])
def test_when_all_cost_the_same_the_cutoffs_are_still_cutoffs(model, multiple_of):
    found = optimal_cutoffs(np.ones(3000), 4, 64, cost_model=model, multiple_of=multiple_of)
    assert len(found) == 3 and all(type(cutoff) is int for cutoff in found)
    assert 0 < found[0] < found[1] < found[2] < 3000
    assert expected_cost(np.ones(3000), found, 64, cost_model=model) == 4 * model.softmax_seconds


@pytest.mark.parametrize(
    ("vocab_size", "num_clusters", "multiple"),
    [(999, 3, 1), (1000, 3, 8), (1000, 20, 8), (7, 7, 1)],
)
def test_multiples_of_eight_where_they_fit(vocab_size, num_clusters, multiple):
    counts = 1e4 / np.arange(1, vocab_size + 1)
    found = optimal_cutoffs(counts, num_clusters, 64, div_val=1)
    assert len(found) == num_clusters - 1
    sizes = np.diff([1 - num_clusters, *found])
    assert math.gcd(8, *sizes.tolist()) == multiple
    assert optimal_cutoffs(counts, num_clusters, 64, div_val=1, multiple_of=multiple) == found


def test_no_multiples_of_eight_where_they_do_not_fit():
    assert set(np.diff(cutoffs._allowed_cutoffs(1000, 126, None))) == {8}
    assert set(np.diff(cutoffs._allowed_cutoffs(1000, 127, None))) == {1}


@pytest.mark.parametrize("batch_size", [3, 70, 1000, 1024, 8192, 50_000])
@pytest.mark.parametrize("columns", [1, 1000, 50_000, 1_000_000])
def test_chunks_are_those_of_the_loss(columns, batch_size):
    only_chunks = CostModel(0.0, 0.0, 0.0, 0.0, 0.0, 1.0)
    for few in (True, False):
        rows = batch_size / 5 if few else batch_size
        chunk = rows_per_chunk(batch_size, columns, few)
        chunks = only_chunks.seconds(columns, rows, 1, batch_size if few else None)
        # The loss has chunks of whole multiples of 8 rows, and of one size for all rows.
        number = rows / chunk + 1 / 2 if few else math.ceil(rows / chunk)
        least = rows / (chunk + 8) + 1 / 2 if few else (number - 1) * chunk / (chunk + 8)
        assert (max(1.0, least) if few else least) <= chunks <= max(1.0, number)


def test_a_softmax_costs_more_the_larger_it_is():
    model, sizes = CostModel(1e-3, 0.0), np.array([1, 10, 1000, 10_000, 300_000])
    for batch_size in (None, 4096):
        assert model.seconds(sizes, 100, 64, batch_size).dtype == np.float64
        assert (np.diff(model.seconds(sizes, 100, 64, batch_size)) > 0).all()
        assert (np.diff(model.seconds(5000, sizes, 64, batch_size)) >= 0).all()
        assert (np.diff(model.seconds(5000, 100, sizes, batch_size)) > 0).all()
    assert model.seconds(sizes[:, None], 100, [8, 9]).shape == (5, 2)


def test_little_work_takes_the_same_time():
    model = CostModel(1e-3, free_seconds=5e-4)
    assert model.seconds(8, 8, 8) == model.seconds(9, 9, 9) == 1e-3
    beyond = CostModel(1e-3, 0.0).seconds(8000, 800, 8) - model.seconds(8000, 800, 8)
    assert beyond == pytest.approx(5e-4)


def test_a_measured_model():
    model = measure_cost_model(hidden_dim=128, batch_size=512, columns=1024, repeats=2)
    constants = dataclasses.astuple(model)
    assert all(type(one) is float and 0 <= one < math.inf for one in constants)
    assert model.softmax_seconds > 0 and sum(constants[2:]) > 0
    columns = np.array([10, 100, 1000, 100_000])
    assert (np.diff(model.seconds(columns, 64, 16)) >= 0).all()
    assert model.seconds(10**9, 10**6, 10**3) > model.seconds(10, 10, 10)


@pytest.mark.parametrize("truth", [CostModel(2e-4, 2e-4), CostModel(1e-4, 0.0)], ids=["max", "sum"])
def test_the_constants_are_found_again(truth, monkeypatch):
    def time_of_loss(columns, rows, width, batch_size, *_):
        return float(truth.seconds(columns, rows, width, batch_size))

    monkeypatch.setattr(cost_model, "_time_of_loss", time_of_loss)
    found = measure_cost_model()
    for setting in [(1000, 1024, 512), (50_000, 100, 64, 1024), (9000, 30, 16, 1024)]:
        assert found.seconds(*setting) == pytest.approx(truth.seconds(*setting), rel=0.02)


def test_the_answer_in_words():
    faster = Comparison(0.01, 1.079, 107.9, (19_997, 40_000, 207_738), (0.85, 0.101, 0.049))
    assert str(faster) == (
        "The adaptive softmax is expected to take 1/107.9 of the time of a full softmax: 10.00 ms "
        "instead of 1,079.00 ms. "
        "Clusters of 19,997 / 40,000 / 207,738 words have 85.0% / 10.1% / 4.9% of the targets."
    )
    slower = Comparison(0.002, 0.0015, 0.75, (50, 50), (0.9, 0.1))
    assert str(slower) == (
        "A full softmax would be faster here: 1.50 ms instead of 2.00 ms. "
        "Clusters of 50 / 50 words have 90.0% / 10.0% of the targets."
    )


def test_compared_with_a_full_softmax():
    counts = 1e6 / np.arange(1, 30_001)
    large = compare_with_full_softmax(counts, [3000, 9000], 256, batch_size=2048)
    assert large.adaptive_seconds == expected_cost(counts, [3000, 9000], 256, batch_size=2048)
    assert large.full_seconds == CostModel().seconds(30_000, 2048, 256)
    assert large.speedup == large.full_seconds / large.adaptive_seconds > 1
    assert large.sizes == (3000, 6000, 21_000)
    assert large.shares[0] == pytest.approx(counts[:3000].sum() / counts.sum())
    assert sum(large.shares) == pytest.approx(1)
    small = compare_with_full_softmax(np.ones(60), [20], 8)
    assert small.speedup < 1 and str(small).startswith("A full softmax would be faster")


@pytest.mark.parametrize(
    ("counts", "message"),
    [
        ([[1, 2]], r"shape \[V\].*Received: shape \(1, 2\)"),
        ([], "one number for each word"),
        (["a", "b"], "one number for each word"),
        ([3, -1, 2], "at least 0.*from -1 to 3"),
        ([1.0, math.nan], "finite"),
        ([0, 0, 0], "not all 0"),
    ],
)
def test_unusable_counts(counts, message):
    for call in (optimal_cutoffs, lambda *args: expected_cost(args[0], (), 64)):
        with pytest.raises(ValueError, match=message):
            call(counts, 1, 64)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_clusters": 0}, "num_clusters must be a positive integer"),
        ({"num_clusters": True}, "num_clusters must be a positive integer"),
        ({"num_clusters": 21}, "num_clusters=21 for 20 words. Use fewer"),
        ({"num_clusters": 4, "multiple_of": 8}, "multiples of 8.*num_clusters=4 for 20 words"),
        ({"multiple_of": 0}, "multiple_of must be a positive integer"),
        ({"hidden_dim": 0}, "hidden_dim must be a positive integer"),
        ({"batch_size": 1.5}, "batch_size must be a positive integer"),
        ({"embed_dim": 0}, "embedding width must be a positive integer"),
        ({"div_val": 0.5}, "div_val must be at least 1"),
        ({"hidden_dim": 10}, r"width of at least 1.*widths \[10, 2, 0\]"),
    ],
)
def test_unusable_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        optimal_cutoffs(**{"counts": np.ones(20), "num_clusters": 3, "hidden_dim": 64, **arguments})


def test_unusable_cutoffs_and_widths():
    with pytest.raises(ValueError, match="Cutoffs must rise"):
        expected_cost(np.ones(20), [7, 5], 64)
    with pytest.raises(ValueError, match="width of at least 1"):
        compare_with_full_softmax(np.ones(20), [5, 7], 8)
    with pytest.raises(ValueError, match="hidden_dim must be a positive integer"):
        expected_cost(np.ones(20), [5, 7], -8)


@pytest.mark.parametrize("value", [-1e-9, math.nan, math.inf])
@pytest.mark.parametrize("name", [field.name for field in dataclasses.fields(CostModel)])
def test_constants_are_finite_seconds(name, value):
    with pytest.raises(ValueError, match=f"at least 0. Received: .*{name}={value!r}"):
        CostModel(**{name: value})


@pytest.mark.parametrize("name", ["hidden_dim", "batch_size", "columns", "repeats"])
def test_nothing_is_measured_with_unusable_sizes(name):
    with pytest.raises(ValueError, match=f"{name} must be a positive integer"):
        measure_cost_model(**{name: 0})
