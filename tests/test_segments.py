"""Arrays as batches: data_utils/{segments,unigram}.py."""

import math
import random
import re
import time

import numpy as np
import pytest
import tensorflow as tf

from data_utils import EvalSegments, TrainSegments, unigram_nll

EOS = 99


def array(n: int, dtype="uint16") -> np.ndarray:
    """Tokens that are their own positions, but for a few that repeat `<eos>`."""
    return np.arange(n).astype(dtype)


# Training ------------------------------------------------------------------------------------


def test_training_batches_by_hand():
    segments = TrainSegments(array(15), batch_size=2, segment_length=3)
    assert segments.steps_per_epoch == 2
    batches = [segments.batch(step) for step in range(3)]
    assert [b.inputs.tolist() for b in batches] == [
        [[0, 1, 2], [7, 8, 9]],
        [[3, 4, 5], [10, 11, 12]],
        [[0, 1, 2], [7, 8, 9]],
    ]
    assert batches[0].targets.tolist() == [[1, 2, 3], [8, 9, 10]]
    assert batches[1].targets.tolist() == [[4, 5, 6], [11, 12, 13]]
    assert [segments.starts_epoch(step) for step in range(5)] == [True, False, True, False, True]
    for part, dtype in zip(batches[0], (np.int32, np.int32, np.float32), strict=True):
        assert (part.dtype, part.shape) == (dtype, (2, 3))
    assert (batches[0].weights == 1).all()


def test_training_batches_agree_with_a_slow_oracle():
    generator = random.Random(0)
    num_checked = 0
    for n in [*range(1, 40), 97, 200]:
        tokens = [generator.randrange(50) for _ in range(n)]
        for batch_size in range(1, 8):
            for length in range(1, 8):
                stream = n // batch_size
                steps = 0
                while (steps + 1) * length + 1 <= stream:
                    steps += 1
                if not steps:
                    with pytest.raises(ValueError, match="needs segment_length"):
                        TrainSegments(np.array(tokens), batch_size, length)
                    continue
                segments = TrainSegments(np.array(tokens), batch_size, length)
                assert segments.steps_per_epoch == steps
                for step in (0, 1, steps - 1, steps, 3 * steps + 1):
                    batch = segments.batch(step)
                    for b in range(batch_size):
                        for i in range(length):
                            place = b * stream + (step % steps) * length + i
                            assert batch.inputs[b, i] == tokens[place]
                            assert batch.targets[b, i] == tokens[place + 1]
                            num_checked += 1
    assert num_checked > 10_000


def test_wikitext2_has_2039_steps():
    assert TrainSegments(np.zeros(2_088_628, np.uint16), 16, 64).steps_per_epoch == 2039


@pytest.mark.parametrize(
    ("n", "batch_size", "length", "message"),
    [
        (20, 4, 5, r"for 20 tokens: use batch_size at most 3 or segment_length at most 4\."),
        (20, 30, 5, r"use batch_size at most 3\."),
        (5, 2, 9, r"use segment_length at most 1\."),
        (2, 2, 2, r"use more text\."),
        (20, 0, 5, r"at least 1\. Received batch_size=0, segment_length=5"),
        (20, 2, 0, r"at least 1\. Received batch_size=2, segment_length=0"),
        (0, 1, 1, r"N > 0"),
    ],
)
def test_training_sizes(n, batch_size, length, message):
    with pytest.raises(ValueError, match=message):
        TrainSegments(array(n), batch_size, length)


def test_the_sizes_an_error_recommends_work():
    generator = random.Random(7)
    for _ in range(300):
        n, batch_size, length = (generator.randrange(1, 40) for _ in range(3))
        try:
            TrainSegments(array(n), batch_size, length)
            continue
        except ValueError as error:
            advice = re.findall(r"(batch_size|segment_length) at most (\d+)", str(error))
        for name, largest in advice:
            sizes = {"batch_size": batch_size, "segment_length": length}
            TrainSegments(array(n), **{**sizes, name: int(largest)})
            with pytest.raises(ValueError, match="needs segment_length"):
                TrainSegments(array(n), **{**sizes, name: int(largest) + 1})


