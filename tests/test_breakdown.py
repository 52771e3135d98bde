"""The loss by frequency band and by position: sums that add up, whatever the batch size."""

import json
import types

import numpy as np
import pytest
import tensorflow as tf

from data_utils import EvalSegments
from modes import evaluation
from tests.conftest import evaluation_steps_of
from transformer_xl import ModelConfig, TrainConfig, TransformerXL
from transformer_xl.config import evaluation_lengths
from transformer_xl.training import breakdown
from transformer_xl.training.breakdown import (
    Bands,
    break_down,
    frequency_bands,
    make_breakdown_step,
)
from transformer_xl.training.breakdown_report import (
    breakdown_tables,
    draw_breakdown,
    settings_line,
)
from transformer_xl.training.evaluate import Evaluator
from transformer_xl.training.steps import make_eval_step

pytestmark = pytest.mark.usefixtures("graphs_as_written")

IDS = np.random.default_rng(3).zipf(1.3, 150).clip(max=120).astype("int32") - 1
LENGTH = 7


@pytest.fixture(autouse=True, scope="module")
def _two_stretches():
    """The fewest that follow one another in a step; more would be traced in the same way."""
    with evaluation_steps_of(2):
        yield


def small_model(cutoffs=(10, 40), num_layers=1):
    return TransformerXL(
        ModelConfig(
            vocab_size=120,
            num_layers=num_layers,
            model_dim=16,
            num_heads=2,
            feed_forward_dim=24,
            cutoffs=cutoffs,
            div_val=2 if cutoffs else 1,
            memory_length=9,
            init_stddev=0.5,
        )
    )


def evaluator_of(model, batch_size, **lengths):
    config = TrainConfig(
        eval_batch_size=batch_size, eval_segment_length=LENGTH, jit_compile="false", **lengths
    )

    def batches(split, *sizes):
        ids = {"valid": IDS[:60], "test": IDS}[split]
        return EvalSegments(ids, 0, *sizes).dataset()

    return Evaluator(model, config, evaluation_lengths(model.config, config), batches)


def parts_of(evaluator, bands):
    return break_down(evaluator, ["test"], bands)["test"]


