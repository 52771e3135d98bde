"""What a cache is given: sizes known at run time only, arrays and lists, and what it refuses."""

import numpy as np
import pytest
import tensorflow as tf

from tests.test_cache import BATCH, model_of, segments
from transformer_xl.new_cache import cache_of


@pytest.mark.parametrize("jit_compile", [False, True])
def test_sizes_that_a_graph_does_not_know(jit_compile):
    """Any B and L, no token among them; XLA compiles for each."""
    model = model_of()
    spec = tf.TensorSpec([None, None], tf.int32)

    @tf.function(jit_compile=jit_compile, input_signature=[spec, spec])
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
