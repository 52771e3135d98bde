"""linear_nll where few of the rows are wanted, as in evaluation's tails, against NumPy."""

import dataclasses
import os

import keras
import numpy as np
import pytest
import tensorflow as tf

from adaptive import cross_entropy, few_rows
from adaptive.cross_entropy import Rows, linear_nll
from adaptive.factored import Linear, logits_of
from adaptive.few_rows import product, shared_width, single_row_product
from tests.test_cross_entropy import draw, expected, tensors
from transformer_xl import ModelConfig, TransformerXL
from transformer_xl.attention_core import attention_weights
from transformer_xl.decoding import Decoder, Sampling
from transformer_xl.generate import generate
from transformer_xl.training.devices import (
    compiles_with_xla,
    stretches,
    use_threads_for_evaluation,
)
from transformer_xl.training.evaluate import joined


@pytest.mark.parametrize("outside_xla", [False, True])
def test_losses_and_gradients(outside_xla):
    data = draw(64)
    *sources, targets, weights = tensors(*data)
    order = np.random.default_rng(1).permutation(64).astype(np.int32)

    @tf.function(autograph=False)
    def run(count):
        rows = Rows(tf.constant(order), tf.constant(0), count)
        with tf.GradientTape() as tape:
            tape.watch(sources)
            nll = linear_nll(*sources, targets, rows, outside_xla=outside_xla)
            total = tf.reduce_sum(nll * weights)
        return nll, *tape.gradient(total, sources)

    for count in (0, 1, 11, 40, 64):
        found = run(tf.constant(count))
        for one, other in zip(found, expected(*data, order[:count]), strict=True):
            np.testing.assert_allclose(one, other, rtol=1e-4, atol=2e-5, err_msg=f"{count} rows")


@pytest.mark.parametrize(
    ("outside_xla", "count", "sizes"),
    [
        (False, 3, [16]),
        (False, 17, [16, 16]),
        (True, 3, [8]),
        (True, 17, [24]),
        (True, 64, [64]),
    ],
)
def test_chunks_are_as_small_as_the_rows_are_few(monkeypatch, outside_xla, count, sizes):
    inputs, table, bias, targets, _ = tensors(*draw(64))
    found, chunk = [], cross_entropy._chunk

    def spy(inputs, *others):
        found.append(len(inputs))
        return chunk(inputs, *others)

    monkeypatch.setattr(cross_entropy, "_chunk", spy)
    rows = Rows(tf.range(64), tf.constant(0), tf.constant(count))
    linear_nll(inputs, table, bias, targets, rows, outside_xla=outside_xla)
    assert found == sizes


def test_xla_makes_no_loop_of_a_single_rows_product_and_an_addition(monkeypatch):
    """Such a loop has one core; the numbers stay the same, also those that are none."""
    monkeypatch.setattr(tf.config, "list_logical_devices", lambda kind: [])
    random = np.random.default_rng(4)
    table, bias = (random.normal(size=size).astype(np.float32) for size in ((2000, 300), 2000))
    row = random.normal(size=(1, 300)).astype(np.float32)
    table[7, 0], bias[8] = np.nan, np.inf

    @tf.function(jit_compile=True, autograph=False)
    def apart(row, table, bias):
        return product(row, table, bias)

    @tf.function(jit_compile=True, autograph=False)
    def fused(row, table, bias):
        return tf.transpose(tf.matmul(table, row, transpose_b=True) + bias[:, None])

    expected = np.float64(row) @ table.T + bias
    for function, is_one_loop in ((apart, False), (fused, True)):
        with tf.device("CPU:0"):
            arguments = [tf.constant(one) for one in (row, table, bias)]
            found = function(*arguments)
            compiler = function.experimental_get_compiler_ir(*arguments)
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)
        compiled = compiler(stage="optimized_hlo", device_name="/device:CPU:0")
        assert ("dot_add_fusion" in compiled) == is_one_loop