def by_hand(model, batch_size, cutoffs):
    """Sums over the whole distribution, stream by stream, without the evaluation's code."""
    edges = [0, *cutoffs, 120]
    bands, positions = np.zeros([2, len(edges) - 1]), np.zeros([2, LENGTH])
    stream_length = -(-len(IDS) // batch_size)
    before = np.concatenate([[0], IDS[:-1]])
    for first in range(0, len(IDS), stream_length):
        targets = IDS[first : first + stream_length]
        inputs = before[first : first + stream_length]
        memory = model.initial_memory(1)
        for start in range(0, len(targets), LENGTH):
            now = slice(start, start + LENGTH)
            log_prob, memory = model.log_prob(tf.constant(inputs[None, now]), memory)
            for place, target in enumerate(targets[now]):
                nll = -float(log_prob[0, place, target])
                band = np.searchsorted(edges, target, side="right") - 1
                bands[:, band] += nll, 1
                positions[:, place] += nll, 1
    return bands, positions


@pytest.mark.parametrize(
    ("batch_size", "cutoffs"),
    [
        (33, (10, 40)),
        *(
            pytest.param(*case, marks=pytest.mark.slow)
            for case in ((1, (10, 40)), (4, (10, 40)), (33, ()), (1, ()), (4, ()))
        ),
    ],
)
def test_sums_are_those_of_the_distribution(batch_size, cutoffs):
    model = small_model(cutoffs)
    bands = frequency_bands(120, cutoffs)
    parts = parts_of(evaluator_of(model, batch_size), bands)
    expected_bands, expected_positions = by_hand(model, batch_size, cutoffs or (10, 100))
    np.testing.assert_allclose([parts.band_nll, parts.band_tokens], expected_bands, rtol=2e-5)
    np.testing.assert_allclose(
        [parts.position_nll, parts.position_tokens], expected_positions, rtol=2e-5
    )
    assert parts.result.tokens == len(IDS)


@pytest.fixture(scope="module")
def broken_down():
    """An evaluator, what its losses on two splits are made of, and how often that was traced."""
    traced = []
    nll_in_turn = breakdown.nll_in_turn
    evaluator = evaluator_of(small_model(), 4, eval_memory_length=20, eval_same_length=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            breakdown, "nll_in_turn", lambda *a, **k: traced.append(a) or nll_in_turn(*a, **k)
        )
        parts = break_down(evaluator, ("valid", "test"), frequency_bands(120, (10, 40)))
    return evaluator, parts, len(traced)


def test_bands_and_positions_add_up_to_the_evaluation(broken_down):
    evaluator, parts, times_traced = broken_down
    whole = evaluator.result("test")
    bands = frequency_bands(120, (10, 40))
    assert times_traced == 1, "one step scores both"
    assert parts["valid"].result.tokens == 60
    assert parts["valid"].result.nll == pytest.approx(evaluator.result("valid").nll, rel=1e-6)
    figures = parts["test"].figures(bands)
    total = whole.nll * whole.tokens
    rows, positions = figures["bands"], figures["positions"]
    assert sum(row["tokens"] for row in rows) == sum(positions["tokens"]) == whole.tokens == 150
    assert sum(row["nll_sum"] for row in rows) == pytest.approx(total, rel=1e-6)
    assert sum(row["tokens"] * row["nll"] for row in rows) == pytest.approx(total, rel=1e-6)
    by_position = np.dot(positions["tokens"], positions["nll"])
    assert by_position == pytest.approx(total, rel=1e-6)
    assert sum(row["share_of_loss"] for row in rows) == pytest.approx(1)
    # Streams of 38, 38, 38 and 36 tokens: five segments each, and three tokens, or one.
    assert positions["tokens"] == [24, 23, 23, 20, 20, 20, 20]


class GivenLosses:
    """In place of a model: losses are the targets' entries of a table."""

    def __init__(self, table):
        self._table = tf.constant(table)

    def nll(self, tokens, targets, memory, **named):
        del tokens, named
        return tf.gather(self._table, targets), memory


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_what_has_no_weight_is_left_out_and_nothing_else(value):
    model = GivenLosses([1.0, 2.0, value])
    tokens, memory = tf.zeros([2, 4], tf.int32), tf.zeros([])
    weights = tf.constant([[1.0, 0.5, 1, 0], [1, 1, 0, 0]])
    bands = Bands(("common", "rare"), (0, 1), 3)
    parts, eval_step = make_breakdown_step(model, bands, False, 2), make_eval_step(model, False, 2)
    targets = tf.constant([[0, 1, 0, 2], [1, 0, 2, 2]])
    _, sums = eval_step(tokens, targets, weights, memory)
    assert (float(sums.nll), float(sums.weight)) == (6.0, 4.5)
    _, sums = parts(tokens, targets, weights, memory)
    np.testing.assert_array_equal(sums, [[3, 3, 4, 2], [3, 1.5, 3, 1.5]])
    # A target that counts is seen to have no loss.
    targets = tf.constant([[0, 1, 2, 2], [1, 0, 2, 2]])
    _, sums = eval_step(tokens, targets, weights, memory)
    assert not np.isfinite(sums.nll)
    _, sums = parts(tokens, targets, weights, memory)
    assert not np.isfinite(sums[0, 1]) and not np.isfinite(sums[0, 2])


def test_a_batch_is_whole_segments():
    model = TransformerXL(ModelConfig(9, num_layers=1, model_dim=4, num_heads=1))
    tokens = tf.zeros([2, 5], tf.int32)
    steps = (
        make_eval_step(model, False, 2),
        make_breakdown_step(model, frequency_bands(9), False, 2),
    )
    for step in steps:
        for start in (model.initial_memory(2, 3), model.initial_cache(2, 3)):
            with pytest.raises(ValueError, match="must be a multiple .* is 2. Received: 5"):
                step(tokens, tokens, tf.ones([2, 5]), start)
    with pytest.raises(ValueError, match="in_turn . segment_length, which is 4. Received: 6"):
        make_eval_step(model, False, 2, in_turn=2)(*[tf.zeros([2, 6], tf.int32)] * 2, 1.0, start)


def test_a_step_of_unknown_width():
    model = TransformerXL(ModelConfig(9, num_layers=1, model_dim=4, num_heads=1))
    step, memory = make_eval_step(model), model.initial_memory(2, 3)
    tokens = tf.zeros([2, 5], tf.int32)
    specification = tf.TensorSpec([2, None], tf.int32)

    @tf.function(input_signature=[specification], autograph=False)
    def run(tokens):
        return step(tokens, tokens, tf.ones(tf.shape(tokens)), memory)[1].nll

    expected = step(tokens, tokens, tf.ones([2, 5]), memory)[1].nll
    np.testing.assert_allclose(run(tokens), expected, rtol=1e-6)


def test_bands_by_rank_where_there_are_no_clusters():
    bands = frequency_bands(33_278)
    assert bands.starts == (0, 10, 100, 1000, 10_000)
    assert bands.names[0] == "rank 1 to 10"
    assert bands.names[-1] == "rank 10,001 to 33,278"
    assert frequency_bands(10).starts == (0,)
    ids = tf.constant([[0, 9, 10, 99], [100, 9999, 10_000, 33_277]])
    assert bands.of(ids).numpy().tolist() == [[0, 0, 1, 1], [2, 3, 4, 4]]
    clusters = frequency_bands(120, (10, 40))
    assert clusters == Bands(("head", "tail 1", "tail 2"), (0, 10, 40), 120)
    assert clusters.ends == (10, 40, 120)


def test_a_band_without_tokens_has_no_mean(tmp_path):
    global IDS
    bands = Bands(("seen", "never"), (0, 119), 120)
    evaluator = evaluator_of(small_model(), 2)
    kept, IDS = IDS, np.minimum(IDS, 50)
    try:
        parts = parts_of(evaluator, bands)
    finally:
        IDS = kept
    figures = parts.figures(bands)
    assert [row["tokens"] for row in figures["bands"]] == [150, 0]
    assert figures["bands"][1]["perplexity"] is None
    assert json.loads(json.dumps(figures)) == figures
    results = {"test": {"tokens": 150, "perplexity": parts.result.perplexity, **figures}}
    assert "never" in breakdown_tables(results)
    draw_breakdown(results, "A title", str(tmp_path / "eval.png"))
    assert (tmp_path / "eval.png").read_bytes().startswith(b"\x89PNG")
    assert [path.name for path in tmp_path.iterdir()] == ["eval.png"]


def test_tables_have_the_figures(broken_down):
    bands = frequency_bands(120, (10, 40))
    parts = broken_down[1]["test"]
    row = {"tokens": 150, "perplexity": parts.result.perplexity, **parts.figures(bands)}
    lines = breakdown_tables({"test": row}).splitlines()
    head = next(line for line in lines if line.startswith("  head"))
    assert head.split()[1:3] == ["0-9", str(int((IDS < 10).sum()))]
    assert f"{row['bands'][0]['perplexity']:,.2f}" in head
    # Positions 1, 2, 3 to 4, 5 to 7: all tokens once more.
    tail = lines[next(i for i, line in enumerate(lines) if "by position" in line) + 1 :]
    assert [line.split("  ")[1] for line in tail] == ["1", "2", "3 to 4", "5 to 7"]
    assert sum(int(line.split()[-2]) for line in tail) == 150
    settings = {"batch_size": 10, "segment_length": 64, "memory_length": 640}
    assert settings_line({**settings, "clamp_length": 400, "same_length": True}) == (
        "10 streams, segments of 64, memory of 640, distances clamped at 400, same length"
    )
    assert "no clamp" in settings_line({**settings, "clamp_length": -1, "same_length": False})


def test_results_that_cannot_be_written_are_shown(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(evaluation, "breakdown_tables", lambda results: "where the loss is")
    monkeypatch.setattr(evaluation, "results_table", lambda results: "the perplexity")
    with pytest.raises(FileNotFoundError, match=r"eval\.json cannot be written"):
        evaluation.write_results(str(tmp_path / "gone"), "text", {}, "its settings")
    shown = capsys.readouterr().out.split("\n")
    assert shown[:3] == ["where the loss is", "the perplexity", "with its settings"]


def test_segments_longer_than_all_streams_are_refused():
    arrays = {"train": np.zeros(900), "valid": np.zeros(40), "test": np.zeros(61)}
    data, splits = types.SimpleNamespace(arrays=arrays), ("valid", "test")
    evaluation.check_segment_length(TrainConfig(segment_length=100), data, splits, 2)
    evaluation.check_segment_length(TrainConfig(eval_segment_length=31), data, splits, 2)
    message = "must be at most 31, the longest of 2 streams of valid and test. Received: 32"
    with pytest.raises(ValueError, match=message):
        evaluation.check_segment_length(TrainConfig(eval_segment_length=32), data, splits, 2)
