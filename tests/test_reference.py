"""The test of the tests: the NumPy oracles against golden numbers and finite differences."""

import functools

import numpy as np
import pytest

from tests.reference import adaptive, golden, transformer_xl

SEGMENTS, LENGTH = 4, 7
CASES = [
    "clamp",
    "div1",
    "div1_narrow_embedding",
    "div2_untied_projections",
    "div4",
    "no_cutoffs",
    "pre_layer_norm",
    "same_length",
    "shared_biases",
]


@functools.cache
def load(name):
    with np.load(golden.DIRECTORY / f"{name}.npz") as file:
        return dict(file)


def excess(actual, expected):
    """The largest deviation, as a multiple of 5e-5 absolute or 1e-5 relative, whichever is more."""
    assert np.shape(actual) == np.shape(expected)
    expected = np.asarray(expected, np.float64)
    return float(np.max(np.abs(actual - expected) / np.maximum(5e-5, 1e-5 * np.abs(expected))))


def zero_memory(model, batch_size, valid=None):
    """Memory as the golden files start it: zeros, all of them attended unless `valid` says less."""
    length, width = model.memory_length, len(model.weights["blocks"][0]["query"])
    num_memories = len(model.weights["blocks"]) // 2
    memory = [np.zeros((batch_size, length, width)) for _ in range(num_memories)]
    return memory, np.full(batch_size, length if valid is None else valid)


def run_segments(arrays, model, segments=SEGMENTS, valid=None):
    """Yields (segment, targets, Output), memory carried."""
    memory, valid = zero_memory(model, len(arrays["tokens"]), valid)
    for segment in range(segments):
        start = segment * LENGTH
        tokens = arrays["tokens"][:, start : start + LENGTH]
        output = transformer_xl.forward(tokens, model.weights, memory, valid, **model.settings)
        memory, valid = output.memory, output.valid
        yield segment, arrays["tokens"][:, start + 1 : start + 1 + LENGTH], output


def test_all_golden_files_are_compared():
    found = {path.stem for path in golden.DIRECTORY.glob("transformer_xl_*.npz")}
    assert found == {f"transformer_xl_{case}" for case in CASES}


@pytest.mark.parametrize("case", CASES)
def test_oracle_reproduces_golden_file(case):
    arrays = load(f"transformer_xl_{case}")
    model = golden.oracle_weights(arrays)
    for segment, targets, output in run_segments(arrays, model):
        assert excess(output.hidden, arrays[f"hidden_{segment}"]) < 1
        nll = adaptive.nll(output.hidden, targets, **model.head)
        assert excess(nll, arrays[f"nll_{segment}"]) < 1
    assert len(output.memory) == 3
    for layer, memory in enumerate(output.memory):
        assert excess(memory, arrays[f"memory_{layer}"]) < 1
    log_prob = adaptive.log_prob(output.hidden[:, -1], **model.head)
    assert excess(log_prob, arrays["log_prob_last"]) < 1


def test_oracle_reproduces_first_loss_of_training_curve():
    arrays = load("training_curve")
    model = golden.oracle_weights(arrays)
    length = int(arrays["segment_length"])
    tokens = arrays["tokens"]
    memory, valid = zero_memory(model, len(tokens))
    output = transformer_xl.forward(
        tokens[:, :length], model.weights, memory, valid, **model.settings
    )
    loss = np.mean(adaptive.nll(output.hidden, tokens[:, 1 : length + 1], **model.head))
    assert loss == pytest.approx(arrays["losses_torch_epsilon"][0], rel=1e-6)


@pytest.mark.parametrize(
    "case, change",
    [
        ("clamp", {"clamp_length": -1}),
        ("clamp", {"clamp_length": 6}),
        ("same_length", {"same_length": False}),
        ("pre_layer_norm", {"layer_norm": "post"}),
        ("div4", {"layer_norm_epsilon": 1e-3}),
        ("div4", {"block_pattern": "aaffaf"}),
    ],
)
def test_comparison_notices_a_wrong_setting(case, change):
    arrays = load(f"transformer_xl_{case}")
    model = golden.oracle_weights(arrays)
    settings = {**model.settings, **change}
    if "block_pattern" in change:
        blocks = [model.weights["blocks"][i] for i in (0, 2, 1, 3, 4, 5)]
        model = model._replace(weights={**model.weights, "blocks": blocks})
    *_, last = run_segments(arrays, model._replace(settings=settings), segments=2)
    assert excess(last[2].hidden, arrays["hidden_1"]) > 5


def test_comparison_notices_an_empty_start():
    arrays = load("transformer_xl_div4")
    model = golden.oracle_weights(arrays)
    *_, last = run_segments(arrays, model, segments=1, valid=0)
    assert excess(last[2].hidden, arrays["hidden_0"]) > 5


