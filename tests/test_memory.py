"""What is remembered, what of it is seen, and that it stands for the segments before.

B batch, L segment length, M memory length, S = M + L key length, D width.
"""

import dataclasses

import keras
import numpy as np
import pytest
import tensorflow as tf

from transformer_xl import Memory, ModelConfig, TransformerXL
from transformer_xl.memory import initial, visibility

BATCH, WIDTH = 3, 2
CONFIG = ModelConfig(
    vocab_size=23,
    num_layers=2,
    model_dim=14,
    num_heads=3,
    head_dim=5,
    feed_forward_dim=11,
    cutoffs=(5, 13),
    div_val=2,
    memory_length=11,
    # Weights so large that a key too many or too few shows.
    init_stddev=0.3,
)
TOKENS = tf.constant(np.random.default_rng(0).integers(0, 23, [BATCH, 19]), tf.int32)


def numbered(length, first):
    """`[B, length, D]`, every value another one."""
    size = BATCH * length * WIDTH
    return np.arange(first, first + size, dtype=np.float32).reshape(BATCH, length, WIDTH)


@pytest.mark.parametrize("static", [True, False])
@pytest.mark.parametrize("memory_length, segment_length", [(7, 3), (7, 7), (7, 11), (1, 2), (0, 3)])
def test_update_keeps_the_newest(memory_length, segment_length, static):
    old = [numbered(memory_length, 1000 * n) for n in (1, 2)]
    new = [numbered(segment_length, 1000 * n) for n in (3, 4)]
    valid = np.array([0, memory_length // 2, memory_length], np.int32)
    length = segment_length if static else None
    segment = tf.TensorSpec([BATCH, length, WIDTH])

    @tf.function(input_signature=[segment, segment], autograph=False)
    def update(*segments):
        memory = Memory(tuple(tf.constant(layer) for layer in old), tf.constant(valid))
        memory = memory.update(segments)
        # XLA needs this also where the segment's length is not known.
        assert all(layer.shape == [BATCH, memory_length, WIDTH] for layer in memory.hidden)
        assert memory.length == memory_length
        return memory

    memory = update(*new)
    for layer, before, added in zip(memory.hidden, old, new):
        expected = np.concatenate([before, added], 1)[:, segment_length:]
        np.testing.assert_array_equal(layer, expected)
    expected = [min(count + segment_length, memory_length) for count in valid]
    np.testing.assert_array_equal(memory.valid, expected)
    assert memory.valid.dtype == tf.int32


def test_update_lets_no_gradient_through():
    old, new = tf.constant(numbered(7, 0)), tf.constant(numbered(3, 100))
    with tf.GradientTape() as tape:
        tape.watch([old, new])
        memory = Memory((old,), tf.zeros([BATCH], tf.int32)).update([new])
    assert tape.gradient(memory.hidden[0], [old, new]) == [None, None]


@pytest.mark.parametrize("start, expected", [("empty", 0), ("zeros", 7)])
def test_initial(start, expected):
    memory = initial(5, BATCH, 7, WIDTH, "bfloat16", start)
    assert len(memory.hidden) == 5
    for layer in memory.hidden:
        assert (layer.shape, layer.dtype) == ([BATCH, 7, WIDTH], tf.bfloat16)
        assert not np.any(layer)
    np.testing.assert_array_equal(memory.valid, [expected] * BATCH)
    assert memory.valid.dtype == tf.int32


def test_reset_forgets_some_rows_only():
    layers = (tf.constant(numbered(7, 1)), tf.constant(numbered(7, 100)))
    memory = Memory(layers, tf.constant([7, 5, 2])).reset(tf.constant([False, True, False]))
    for layer, before in zip(memory.hidden, layers):
        np.testing.assert_array_equal(layer[1], np.zeros([7, WIDTH]))
        np.testing.assert_array_equal(layer[0], before[0])
        np.testing.assert_array_equal(layer[2], before[2])
    np.testing.assert_array_equal(memory.valid, [7, 0, 2])


@pytest.mark.parametrize(
    "memory_length, segment_length, same_length",
    [
        *((*lengths, same) for lengths in [(7, 3), (3, 7), (5, 5), (1, 3)] for same in (0, 1)),
        # With same_length no query would see a key; test_config.py has that this is refused.
        (0, 3, 0),
    ],
)
def test_visibility_against_a_loop(memory_length, segment_length, same_length):
    valid = [0, memory_length // 2, memory_length]
    visible = visibility(tf.constant(valid), memory_length, segment_length, same_length)
    expected = np.zeros([BATCH, 1, segment_length, memory_length + segment_length], bool)
    for row, query in np.ndindex(BATCH, segment_length):
        for key in range(memory_length - valid[row], memory_length + query + 1):
            # With `same_length` a query sees as many keys as memory is long, itself the last.
            if not same_length or memory_length + query - key < memory_length:
                expected[row, 0, query, key] = True
    np.testing.assert_array_equal(visible, expected)


@pytest.mark.parametrize("memory_length, same_length", [(7, 0), (3, 1), (2, 0), (0, 0)])
def test_visibility_of_several_segments_against_a_loop(memory_length, same_length):
    valid = [0, memory_length // 2, memory_length]
    visible = visibility(tf.constant(valid), memory_length, 12, same_length, segment_length=4)
    expected = np.zeros([BATCH, 1, 12, memory_length + 12], bool)
    for segment in range(0, 12, 4):
        remembered = [min(one + segment, memory_length) for one in valid]
        own = visibility(tf.constant(remembered), memory_length, 4, same_length)
        expected[:, :, segment : segment + 4, segment : segment + memory_length + 4] = own
    np.testing.assert_array_equal(visible, expected)


def test_same_length_sees_exactly_as_many_keys_as_memory_is_long():
    visible = visibility(tf.constant([7]), 7, 5, True)
    np.testing.assert_array_equal(tf.reduce_sum(tf.cast(visible, tf.int32), -1), [[[7] * 5]])


@pytest.fixture(scope="module")
def model():
    keras.utils.set_random_seed(7)
    return TransformerXL(CONFIG)


@pytest.fixture(scope="module")
def remembered(model):
    """The memory after 7 tokens and then a reset of row 1: valid [7, 0, 7]."""
    _, memory = model(TOKENS[:, :7])
    return memory.reset(tf.constant([False, True, False]))


def assert_close(actual, expected):
    np.testing.assert_allclose(actual, expected, rtol=0, atol=2e-6)


def test_two_segments_equal_one(model):
    first, memory = model(TOKENS[:, :7])
    second, memory = model(TOKENS[:, 7:10], memory)
    whole, whole_memory = model(TOKENS[:, :10])
    assert_close(tf.concat([first, second], 1), whole)
    np.testing.assert_array_equal(memory.valid, whole_memory.valid)
    for layer, whole_layer in zip(memory.hidden, whole_memory.hidden):
        assert_close(layer, whole_layer)


def test_two_segments_equal_one_after_memories_of_different_age(model, remembered):
    # Memory is 11 long, so it still covers all that went before the second segment.
    first, memory = model(TOKENS[:, 7:11], remembered)
    np.testing.assert_array_equal(memory.valid, [11, 4, 11])
    second, _ = model(TOKENS[:, 11:16], memory)
    whole, _ = model(TOKENS[:, 7:16], remembered)
    assert_close(tf.concat([first, second], 1), whole)


def test_memory_matters(model, remembered):
    # Else the tests above would hold for a model that sees no memory at all.
    with_memory, _ = model(TOKENS[:, 7:10], remembered)
    without, _ = model(TOKENS[:, 7:10])
    difference = np.abs(with_memory - without).max((1, 2))
    assert difference[0] > 0.05
    assert difference[2] > 0.05


def test_reset_row_equals_fresh_row_and_leaves_the_others(model):
    _, memory = model(TOKENS[:, :7])
    untouched, next_untouched = model(TOKENS[:, 7:12], memory)
    fresh, next_fresh = model(TOKENS[:, 7:12])
    reset, next_reset = model(TOKENS[:, 7:12], memory.reset(tf.constant([False, True, False])))
    np.testing.assert_array_equal(reset[1], fresh[1])
    assert np.abs(reset[1] - untouched[1]).max() > 0.05
    for row in (0, 2):
        np.testing.assert_array_equal(reset[row], untouched[row])
    np.testing.assert_array_equal(next_reset.valid, [11, 5, 11])
    for layer, fresh_layer, untouched_layer in zip(
        next_reset.hidden, next_fresh.hidden, next_untouched.hidden
    ):
        np.testing.assert_array_equal(layer[1], fresh_layer[1])
        np.testing.assert_array_equal(layer[0], untouched_layer[0])


def test_positions_that_are_not_valid_are_never_seen(model, remembered):
    hidden = tuple(
        tf.where(
            tf.range(11)[:, None] < 11 - remembered.valid[:, None, None], tf.fill([], 1e3), layer
        )
        for layer in remembered.hidden
    )
    expected, _ = model(TOKENS[:, 7:12], remembered)
    actual, _ = model(TOKENS[:, 7:12], remembered._replace(hidden=hidden))
    np.testing.assert_array_equal(actual, expected)


@pytest.mark.parametrize("layer_norm", ["post", "pre"])
def test_no_gradient_reaches_memory(model, remembered, layer_norm):
    if layer_norm == "pre":
        model = TransformerXL(dataclasses.replace(CONFIG, layer_norm="pre"))
    with tf.GradientTape() as tape:
        tape.watch(remembered.hidden)
        nll, _ = model.nll(TOKENS[:, 7:12], TOKENS[:, 8:13], remembered)
    assert tape.gradient(nll, list(remembered.hidden)) == [None, None]


def test_memory_is_a_constant_to_the_segment_after(model):
    """Gradients are the same whether or not the tape saw how memory was made."""
    variables = [variable.value for variable in model.trainable_variables]
    ones = tf.ones([BATCH, 5])

    def loss(memory):
        return model.loss(TOKENS[:, 7:12], TOKENS[:, 8:13], ones, memory, training=False)[0]

    with tf.GradientTape() as tape:
        _, memory = model(TOKENS[:, :7])
        inside = loss(memory)
    with tf.GradientTape() as later_tape:
        outside = loss(memory)
    for one, other in zip(
        tape.gradient(inside, variables), later_tape.gradient(outside, variables)
    ):
        np.testing.assert_array_equal(tf.convert_to_tensor(one), tf.convert_to_tensor(other))


def test_memory_of_another_length_stays_as_long(model):
    long = model.initial_memory(BATCH, 17)
    short = model.initial_memory(BATCH, 3)
    for start in range(0, 15, 5):
        hidden, long = model(TOKENS[:, start : start + 5], long)
        _, short = model(TOKENS[:, start : start + 5], short)
    assert (long.length, short.length) == (17, 3)
    np.testing.assert_array_equal(long.valid, [15] * BATCH)
    np.testing.assert_array_equal(short.valid, [3] * BATCH)
    # Long enough to cover everything, where the configured length of 11 is not.
    whole, _ = model(TOKENS[:, :15])
    assert_close(hidden, whole[:, 10:])


def test_without_memory_segments_are_independent():
    bare = TransformerXL(dataclasses.replace(CONFIG, memory_length=0))
    hidden, memory = bare(TOKENS[:, :5])
    again, _ = bare(TOKENS[:, :5], memory)
    assert memory.length == 0
    np.testing.assert_array_equal(memory.valid, [0] * BATCH)
    np.testing.assert_array_equal(again, hidden)


@pytest.mark.parametrize(
    "layers, width, received", [(3, 14, "3 layers of width 14"), (2, 13, "2 layers of width 13")]
)
def test_memory_of_another_model_is_refused(model, layers, width, received):
    foreign = initial(layers, BATCH, 11, width, "float32", "empty")
    with pytest.raises(ValueError, match=f"2 layers of width 14. Received: {received}"):
        model(TOKENS[:, :5], foreign)


def test_memory_of_another_batch_is_refused(model):
    memory = model.initial_memory(BATCH + 1)
    with pytest.raises(ValueError, match=rf"{BATCH + 1} rows for {BATCH} rows.*batch_size={BATCH}"):
        model(TOKENS[:, :5], memory)


@pytest.mark.parametrize(
    "hidden, valid, message",
    [
        ([[3, 11, 14], [3, 10, 14]], [3], r"shapes \(3, 11, 14\), \(3, 10, 14\)"),
        ([[3, 11, 14], [2, 11, 14]], [3], r"shapes \(3, 11, 14\), \(2, 11, 14\)"),
        ([[3, 14], [3, 14]], [3], r"shapes \(3, 14\), \(3, 14\)"),
        ([], [3], "Received: 0 layers"),
        ([[3, 11, 14], [3, 11, 14]], [2], r"valid of shape \(2,\) for 3 rows"),
        ([[3, 11, 14], [3, 11, 14]], [], r"valid of shape \(\) for 3 rows"),
    ],
)
def test_memory_of_other_shapes_is_refused(model, hidden, valid, message):
    memory = Memory(tuple(tf.zeros(shape) for shape in hidden), tf.zeros(valid, tf.int32))
    with pytest.raises(ValueError, match=message):
        model(TOKENS[:, :5], memory)


def test_memory_of_unknown_length_is_refused(model):
    hidden = tf.TensorSpec([None, None, 14])
    read = tf.function(model, autograph=False).get_concrete_function
    with pytest.raises(ValueError, match="one M .* is known .*, M is a number"):
        read(TOKENS[:, :5], Memory((hidden, hidden), tf.TensorSpec([None], tf.int32)))


def test_what_is_no_memory_is_refused(model):
    for wrong, name in ((model.initial_cache(BATCH), "Cache"), (tf.zeros([2, 3]), "EagerTensor")):
        for method in (model, model.log_prob):
            with pytest.raises(ValueError, match=f"must be a Memory.*Received: {name}"):
                method(TOKENS[:, :5], wrong)


@pytest.mark.parametrize("length, rule", [(-1, "at least 0"), (2.5, "an integer")])
def test_lengths_that_are_none_are_refused(model, length, rule):
    with pytest.raises(ValueError, match=f"memory_length must be {rule}. Received: {length}"):
        model.initial_memory(BATCH, length)


def test_memory_from_numpy(model, remembered):
    """Whose integers are of 64 bits."""
    expected, _ = model(TOKENS[:, 7:12], remembered)
    valid = remembered.valid.numpy().astype(np.int64)
    found, memory = model(
        TOKENS[:, 7:12], Memory(tuple(layer.numpy() for layer in remembered.hidden), valid)
    )
    np.testing.assert_array_equal(found, expected)
    assert memory.valid.dtype == tf.int32


@pytest.mark.parametrize("start", ["initial_memory", "initial_cache"])
def test_rows_to_reset_are_one_for_each(model, start):
    state = getattr(model, start)(BATCH)._replace(valid=tf.constant([1, 2, 3]))
    np.testing.assert_array_equal(state.reset([False, True, False]).valid, [1, 0, 3])
    for rows in ([True], True, [True, False], [0, 2, 1], [0.0, 1.0, 0.5]):
        with pytest.raises(ValueError, match="one for each row. Received: .* for 3 rows"):
            state.reset(rows)


@pytest.mark.parametrize("valid", [[2.9, 1.5, 0.2], [True, False, True]])
def test_how_much_is_valid_is_an_integer(model, remembered, valid):
    with pytest.raises(ValueError, match="valid must be integers.*Received: dtype"):
        model(TOKENS[:, :5], (remembered.hidden, np.array(valid)))