def test_arrays_that_are_no_ids():
    for bad in (np.zeros((2, 3), np.int32), np.zeros(5, np.float32)):
        with pytest.raises(ValueError, match="of an integer dtype. Received shape"):
            TrainSegments(bad, 1, 1)
        with pytest.raises(ValueError, match="of an integer dtype. Received shape"):
            EvalSegments(bad, 0, 1, 1)


def test_negative_steps():
    segments = TrainSegments(array(20), 2, 3)
    with pytest.raises(ValueError, match="at least 0. Received: -1"):
        segments.batch(-1)
    for arguments in ((-1,), (0, -1)):
        with pytest.raises(ValueError, match="Steps are at least 0"):
            segments.dataset(*arguments)


# Evaluation ----------------------------------------------------------------------------------


def test_the_example_of_the_docstring():
    segments = EvalSegments(array(5), EOS, batch_size=2, segment_length=2)
    assert (segments.num_tokens, segments.num_steps) == (5, 2)
    first, second = segments.batch(0), segments.batch(1)
    assert first.inputs.tolist() == [[EOS, 0], [2, 3]]
    assert first.targets.tolist() == [[0, 1], [3, 4]]
    assert first.weights.tolist() == [[1, 1], [1, 1]]
    assert second.inputs.tolist() == [[1, EOS], [EOS, EOS]]
    assert second.targets.tolist() == [[2, EOS], [EOS, EOS]]
    assert second.weights.tolist() == [[1, 0], [0, 0]]
    for part, dtype in zip(first, (np.int32, np.int32, np.float32), strict=True):
        assert (part.dtype, part.shape) == (dtype, (2, 2))


def check_every_token_is_scored_once(tokens: list[int], batch_size: int, length: int) -> None:
    """Reads the batches as a model does, row by row, and ticks off the tokens one by one."""
    segments = EvalSegments(np.array(tokens, np.uint16), EOS, batch_size, length)
    batches = [segments.batch(step) for step in range(segments.num_steps)]
    position = 0
    for b in range(batch_size):
        row_has_ended = False
        for step, batch in enumerate(batches):
            for i in range(length):
                if batch.weights[b, i] == 0.0:
                    assert batch.inputs[b, i] == batch.targets[b, i] == EOS
                    row_has_ended = True
                    continue
                assert batch.weights[b, i] == 1.0
                assert not row_has_ended, "padding in the middle of a stream"
                assert batch.targets[b, i] == tokens[position]
                previous = tokens[position - 1] if position else EOS
                assert batch.inputs[b, i] == previous, (b, step, i)
                position += 1
    assert position == len(tokens) == segments.num_tokens
    assert sum(float(batch.weights.sum()) for batch in batches) == len(tokens)
    # No step is a waste for all rows, and the streams are of equal length but for the last ones.
    assert all(batch.weights.any() for batch in batches)
    assert segments.num_steps == math.ceil(math.ceil(len(tokens) / batch_size) / length)


def test_every_token_is_scored_exactly_once():
    generator = random.Random(0)
    for n in [*range(1, 26), 60, 199, 200]:
        tokens = [generator.choice([EOS, *range(40)]) for _ in range(n)]
        for batch_size in range(1, 8):
            for length in range(1, 8):
                check_every_token_is_scored_once(tokens, batch_size, length)
    for _ in range(150):
        n = generator.randrange(1, 201)
        tokens = [generator.randrange(40) for _ in range(n)]
        check_every_token_is_scored_once(
            tokens, generator.randrange(1, 220), generator.randrange(1, 220)
        )


def test_evaluation_errors():
    with pytest.raises(ValueError, match="N > 0"):
        EvalSegments(array(0), EOS, 1, 1)
    with pytest.raises(ValueError, match="batch_size=0"):
        EvalSegments(array(3), EOS, 0, 1)
    with pytest.raises(ValueError, match="eos_id must be an id.*Received: -1"):
        EvalSegments(array(3), -1, 1, 1)
    for step in (-1, 3):
        with pytest.raises(ValueError, match=rf"in 0 to 2\. Received: {step}\."):
            EvalSegments(array(3), EOS, 1, 1).batch(step)


