"""What a cache is given: sizes known at run time only, arrays and lists, and what it refuses."""

import numpy as np
import pytest
import tensorflow as tf

from tests.test_cache import BATCH, model_of, segments
from transformer_xl.new_cache import cache_of


@pytest.mark.slow
@pytest.mark.parametrize("jit_compile", [False, True])
def test_sizes_that_a_graph_does_not_know(jit_compile):
    """Any B and L, no token among them; XLA compiles for each."""
    model = model_of()
    spec = tf.TensorSpec([None, None], tf.int32)

    @tf.function(jit_compile=jit_compile, input_signature=[spec, spec], autograph=False)
    def read(first, second):
        cache = model.initial_cache(tf.shape(first)[0], 5)
        _, cache = model.extend(first, cache)
        return model.extend(second, cache)

    for lengths in ((4, 3), (0, 1), (6, 0)):
        first, second = segments(lengths)
        _, memory = model(first, model.initial_memory(BATCH, 5))
        expected, memory = model(second, memory)
        found, cache = read(first, second)
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5)
        np.testing.assert_array_equal(cache.valid, memory.valid)
        assert cache.length == 5


def test_no_tokens_change_nothing():
    model = model_of()
    first, none, *rest = segments((3, 0, 1, 1, 4))
    _, cache = model.extend(first, model.initial_cache(BATCH))
    hidden, same = model.extend(none, cache)
    assert hidden.shape == (BATCH, 0, 8)
    for tokens in rest:
        expected, cache = model.extend(tokens, cache)
        found, same = model.extend(tokens, same)
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("kind", [np.asarray, np.ndarray.tolist], ids=["array", "list"])
def test_tokens_that_are_no_tensors(kind):
    model = model_of()
    (tokens,) = segments((4,))
    expected, _ = model.extend(tokens, model.initial_cache(BATCH))
    found, _ = model.extend(kind(tokens.numpy()), model.initial_cache(BATCH))
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("segment_length", [0, -3])
def test_refuses_to_read_no_token_at_a_time(segment_length):
    model = model_of()
    with pytest.raises(ValueError, match=f"an integer of at least 1. Received: {segment_length}"):
        model.initial_cache(BATCH, segment_length=segment_length)
    with pytest.raises(ValueError, match=f"an integer of at least 1. Received: {segment_length}"):
        cache_of(model, model.initial_memory(BATCH), segment_length)


@pytest.mark.parametrize("length", [1, 4])
def test_refuses_what_is_no_cache_of_its_own(length):
    model = model_of()
    (tokens,) = segments((length,))
    for changes, received in (
        ({"num_layers": 3, "block_pattern": "aaa"}, "3 layers of 2 heads of size 3"),
        ({"num_layers": 1, "block_pattern": "a"}, "1 layers of 2 heads of size 3"),
        ({"num_heads": 3}, "2 layers of 3 heads of size 3"),
        ({"head_dim": 4}, "2 layers of 2 heads of size 4"),
    ):
        foreign = model_of(**changes).initial_cache(BATCH)
        with pytest.raises(ValueError, match=f"of 2 heads of size 3. Received: {received}"):
            model.extend(tokens, foreign)
    for rows in (1, BATCH + 1):
        with pytest.raises(ValueError, match=f"{rows} rows for {BATCH} rows.*batch_size={BATCH}"):
            model.extend(tokens, model.initial_cache(rows))
    with pytest.raises(ValueError, match="must be a Cache. Received: Memory"):
        model.extend(tokens, model.initial_memory(BATCH))


@pytest.mark.parametrize("kind", [tuple, np.array, tf.constant, tf.Variable])
@pytest.mark.parametrize(
    "lengths, message",
    [
        ((1, 9, 3), "from 0 to L.*Received: lengths from 1 to 9 for L=8. Pad rows"),
        ((-1, 8, 3), "from 0 to L.*Received: lengths from -1 to 8 for L=8. Pad rows"),
        ((1, 8), r"integers of the shape \[B\].*Received: int\d+ of shape \(2,\) for 3 rows"),
        (8, r"integers of the shape \[B\].*Received: int\d+ of shape \(\) for 3 rows"),
        ((1.0, 8.0, 3.0), r"integers of the shape \[B\].*Received: float\d+ of shape \(3,\)"),
    ],
)
def test_refuses_lengths_that_rows_cannot_have(kind, lengths, message):
    model = model_of()
    (tokens,) = segments((8,))
    given = lengths if kind is tuple else kind(lengths)

    def read(tokens):
        return model.extend(tokens, model.initial_cache(BATCH), lengths=given)

    with pytest.raises(ValueError, match=message):
        read(tokens)
    if kind is not tf.Variable:  # whose value a graph does not know
        with pytest.raises(ValueError, match=message):
            tf.function(read, autograph=False)(tokens)


def test_lengths_that_a_graph_does_not_know_are_not_waited_for():
    model = model_of()
    (tokens,) = segments((8,))

    @tf.function(autograph=False)
    def read(lengths):
        return model.extend(tokens, model.initial_cache(BATCH), lengths=lengths)

    lengths = tf.constant([1, 8, 3])
    expected, _ = model.extend(tokens, model.initial_cache(BATCH), lengths=lengths)
    found, _ = read(lengths)
    np.testing.assert_allclose(found[:, -1], expected[:, -1], rtol=0, atol=1e-6)


@pytest.mark.parametrize("start", ["empty", "zeros"])
def test_a_row_may_read_nothing(start):
    model = model_of(memory_start=start)
    tokens, after = segments((8, 2))
    _, cache = model.extend(tokens, model.initial_cache(BATCH), lengths=[0, 8, 3])
    found, _ = model.extend(after, cache)
    expected, _ = model.extend(after, model.initial_cache(BATCH))
    np.testing.assert_allclose(found[0], expected[0], rtol=0, atol=1e-6)


def test_refuses_padding_between_the_tokens_of_a_row():
    model = model_of()
    first, second = segments((3, 4))
    _, cache = model.extend(first, model.initial_cache(BATCH))
    model.extend(second, cache, lengths=[4, 4, 4])
    with pytest.raises(ValueError, match=r"lengths \[0, 3\] of L=4 for the rows \[0, 2\]"):
        model.extend(second, cache, lengths=[0, 4, 3])
    cache = cache.reset([True, False, True])
    _, cache = model.extend(second, cache, lengths=[0, 4, 3])
    np.testing.assert_array_equal(cache.valid, [0, 5, 3])
