"""The cache against the uncached model, which the golden numbers and the oracle stand for."""

import dataclasses
import functools
import itertools

import keras
import numpy as np
import pytest
import tensorflow as tf

from transformer_xl import ModelConfig, TrainConfig, TransformerXL
from transformer_xl.cache import Cache, extend
from transformer_xl.new_cache import cache_of, lengthened
from transformer_xl.training import evaluate as evaluation
from transformer_xl.training.devices import Stretches
from transformer_xl.training.evaluate import Evaluator
from transformer_xl.training.steps import nll_in_turn
from transformer_xl.turned_kernels import kernels_for_one_row, turned_kernels

pytestmark = pytest.mark.usefixtures("graphs_as_written")

CONFIG = ModelConfig(
    vocab_size=23,
    num_layers=2,
    model_dim=8,
    num_heads=2,
    head_dim=3,
    feed_forward_dim=9,
    cutoffs=(10,),
    div_val=2,
    block_pattern="afaf",
    init_stddev=0.4,
    memory_length=5,
    dropout=0.3,
)
BATCH = 3

slow = functools.partial(pytest.param, marks=pytest.mark.slow)


@functools.cache  # no test changes its weights
def model_of(**changes):
    keras.utils.set_random_seed(3)
    return TransformerXL(dataclasses.replace(CONFIG, **changes))


def segments(lengths):
    draw = np.random.default_rng(1)
    return [tf.constant(draw.integers(0, 23, [BATCH, length]), tf.int32) for length in lengths]


def check_same(model, lengths, memory, cache, atol=1e-5, **attention):
    for tokens in segments(lengths):
        expected, memory = model(tokens, memory, **attention)
        found, cache = model.extend(tokens, cache, attention.get("same_length"))
        assert found.dtype == expected.dtype
        np.testing.assert_allclose(
            tf.cast(found, tf.float32), tf.cast(expected, tf.float32), rtol=0, atol=atol
        )
        np.testing.assert_array_equal(cache.valid, memory.valid)
    return memory, cache


MIXED = (1, 4, 1, 1, 12, 3, *(1,) * 7, 2)
ONE_LAYER = {"num_layers": 1, "block_pattern": "af"}


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"layer_norm": "pre", "final_norm": True},
        slow({"memory_start": "zeros"}),
        {"memory_start": "zeros", "layer_norm": "pre", **ONE_LAYER},
        {"clamp_length": 3, "same_length": True, **ONE_LAYER},
        slow({"clamp_length": 3}),
        slow({"same_length": True}),
        {"untie_position_biases": False, "block_pattern": "aaf"},
        {"num_heads": 1, "head_dim": 6, **ONE_LAYER},
    ],
)
def test_segments_of_any_length(changes):
    model = model_of(**changes)
    check_same(model, MIXED, model.initial_memory(BATCH), model.initial_cache(BATCH))


@pytest.mark.parametrize(
    "memory_length, segment_length",
    [(0, 1), *(slow(*case) for case in ((1, 4), (9, 1))), (9, 20)],
)
def test_other_lengths_than_the_configuration(memory_length, segment_length):
    model = model_of()
    memory = model.initial_memory(BATCH, memory_length)
    cache = model.initial_cache(BATCH, memory_length, segment_length, clamp_length=4)
    assert cache.length == memory_length
    attention = {"clamp_length": 4, "same_length": memory_length > 0}
    check_same(model, MIXED, memory, cache, **attention)


def test_rows_with_different_pasts():
    model = model_of()
    memory, cache = check_same(
        model, (4, 1, 1), model.initial_memory(BATCH), model.initial_cache(BATCH)
    )
    rows = tf.constant([False, True, False])
    memory, cache = check_same(model, (1, 1), memory.reset(rows), cache.reset(rows))
    np.testing.assert_array_equal(cache.valid, [5, 2, 5])
    rows = tf.constant([True, False, False])
    check_same(model, (3, 1, 1, 4), memory.reset(rows), cache.reset(rows))