# Datasets ------------------------------------------------------------------------------------


def test_datasets_have_the_batches_and_static_shapes():
    train = TrainSegments(array(101), 3, 5)
    evaluation = EvalSegments(array(101), EOS, 3, 5)
    for dataset, segments, steps in (
        (train.dataset(num_steps=10), train, range(10)),
        (train.dataset(7, 4), train, range(7, 11)),
        (train.dataset(0, 0), train, range(0)),
        (evaluation.dataset(), evaluation, range(evaluation.num_steps)),
    ):
        assert tuple(dataset.element_spec) == (
            tf.TensorSpec((3, 5), tf.int32),
            tf.TensorSpec((3, 5), tf.int32),
            tf.TensorSpec((3, 5), tf.float32),
        )
        assert dataset.element_spec._fields == ("inputs", "targets", "weights")
        batches = list(dataset.as_numpy_iterator())
        assert len(batches) == len(steps) == dataset.cardinality()
        for batch, step in zip(batches, steps, strict=True):
            for found, expected in zip(batch, segments.batch(step), strict=True):
                np.testing.assert_array_equal(found, expected)


def test_training_goes_on_without_end_and_seeks_at_once():
    segments = TrainSegments(array(1000), 2, 3)
    far = 10**15 + 1
    start = time.perf_counter()
    batches = list(segments.dataset(start_step=far).take(400).as_numpy_iterator())
    assert time.perf_counter() - start < 20
    assert len(batches) == 400 > 2 * segments.steps_per_epoch
    for i in (0, 399):
        np.testing.assert_array_equal(batches[i].inputs, segments.batch(far + i).inputs)


def test_the_array_stays_on_the_disk(tmp_path):
    """A batch of a mapped file that is longer than any memory: only its slice is read."""
    n = 1 << 42
    path = tmp_path / "huge.npy"
    with open(path, "wb") as file:
        try:
            file.truncate(2 * n)
        except OSError:
            pytest.skip("the file system has no sparse files of 8 TB")
    mapped = np.memmap(path, np.uint16, mode="r", shape=(n,))
    assert TrainSegments(mapped, 4, 8).batch(n // 64).inputs.sum() == 0
    segments = EvalSegments(mapped, EOS, 4, 8)
    assert segments.batch(segments.num_steps - 1).weights.sum() == 32
    for batch in segments.dataset().take(1):
        assert batch.inputs[0, 0] == EOS


# Unigram -------------------------------------------------------------------------------------


def test_unigram_by_hand():
    # Of 3 + 1 + 0 counts and 3 ids: probabilities 4/7, 2/7, 1/7.
    expected = -(2 * math.log(4 / 7) + math.log(1 / 7)) / 3
    assert unigram_nll(np.array([3, 1, 0]), array(3) * 0 + [0, 2, 0]) == pytest.approx(expected)


def test_unigram_over_several_blocks(monkeypatch):
    monkeypatch.setattr("data_utils.unigram._BLOCK_TOKENS", 7)
    generator = np.random.default_rng(0)
    counts = generator.integers(0, 50, 13)
    for n in (1, 6, 7, 8, 14, 100):
        ids = generator.integers(0, 13, n).astype(np.uint16)
        total = sum(math.log((counts[i] + 1) / (sum(counts) + 13)) for i in ids)
        assert unigram_nll(counts, ids) == pytest.approx(-total / n, rel=1e-12)


def test_unigram_errors():
    with pytest.raises(ValueError, match=r"in 0 to 1.*Received 0 to 2"):
        unigram_nll(np.array([1, 1]), array(3))
    with pytest.raises(ValueError, match="N > 0"):
        unigram_nll(np.array([1, 1]), array(0))
    for bad in ([], [[1]], [-1]):
        with pytest.raises(ValueError, match="one number, at least 0, for each id"):
            unigram_nll(np.array(bad), array(1))
