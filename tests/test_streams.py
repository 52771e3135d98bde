"""Orders of training: data_utils/{streams,segments}.py, with shuffling, rolling, lengths."""

import random
import time

import numpy as np
import pytest
import tensorflow as tf

from data_utils import EvalSegments, TrainSegments
from data_utils.id_arrays import ShardedArray

KINDS = {
    "plain": {},
    "roll": {"roll": True},
    "variable": {"variable_length": True},
    "roll and variable": {"roll": True, "variable_length": True},
    "shuffled": {"shuffle_documents": True},
    "shuffled and variable": {"shuffle_documents": True, "variable_length": True},
}


def some_documents(generator: random.Random, n: int) -> np.ndarray:
    places = sorted({0, *(generator.randrange(n) for _ in range(n // 6))})
    return np.array(places, np.int64)


def epoch_of(segments: TrainSegments, epoch: int) -> list:
    first = epoch * segments.steps_per_epoch
    return [segments.batch(first + i) for i in range(segments.steps_per_epoch)]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("sharded", [False, True])
def test_rows_go_on_and_no_token_is_read_twice(kind, sharded):
    """Tokens are their own places, so that everything can be seen in them."""
    generator = random.Random(0)
    for _ in range(60):
        n = generator.randrange(20, 400)
        batch_size, length = generator.randrange(1, 6), generator.randrange(1, 9)
        if n // batch_size < length + 1:
            continue
        array = np.arange(n).astype(np.uint16)
        if sharded:
            cuts = sorted(generator.sample(range(n), 3))
            array = ShardedArray(np.split(array, cuts))
        documents = some_documents(generator, n)
        segments = TrainSegments(array, batch_size, length, documents=documents, **KINDS[kind])
        follows = successors(kind, n, batch_size, documents)
        for epoch in (0, 3):
            batches = epoch_of(segments, epoch)
            rows = np.concatenate([batch.inputs for batch in batches], axis=1)
            targets = np.concatenate([batch.targets for batch in batches], axis=1)
            np.testing.assert_array_equal(rows[:, 1:], targets[:, :-1])
            assert len(np.unique(rows)) == rows.size, "a token was read twice"
            for row, last in zip(rows.tolist(), targets[:, -1].tolist(), strict=True):
                for a, b in zip(row, [*row[1:], last], strict=True):
                    assert b in follows(a)
            # At most a segment of each stream is left over.
            assert n // batch_size - rows.shape[1] <= length
            assert all(batch.weights.all() for batch in batches)


def successors(kind, n, batch_size, documents):
    """What may follow a token."""
    stream = n // batch_size
    starts, ends = set(documents.tolist()), {*(documents[1:] - 1).tolist(), n - 1}

    def follows(a):
        if kind.startswith("shuffled") and a in ends:
            return starts
        if kind.startswith("roll") and a % stream == stream - 1:
            return {a + 1 - stream}
        return {a + 1}

    return follows


@pytest.mark.parametrize("kind", KINDS)
def test_any_step_is_the_same_for_a_seed_whatever_was_read_before(kind):
    array = np.arange(997).astype(np.int32)
    documents = some_documents(random.Random(1), 997)

    def make(seed):
        return TrainSegments(array, 3, 8, documents=documents, seed=seed, **KINDS[kind])

    one, other_seed = make(5), make(6)
    steps = [0, 1, one.steps_per_epoch - 1, one.steps_per_epoch, 10**6, 7, 10**15 + 3]
    for step in steps:
        for found, expected in zip(one.batch(step), make(5).batch(step), strict=True):
            np.testing.assert_array_equal(found, expected)
    epochs = [np.concatenate([b.inputs for b in epoch_of(one, i)], 1) for i in range(3)]
    others = np.concatenate([b.inputs for b in epoch_of(other_seed, 0)], 1)
    assert (others.shape == epochs[0].shape and (others == epochs[0]).all()) == (
        kind in ("plain", "variable")
    )
    same_order = all((epoch == epochs[0]).all() for epoch in epochs)
    assert same_order == (kind in ("plain", "variable"))
    assert [one.starts_epoch(step) for step in (0, 1, one.steps_per_epoch)] == [True, False, True]


def test_lengths_vary_equally_often():
    segments = TrainSegments(np.zeros(10_000, np.uint16), 2, 16, variable_length=True)
    orders = []
    for epoch in range(2):
        lengths = [batch.inputs.shape[1] for batch in epoch_of(segments, epoch)]
        assert set(lengths) == {4, 8, 12, 16}
        counts = np.bincount(lengths)[[4, 8, 12, 16]]
        assert counts.max() - counts.min() <= 1
        orders.append(lengths)
    assert orders[0] != orders[1]
    dataset = segments.dataset(3, 5)
    assert tuple(dataset.element_spec) == (
        tf.TensorSpec((2, None), tf.int32),
        tf.TensorSpec((2, None), tf.int32),
        tf.TensorSpec((2, None), tf.float32),
    )
    found = [batch.inputs.shape[1] for batch in dataset.as_numpy_iterator()]
    assert found == orders[0][3:8]


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_of_the_same_document(kind):
    """Slow: goes back from each place while the token before is of the same document."""
    generator = random.Random(3)
    n, batch_size = 300, 4
    documents = some_documents(generator, n)
    document_of = np.searchsorted(documents, np.arange(n), "right")
    segments = TrainSegments(
        np.arange(n).astype(np.int32), batch_size, 5, documents=documents, **KINDS[kind]
    )
    num_checked = 0
    for epoch in range(3):
        batches = epoch_of(segments, epoch)
        rows = np.concatenate([batch.inputs for batch in batches], axis=1)
        place = 0
        for index, batch in enumerate(batches):
            found = segments.in_document(epoch * segments.steps_per_epoch + index)
            for b in range(batch_size):
                count = 0
                while count < place:
                    before, here = rows[b, place - count - 1], rows[b, place - count]
                    if here != before + 1 or document_of[here] != document_of[before]:
                        break
                    count += 1
                assert found[b] == count
                num_checked += count > 0
            place += batch.inputs.shape[1]
    assert num_checked > 30


def test_settings_that_contradict_each_other():
    array, documents = np.zeros(50, np.int32), np.array([0, 9])
    for settings in (
        {"shuffle_documents": True},
        {"shuffle_documents": True, "documents": documents, "roll": True},
    ):
        with pytest.raises(ValueError, match="must be known, and their streams cannot be rolled"):
            TrainSegments(array, 2, 5, **settings)
    for bad in ([], [1, 4], [0, 4, 4], [0, 50]):
        with pytest.raises(ValueError, match="Sentences begin"):
            TrainSegments(array, 2, 5, documents=np.array(bad), shuffle_documents=True)


def test_a_far_step_takes_no_longer():
    array = np.zeros(3_000_000, np.uint16)
    segments = TrainSegments(array, 60, 150, roll=True, variable_length=True)

    def seconds(step):
        fresh = TrainSegments(array, 60, 150, roll=True, variable_length=True)
        start = time.perf_counter()
        fresh.batch(step)
        return time.perf_counter() - start

    near, far = (min(seconds(step) for _ in range(20)) for step in (0, 1_000_000))
    assert far < 10 * near + 1e-3, (near, far)
    assert segments.batch(10**12).inputs.shape[0] == 60


# Evaluation ----------------------------------------------------------------------------------


def check_evaluation(tokens: list[int], batch_size: int, length: int) -> None:
    """Every token is a target once; its context is what came before it in its stream."""
    segments = EvalSegments(np.array(tokens, np.uint16), 999, batch_size, length)
    seen: list[tuple[int, list[int]]] = []
    rows = [[] for _ in range(batch_size)]
    total = 0.0
    for step in range(segments.num_steps):
        inputs, targets, weights = segments.batch(step)
        total += float(weights.sum())
        for b in range(batch_size):
            for i in range(length):
                if weights[b, i]:
                    rows[b].append((int(inputs[b, i]), int(targets[b, i])))
    for row in rows:
        context: list[int] = []
        for given, target in row:
            context.append(given)
            seen.append((target, list(context)))
    assert total == len(tokens) == len(seen)
    stream = -(-len(tokens) // batch_size)
    for place, (target, context) in enumerate(seen):
        begin = place // stream * stream
        first = [999] if begin == 0 else [tokens[begin - 1]]
        assert target == tokens[place]
        assert context == first + tokens[begin:place]


def test_every_token_is_scored_once_with_its_context():
    generator = random.Random(11)
    for n in [*range(1, 30), *(generator.randrange(30, 501) for _ in range(25)), 500]:
        tokens = [generator.randrange(900) for _ in range(n)]
        for _ in range(4):
            check_evaluation(tokens, generator.randrange(1, 12), generator.randrange(1, 70))
        check_evaluation(tokens, generator.randrange(1, n + 5), generator.randrange(1, n + 5))


def test_every_token_is_scored_once_for_all_sizes():
    """Every batch size and length up to the number of tokens, for every number up to 40."""
    generator = random.Random(12)
    for n in range(1, 41):
        tokens = [generator.randrange(900) for _ in range(n)]
        for batch_size in range(1, n + 2):
            for length in range(1, n + 2):
                check_evaluation(tokens, batch_size, length)