def test_a_memory_becomes_a_cache():
    model = model_of(layer_norm="pre")
    memory = model.initial_memory(BATCH)
    for tokens in segments((3,)):
        _, memory = model(tokens, memory)
    check_same(model, (1, 2, 1, 7, 1), memory, cache_of(model, memory))


def test_in_bfloat16():
    # The products are rounded to 8 bits in either order of summation.
    keras.utils.set_random_seed(3)
    model = TransformerXL(CONFIG, dtype="mixed_bfloat16")
    cache = model.initial_cache(BATCH)
    assert {tensor.dtype for tensor in (*cache.keys, *cache.positions)} == {tf.bfloat16}
    check_same(model, MIXED, model.initial_memory(BATCH), cache, atol=0.07)


# Rows are written in the same way in a graph and in XLA.
@pytest.mark.parametrize(
    "jit_compile, outside_xla", [slow(False, False), (False, True), (True, False)]
)
def test_in_a_compiled_loop(jit_compile, outside_xla):
    model = model_of()
    (tokens,) = segments((17,))

    @tf.function(jit_compile=jit_compile, autograph=False)
    def read(tokens, cache):
        def body(i, cache, results):
            hidden, cache = model.extend(tokens[:, i, None], cache, outside_xla=outside_xla)
            return i + 1, cache, results.write(i, hidden[:, 0])

        results = tf.TensorArray(tf.float32, 17, element_shape=[BATCH, 8])
        state = (tf.constant(0), cache, results)
        _, cache, results = tf.while_loop(lambda i, *_: i < 17, body, state)
        return results.stack(), cache

    found, cache = read(tokens, model.initial_cache(BATCH))
    memory = model.initial_memory(BATCH)
    for i in range(17):
        expected, memory = model(tokens[:, i, None], memory)
        np.testing.assert_allclose(found[i], expected[:, 0], rtol=0, atol=1e-5)
    np.testing.assert_array_equal(cache.valid, memory.valid)


@pytest.mark.parametrize(
    ("layer_norm", "start"),
    [("post", "empty"), ("pre", "zeros"), slow("post", "zeros"), slow("pre", "empty")],
)
def test_rows_of_different_lengths(start, layer_norm):
    model = model_of(memory_start=start, layer_norm=layer_norm)
    lengths = (1, 8, 3)
    (tokens,) = segments((8,))
    (after,) = segments((1,))
    hidden, cache = model.extend(tokens, model.initial_cache(BATCH), lengths=tf.constant(lengths))
    more, cache = model.extend(after, cache)
    longer, _ = model.extend(tokens[:, :3], cache)
    for row, length in enumerate(lengths):
        memory = model.initial_memory(1)
        own = slice(row, row + 1)
        expected, memory = model(tokens[own, 8 - length :], memory)
        np.testing.assert_allclose(hidden[own, 8 - length :], expected, rtol=0, atol=1e-5)
        expected, memory = model(after[own], memory)
        np.testing.assert_allclose(more[own], expected, rtol=0, atol=1e-5)
        expected, _ = model(tokens[own, :3], memory)
        np.testing.assert_allclose(longer[own], expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("read", "same_length"),
    [
        ((4,), False),
        ((2, 1, 1), True),
        *(slow((4,), True), slow((2, 1, 1), False), slow((1, 1, 1), False), slow((1, 1, 1), True)),
    ],
)
def test_a_lengthened_cache_goes_on_as_one_that_was_long_from_the_start(read, same_length):
    model = model_of(clamp_length=6)
    *before, token = segments((*read, 1))
    short, long = model.initial_cache(BATCH, 4), model.initial_cache(BATCH, 9)
    for tokens in before:
        _, short = model.extend(tokens, short)
        _, long = model.extend(tokens, long)
    forgets = tf.constant([False, True, False])
    long, short = long.reset(forgets), lengthened(model, short.reset(forgets), 9)
    assert short.length == 9
    for _ in range(12):
        expected, long = model.extend(token, long, same_length)
        found, short = model.extend(token, short, same_length)
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5)
        np.testing.assert_array_equal(short.valid, long.valid)