@pytest.mark.parametrize(
    ("dtype", "bound", "near"), [(tf.float32, 1e-5, 1e-6), (tf.bfloat16, 2**-8, 2**-8)]
)
def test_keys_that_are_not_visible_have_no_weight_and_no_gradient(dtype, bound, near):
    random = np.random.default_rng(2)
    scores = tf.cast(random.normal(size=(2, 3, 4, 5)), dtype)
    visible = np.tril(np.ones((4, 5), bool), 1)[None, None] & (random.random((2, 1, 4, 5)) < 0.7)
    visible[..., 0] = True
    exponentials = np.where(visible, np.exp(scores.numpy().astype(np.float64)), 0)
    upstream = tf.cast(random.normal(size=scores.shape), dtype)
    weights = exponentials / exponentials.sum(-1, keepdims=True)
    expected = upstream.numpy().astype(np.float64)
    slopes = weights * (expected - (expected * weights).sum(-1, keepdims=True))
    with tf.GradientTape() as tape:
        tape.watch(scores)
        found = attention_weights(scores, tf.constant(visible))
    found_slopes = tape.gradient(found, scores, output_gradients=upstream)
    assert found.dtype == found_slopes.dtype == dtype
    found, found_slopes = (np.float64(one) for one in (found, found_slopes))
    np.testing.assert_allclose(found, weights, rtol=bound)
    # Of the slopes the differences of numbers up to 4 are rounded, too.
    np.testing.assert_allclose(found_slopes, slopes, rtol=10 * bound, atol=near)
    unseen = ~np.broadcast_to(visible, scores.shape)
    assert not found[unseen].any() and not found_slopes[unseen].any()


def test_what_auto_chooses(monkeypatch):
    devices = []
    monkeypatch.setattr(tf.config, "list_physical_devices", lambda kind: devices)
    assert not compiles_with_xla("auto")
    assert compiles_with_xla("auto", trains_without_dropout=True)
    assert compiles_with_xla("true") and not compiles_with_xla("false", True)
    devices.append("a GPU")
    assert compiles_with_xla("auto") and not compiles_with_xla("false")


def test_a_step_reads_segments_until_its_products_have_rows_enough(monkeypatch):
    devices = []
    monkeypatch.setattr(tf.config, "list_physical_devices", lambda kind: devices)
    # The cores of this process, where the system says which they are.
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: {3, 5}, raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: 1)
    assert stretches(False, 1, 64) == (2, 4) and stretches(False, 1, 64).segments == 8
    assert stretches(False, 2, 64) == (1, 4) and stretches(False, 1, 150) == (1, 3)
    assert stretches(False, 10, 128) == (1, 2) and stretches(False, 1, 1) == (128, 4)
    assert stretches(True, 1, 64) == (4, 1) and stretches(True, 10, 150) == (1, 1)
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: {3})
    monkeypatch.setattr(os, "cpu_count", lambda: 2)
    assert stretches(False, 1, 64) == (4, 1)
    monkeypatch.delattr(os, "sched_getaffinity")
    assert stretches(False, 1, 64) == (2, 4)
    devices.append("a GPU")
    assert stretches(False, 1, 64) == (4, 1)


@pytest.mark.parametrize(
    "changes, expected",
    [
        ({}, 1),
        ({"jit_compile": True}, None),
        ({"gpu": True}, None),
        ({"cores": {4}}, None),
        ({"cores": {4, 5, 6}}, None),
        ({"asked": "5"}, None),
        ({"batch_size": 4}, None),  # two stretches only
    ],
)
def test_an_operation_gets_one_of_two_cores_where_several_are_computed(
    monkeypatch, changes, expected
):
    found = []
    devices = ["a GPU"] if changes.get("gpu") else []
    cores = changes.get("cores", {4, 7})
    monkeypatch.setattr(tf.config, "list_physical_devices", lambda kind: devices)
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: cores, raising=False)
    monkeypatch.setattr(tf.config.threading, "set_intra_op_parallelism_threads", found.append)
    monkeypatch.delenv("TF_NUM_INTRAOP_THREADS", raising=False)
    if "asked" in changes:
        monkeypatch.setenv("TF_NUM_INTRAOP_THREADS", changes["asked"])
    use_threads_for_evaluation(changes.get("jit_compile", False), changes.get("batch_size", 1), 64)
    assert found == ([] if expected is None else [expected])