def small_model(block_pattern="afaf", seed=0):
    """Random weights of distinct prime sizes (D must be even: 14), and the settings for them."""
    rng = np.random.default_rng(seed)
    width, heads, head_dim, inner = 14, 3, 5, 11

    def random(*shape):
        return 0.5 * rng.standard_normal(shape)

    blocks = []
    for kind in block_pattern:
        block = {"gamma": 1 + random(width), "beta": random(width)}
        if kind == "a":
            for name in ("query", "key", "value", "position"):
                block[name] = random(width, heads * head_dim)
            block["output"] = random(heads * head_dim, width)
            block["content_bias"], block["position_bias"] = random(2, heads, head_dim)
        else:
            block["inner_kernel"], block["inner_bias"] = random(width, inner), random(inner)
            block["outer_kernel"], block["outer_bias"] = random(inner, width), random(width)
        blocks.append(block)
    weights = {
        "tables": [random(7, 14), random(13, 2)],
        "projections": [None, random(2, 14)],
        "blocks": blocks,
        "final_norm": {"gamma": 1 + random(width), "beta": random(width)},
    }
    settings = {"num_heads": heads, "head_dim": head_dim, "block_pattern": block_pattern}
    return weights, settings, rng.integers(0, 20, (2, 10))


def empty_memory(block_pattern, length):
    return [np.zeros((2, length, 14)) for _ in range(block_pattern.count("a"))], np.zeros(2, int)


@pytest.mark.parametrize("layer_norm", ["post", "pre"])
@pytest.mark.parametrize("pattern", ["afaf", "aaff", "afffa"])
@pytest.mark.parametrize("extra", [{}, {"clamp_length": 2}, {"same_length": True}])
def test_segments_with_memory_equal_one_long_segment(layer_norm, pattern, extra):
    weights, settings, tokens = small_model(pattern)
    settings |= {"layer_norm": layer_norm, **extra}
    whole = transformer_xl.forward(tokens, weights, *empty_memory(pattern, 11), **settings)
    memory, valid = empty_memory(pattern, 11)
    hidden = []
    for segment in (tokens[:, :3], tokens[:, 3:8], tokens[:, 8:]):
        output = transformer_xl.forward(segment, weights, memory, valid, **settings)
        memory, valid = output.memory, output.valid
        hidden.append(output.hidden)
    np.testing.assert_allclose(np.concatenate(hidden, axis=1), whole.hidden, atol=1e-12)
    np.testing.assert_allclose(memory, whole.memory, atol=1e-12)
    np.testing.assert_array_equal(valid, [10, 10])


def test_each_row_sees_only_its_valid_memory():
    weights, settings, tokens = small_model()
    memory = list(np.random.default_rng(1).standard_normal((2, 2, 5, 14)))
    before = transformer_xl.forward(tokens[:, :3], weights, memory, [2, 4], **settings)
    changed = [layer.copy() for layer in memory]
    for layer in changed:
        layer[:, :3] = 9.0
    after = transformer_xl.forward(tokens[:, :3], weights, changed, [2, 4], **settings)
    np.testing.assert_array_equal(after.hidden[0], before.hidden[0])
    assert np.max(np.abs(after.hidden[1] - before.hidden[1])) > 1e-3
    np.testing.assert_array_equal(after.valid, [5, 5])
    np.testing.assert_array_equal(after.memory[0][:, :2], memory[0][:, 3:])


def test_no_memory_is_an_empty_memory():
    weights, settings, tokens = small_model()
    without = transformer_xl.forward(tokens, weights, *empty_memory("afaf", 0), **settings)
    unfilled = transformer_xl.forward(tokens, weights, *empty_memory("afaf", 3), **settings)
    np.testing.assert_array_equal(without.hidden, unfilled.hidden)
    assert [layer.shape for layer in without.memory] == [(2, 0, 14)] * 2
    np.testing.assert_array_equal(without.valid, [0, 0])


def test_same_length_sees_as_many_keys_as_the_memory_is_long():
    weights, settings, tokens = small_model("a")
    memory, valid = [np.random.default_rng(1).standard_normal((2, 5, 14))], [5, 5]
    before = transformer_xl.forward(
        tokens[:, :3], weights, memory, valid, same_length=True, **settings
    )
    for forgotten in range(3):
        changed = memory[0].copy()
        changed[:, forgotten] += 1.0
        after = transformer_xl.forward(
            tokens[:, :3], weights, [changed], valid, same_length=True, **settings
        )
        moved = np.any(np.abs(after.hidden - before.hidden) > 1e-9, axis=(0, 2))
        # Query i is at 5 + i and sees 5 keys, so the oldest is 1 + i: key k is seen while i < k.
        expected = [query < forgotten for query in range(3)]
        np.testing.assert_array_equal(moved, expected)


def test_sinusoid_by_hand():
    expected = [np.sin(3), np.sin(0.03), np.cos(3), np.cos(0.03)]
    np.testing.assert_allclose(transformer_xl.sinusoid(3, 4), expected, rtol=1e-15)