def test_refuses_lengths_that_do_not_fit():
    model = model_of()
    with pytest.raises(ValueError, match="memory_length must be at least 0. Received: -1"):
        model.initial_cache(BATCH, -1)
    with pytest.raises(ValueError, match="clamp_length must be at least 1.*Received: 0"):
        model.initial_cache(BATCH, clamp_length=0)
    (tokens,) = segments((1,))
    with pytest.raises(ValueError, match="same_length .* needs a memory_length of at least 1"):
        model.extend(tokens, model.initial_cache(BATCH, 0), same_length=True)
    for segment_length in (0, 2):
        with pytest.raises(ValueError, match=f"={segment_length} for 1 tokens"):
            model(tokens, segment_length=segment_length)
        with pytest.raises(ValueError, match=f"={segment_length} for 1 tokens"):
            model.extend(tokens, model.initial_cache(BATCH), segment_length=segment_length)
    with pytest.raises(ValueError, match="both lengths and segment_length=1"):
        lengths = tf.ones([BATCH], tf.int32)
        model.extend(tokens, model.initial_cache(BATCH), lengths=lengths, segment_length=1)


@pytest.mark.parametrize("layer_norm", ["post", "pre"])
def test_turned_kernels_are_the_same_kernels(layer_norm):
    model = model_of(layer_norm=layer_norm)
    kernels = turned_kernels(model)
    plain = turned = model.initial_cache(BATCH)
    for tokens in segments((1,) * 7):
        expected, plain = extend(model, tokens, plain)
        found, turned = extend(model, tokens, turned, turned_kernels=kernels)
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5)
    for one, other in zip(tf.nest.flatten(turned), tf.nest.flatten(plain), strict=True):
        np.testing.assert_allclose(one, other, rtol=0, atol=1e-5)


SIZES = (
    ({"model_dim": 8, "head_dim": 4, "feed_forward_dim": 12}, [(8, 24), (8, 12)]),
    ({"model_dim": 8, "head_dim": 4, "feed_forward_dim": 6}, [(8, 24)]),
    # With columns of zeros, so that cores share the kernel.
    ({"model_dim": 400, "head_dim": 200, "feed_forward_dim": 12}, [(400, 1312)]),
)


@pytest.mark.parametrize(
    ("layer_norm", "sizes"),
    [("post", 0), ("pre", 1), ("post", 2), slow("pre", 0), slow("post", 1), slow("pre", 2)],
)
def test_kernels_for_one_row_are_the_same_kernels(layer_norm, sizes):
    sizes, shapes = SIZES[sizes]
    model = model_of(layer_norm=layer_norm, **sizes)
    kernels = kernels_for_one_row(model)
    found = [tuple(one.kernel.shape) for pair in kernels for one in pair if one]
    assert found == shapes * model.config.num_layers
    plain = laid_out = model.initial_cache(1)
    for tokens in segments((1,) * 7):
        expected, plain = extend(model, tokens[:1], plain)
        read, laid_out = extend(model, tokens[:1], laid_out, turned_kernels=kernels)
        np.testing.assert_allclose(read, expected, rtol=0, atol=1e-5)
    for one, other in zip(tf.nest.flatten(laid_out), tf.nest.flatten(plain), strict=True):
        np.testing.assert_allclose(one, other, rtol=0, atol=1e-5)