@pytest.mark.parametrize(
    ("jit_compile", "num_tokens", "compiled"),
    [
        (None, 999, False),
        (None, 1000, True),
        (None, None, True),
        (False, 9999, False),
        (True, 1, True),
    ],
)
def test_long_texts_are_written_by_xla(jit_compile, num_tokens, compiled):
    config = ModelConfig(20, num_layers=1, model_dim=4, num_heads=1, feed_forward_dim=4)
    decoder = Decoder(TransformerXL(config), Sampling(), 3, (), jit_compile, num_tokens)
    assert decoder.jit_compile == compiled


@pytest.mark.parametrize(
    ("jit_compile", "turned"), [(True, [True, True, True, False]), (False, [False] * 4)]
)
def test_kernels_are_laid_out_anew_for_few_rows_under_xla(jit_compile, turned):
    config = ModelConfig(20, num_layers=1, model_dim=4, num_heads=1, feed_forward_dim=4)
    decoder = Decoder(TransformerXL(config), Sampling(), 3, (), jit_compile)
    for rows, wanted in zip((1, 2, 32, 33), turned):
        state = decoder.begin([[1]] * rows, np.zeros([rows, 2], np.int32))
        assert bool(state.of_weights.turned_kernels) == wanted
    # Not for short texts; the first of a size decides what is compiled.
    seeds = np.zeros([3, 2], np.int32)
    for num_tokens in (19, 20, None):
        assert not decoder.begin([[1]] * 3, seeds, num_tokens).of_weights.turned_kernels
    state = decoder.begin([[1]] * 4, np.zeros([4, 2], np.int32), 20)
    assert bool(state.of_weights.turned_kernels) == jit_compile


# Fixed ones of a single row are laid out in the most ways, others of two in the fewest.
@pytest.mark.parametrize(
    ("fixed", "prompts"),
    [
        (False, [[1, 2], [3, 4]]),
        (True, [[1, 2]]),
        *(
            pytest.param(*case, marks=pytest.mark.slow)
            for case in ((False, [[1, 2]]), (True, [[1, 2], [3, 4]]))
        ),
    ],
)
def test_what_is_made_of_the_weights_is_kept_where_they_are_fixed(fixed, prompts):
    keras.utils.set_random_seed(4)
    config = ModelConfig(40, num_layers=1, model_dim=6, num_heads=2, tie_tables=False)
    model = TransformerXL(dataclasses.replace(config, init_stddev=0.5))
    decoder = Decoder(model, Sampling(temperature=0), 5, jit_compile=True, fixed_weights=fixed)
    seeds = np.zeros([len(prompts), 2], np.int32)

    def begin_and_write():
        state = decoder.begin(prompts, seeds, 6)
        return state.of_weights, decoder.write(state, 6)[0].numpy()

    made, text = begin_and_write()
    # Fixed ones pay for kernels laid out anew however short the texts are.
    assert bool(made.turned_kernels) == fixed
    assert bool(made.head_table) == (fixed and len(prompts) == 1)
    np.testing.assert_array_equal(text, generate(model, prompts, 6, (0, 0), temperature=0))
    again, same = begin_and_write()
    np.testing.assert_array_equal(text, same)
    assert (made is again) == fixed
    if not fixed:
        for variable in model.trainable_variables:
            variable.assign(-variable)
        _, other = begin_and_write()
        np.testing.assert_array_equal(other, generate(model, prompts, 6, (0, 0), temperature=0))
        assert not np.array_equal(text, other)


@pytest.mark.parametrize("jit_compile", [False, True])
def test_no_table_is_copied_where_none_is_read(jit_compile):
    model = TransformerXL(ModelConfig(20, num_layers=1, model_dim=4, num_heads=1))
    for penalty in (1.0, 1.5):
        decoder = Decoder(model, Sampling(repetition_penalty=penalty), 3, (), jit_compile)
        state = decoder.begin([[1]], np.zeros([1, 2], np.int32))
        assert bool(state.of_weights.head_table) == (penalty == 1)


@pytest.mark.parametrize("jit_compile", [False, True])
def test_no_table_is_copied_for_a_short_text(jit_compile):
    """Copying it takes as long as is saved in forty tokens, and as much memory as it has."""
    model = TransformerXL(ModelConfig(20, num_layers=1, model_dim=4, num_heads=1))
    for num_tokens in (1, 39, 40, None):
        decoder = Decoder(model, Sampling(), 3, (), jit_compile)
        state = decoder.begin([[1]], np.zeros([1, 2], np.int32), num_tokens)
        assert bool(state.of_weights.head_table) == (num_tokens in (40, None))