def head_arguments(sizes, widths, biases=True, projections=True, seed=0):
    """Random arguments of the head for D = 5, for tails of the sizes and widths given."""
    rng = np.random.default_rng(seed)
    return {
        "tables": [rng.standard_normal(shape) for shape in zip(sizes, widths, strict=True)],
        "biases": [rng.standard_normal(size) for size in sizes] if biases else None,
        "projections": [rng.standard_normal((width, 5)) for width in widths]
        if projections
        else None,
        "cluster_kernel": rng.standard_normal((len(sizes) - 1, widths[0])),
        "cluster_bias": rng.standard_normal(len(sizes) - 1) if biases else None,
    }


HEADS = {
    "three clusters": head_arguments([3, 7, 2], [5, 3, 1]),
    "no biases": head_arguments([3, 7, 2], [5, 3, 1], biases=False),
    "no projections": head_arguments([3, 7, 2], [5, 5, 5], projections=False),
    "mixed": head_arguments([2, 1, 4], [5, 2, 3])
    | {"projections": [None, np.ones((2, 5)), np.eye(5)[:3]], "biases": [None, [0.3], None]},
    "one cluster": head_arguments([11], [3]) | {"cluster_kernel": None, "cluster_bias": None},
}


@pytest.mark.parametrize("name", HEADS)
def test_adaptive_probabilities_sum_to_one_and_give_the_nll(name):
    head = HEADS[name]
    vocabulary = sum(len(table) for table in head["tables"])
    hidden = np.random.default_rng(1).standard_normal((vocabulary, 5))
    log_prob = adaptive.log_prob(hidden, **head)
    np.testing.assert_allclose(np.exp(log_prob).sum(-1), 1.0, rtol=1e-12)
    nll = adaptive.nll(hidden, np.arange(vocabulary), **head)
    np.testing.assert_allclose(nll, -np.diag(log_prob), rtol=1e-12)


def test_one_cluster_is_the_ordinary_softmax():
    head = HEADS["one cluster"]
    hidden = np.random.default_rng(1).standard_normal((4, 5))
    logits = hidden @ head["projections"][0].T @ head["tables"][0].T + head["biases"][0]
    expected = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    np.testing.assert_allclose(np.exp(adaptive.log_prob(hidden, **head)), expected, rtol=1e-12)


@pytest.mark.parametrize("name", HEADS)
def test_adaptive_gradients_agree_with_finite_differences(name):
    head = HEADS[name]
    rng = np.random.default_rng(2)
    vocabulary = sum(len(table) for table in head["tables"])
    hidden = rng.standard_normal((2, 4, 5))
    targets = rng.permutation(np.arange(8) % vocabulary).reshape(2, 4)
    weights = rng.standard_normal((2, 4))
    weights[0, 0] = 0.0
    gradients = adaptive.nll_gradients(hidden, targets, weights, **head)
    compare_with_differences(gradients.hidden, hidden, targets, weights, head, ("hidden",))
    for argument, value in head.items():
        analytic = getattr(gradients, argument)
        if isinstance(value, list):
            for cluster in range(len(value)):
                path = (argument, cluster)
                compare_with_differences(analytic[cluster], hidden, targets, weights, head, path)
        elif value is None:
            assert analytic is None or analytic == [None] * len(head["tables"])
        else:
            compare_with_differences(analytic, hidden, targets, weights, head, (argument,))


def compare_with_differences(analytic, hidden, targets, weights, head, path, step=1e-6):
    """Asserts that the analytic gradient is the central difference of the weighted cost."""
    arguments = {
        name: list(value) if isinstance(value, list) else value for name, value in head.items()
    }
    arguments["hidden"] = hidden
    place = arguments
    for key in path[:-1]:
        place = place[key]
    start = place[path[-1]]
    if start is None:
        assert analytic is None
        return
    start = np.asarray(start, np.float64)
    assert analytic.shape == start.shape
    for index in np.ndindex(start.shape):
        costs = []
        for change in (step, -step):
            moved = start.copy()
            moved[index] += change
            place[path[-1]] = moved
            costs.append(np.sum(weights * adaptive.nll(targets=targets, **arguments)))
        difference = (costs[0] - costs[1]) / (2 * step)
        assert analytic[index] == pytest.approx(difference, rel=1e-6, abs=1e-7), (path, index)


def test_embed_by_hand():
    tables = [np.array([[1.0, 2.0], [3.0, 4.0]]), np.array([[5.0], [6.0]])]
    projections = [None, np.array([[10.0, 100.0]])]
    embedded = adaptive.embed([[0, 3], [2, 1]], tables, projections)
    np.testing.assert_array_equal(embedded, [[[1, 2], [60, 600]], [[50, 500], [3, 4]]])
    with pytest.raises(IndexError, match="below the vocabulary size 4"):
        adaptive.embed([4], tables, projections)