@pytest.mark.parametrize("cached", [False, True])
@pytest.mark.parametrize("same_length", [False, True])
# Shorter than a segment of 4, longer than one (as in the next test, too), longer than all of them.
@pytest.mark.parametrize(
    ("memory_length", "memory_start"),
    [
        (1, "zeros"),
        (30, "empty"),
        *(
            slow(*case)
            for case in (
                (1, "empty"),
                (30, "zeros"),
                *itertools.product((3, 6), ("empty", "zeros")),
            )
        ),
    ],
)
def test_segments_read_as_one_are_a_call_for_each(memory_length, memory_start, same_length, cached):
    model = model_of(memory_start=memory_start)
    start = (model.initial_cache if cached else model.initial_memory)(BATCH, memory_length)
    before, tokens = segments((7, 17))
    attention = {"same_length": same_length, "training": False}
    # Rows whose memories are of different lengths.
    _, start = model.nll(before, before, start, **attention)
    start = start.reset(tf.constant([False, True, False]))
    inputs, targets = tokens[:, :16], tokens[:, 1:]
    found, after = model.nll(inputs, targets, start, segment_length=4, **attention)
    found_in_turn, after_them = nll_in_turn(
        model, inputs, targets, start, 2, segment_length=4, same_length=same_length
    )
    expected, last = [], start
    for part in range(0, 16, 4):
        own = slice(part, part + 4)
        nll, last = model.nll(inputs[:, own], targets[:, own], last, **attention)
        expected.append(nll)
    np.testing.assert_allclose(found, tf.concat(expected, 1), rtol=1e-5)
    np.testing.assert_allclose(found_in_turn, found, rtol=1e-5)
    for state in (after, after_them):
        for one, other in zip(tf.nest.flatten(state), tf.nest.flatten(last), strict=True):
            np.testing.assert_allclose(one, other, rtol=0, atol=1e-5)
    # As one segment they would see more; with `same_length` all see the nearest M.
    longer, _ = model.nll(inputs, targets, start, **attention)
    sees_more = not same_length and (memory_length < 16 or memory_start == "zeros")
    assert (np.abs(found - longer).max() > 1e-3) == sees_more


@pytest.mark.parametrize(
    "memory_length, is_cached, of_a_step",
    [
        (10, True, (2, 2)),
        (4, False, (1, 1)),
        *(
            slow(*kind, of)
            for kind in ((10, True), (4, False))
            for of in ((2, 1), (1, 2), (1, 1) if kind[1] else (2, 2))
        ),
    ],
)
def test_evaluation_with_a_long_memory(memory_length, is_cached, of_a_step, monkeypatch):
    monkeypatch.setattr(evaluation, "stretches", lambda *sizes: Stretches(*of_a_step))
    model = model_of()
    lengths = {"memory_length": memory_length, "clamp_length": 6, "same_length": True}
    config = TrainConfig(eval_batch_size=BATCH, eval_segment_length=4, jit_compile="false")
    tokens = segments((21,))[0]
    parts = [(tokens[:, i : i + 4], tokens[:, i + 1 : i + 5]) for i in range(0, 20, 4)]
    weights = tf.constant([[1.0, 1, 1, 1], [1, 1, 1, 0], [1, 0, 0, 0]])
    batches = [(*part, weights) for part in parts]
    evaluator = Evaluator(model, config, lengths, lambda split, batch_size, length: batches)
    _, start = evaluator.inputs("test")
    assert isinstance(start, Cache) == is_cached and start.length == memory_length
    memory, total = model.initial_memory(BATCH, memory_length), 0.0
    for inputs, targets in parts:
        nll, memory = model.nll(inputs, targets, memory, clamp_length=6, same_length=True)
        total += float(tf.reduce_sum(nll * weights))
    found = evaluator.result("test")
    assert found.tokens == 40
    assert found.nll == pytest.approx(total / 40, abs=1e-5)


def test_a_cache_cannot_train():
    model = model_of()
    (tokens,) = segments((2,))
    with pytest.raises(ValueError, match="A Cache cannot train"):
        model.nll(tokens, tokens, model.initial_cache(BATCH), training=True)