@pytest.mark.parametrize("jit_compile", [False, True])
def test_product_with_the_table_first(jit_compile):
    random = np.random.default_rng(1)
    rows, table, bias = (random.normal(size=size) for size in ((3, 5), (7, 5), (7,)))
    run = tf.function(product, jit_compile=jit_compile, autograph=False)
    np.testing.assert_allclose(run(rows, table, bias), rows @ table.T + bias, rtol=1e-12)


@pytest.mark.parametrize(
    ("gpus", "num_rows", "dtype", "biased", "expected"),
    [
        ([], 16, tf.float32, True, True),
        ([], 17, tf.float32, True, False),
        ([], 16, tf.bfloat16, True, False),
        ([], 16, tf.float32, False, False),
        (["a GPU"], 16, tf.float32, True, False),
    ],
)
def test_logits_of_few_rows(monkeypatch, gpus, num_rows, dtype, biased, expected):
    called = []
    monkeypatch.setattr(few_rows, "product", lambda *args: called.append(1) or product(*args))
    monkeypatch.setattr(tf.config, "list_logical_devices", lambda kind: gpus)
    random = np.random.default_rng(1)
    rows, table, bias = (random.normal(size=size) for size in ((num_rows, 5), (7, 5), (7,)))
    logits, _ = logits_of(
        tf.cast(rows, dtype), Linear(tf.cast(table, dtype), bias if biased else None, None)
    )
    # In bfloat16 both factors and the product are rounded, each by up to 2**-9 of itself.
    near = 2e-6 if dtype == tf.float32 else 3 * 2**-9 * (np.abs(rows) @ np.abs(table.T)).max()
    np.testing.assert_allclose(logits, rows @ table.T + bias * biased, rtol=0, atol=near)
    assert bool(called) == expected


def test_batches_are_joined_and_the_last_is_filled_up():
    rows = np.arange(30).reshape([5, 2, 3])
    batches = [(tf.constant(one), tf.constant(one + 100), tf.ones([2, 3])) for one in rows]
    found = list(joined(batches, 2))
    tokens, targets, weights = (np.concatenate(parts, 1) for parts in zip(*found))
    assert [part[0].shape for part in found] == [(2, 6)] * 3
    np.testing.assert_array_equal(tokens[:, :15], np.concatenate(rows, 1))
    np.testing.assert_array_equal(targets[:, :15], np.concatenate(rows, 1) + 100)
    np.testing.assert_array_equal(weights, [[1] * 15 + [0] * 3] * 2)
    assert list(joined(iter(batches), 1)) == batches


@pytest.mark.parametrize("jit_compile", [False, True])
@pytest.mark.parametrize("dtype", [tf.float32, tf.bfloat16])
def test_product_of_a_single_row(dtype, jit_compile):
    random = np.random.default_rng(1)
    row, kernel = (tf.cast(random.normal(size=size), dtype) for size in ((1, 410), (410, 820)))
    run = tf.function(single_row_product, jit_compile=jit_compile, autograph=False)
    exact = np.float64(row) @ np.float64(kernel)
    size = np.abs(np.float64(row)) @ np.abs(np.float64(kernel))
    near = (1e-6 if dtype == tf.float32 else 2**-8) * size.max()
    np.testing.assert_allclose(np.float64(run(row, kernel)), exact, rtol=0, atol=near)


@pytest.mark.parametrize(
    ("num_rows", "num_columns", "expected"),
    [
        (410, 1230, 1280),  # 2**19 numbers are 1,278.8 columns
        (512, 1024, 1040),  # 2**19 exactly, which one core reads
        (512, 1025, 1040),  # not yet a whole vector more
        (512, 1040, 1040),
        (1024, 3072, 3072),
        (410, 1138, 1280),  # 12.5 percent more
        (410, 1137, 1137),
        (410, 410, 410),
    ],
)
def test_columns_with_which_cores_share_a_kernel(num_rows, num_columns, expected):
    assert shared_width(num_rows, num_columns) == expected
