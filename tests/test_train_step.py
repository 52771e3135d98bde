"""The training step: parts of a batch, loss scales, averages, what is left out."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from transformer_xl import Memory, ModelConfig, TransformerXL
from transformer_xl.training.adam import Adam
from transformer_xl.training.gradients import summed_gradients
from transformer_xl.training.steps import make_train_step
from transformer_xl.training.train_state import TrainState

B, L, V = 6, 5, 37


def tiny(dropout=0.0, num_layers=1, **kwargs):
    """A model of one layer, unless a test is about several: more are computed in the same way."""
    config = ModelConfig(
        V,
        num_layers=num_layers,
        model_dim=8,
        num_heads=2,
        feed_forward_dim=11,
        cutoffs=(19,),
        div_val=2,
        memory_length=7,
        dropout=dropout,
    )
    keras.utils.set_random_seed(1)
    return TransformerXL(config, seed=1, **kwargs)


def batch(seed=0):
    random = np.random.default_rng(seed)
    tokens = random.integers(0, V, size=(B, L + 1)).astype("int32")
    return tokens[:, :-1], tokens[:, 1:], random.random((B, L), "float32")


@pytest.mark.parametrize(
    ("parts", "jit_compile"),
    [
        (2, False),
        pytest.param(3, True, marks=pytest.mark.slow),
        *(
            pytest.param(*case, marks=pytest.mark.slow)
            for case in ((2, True), (3, False), (6, False), (6, True))
        ),
    ],
)
def test_gradients_of_parts_are_those_of_the_batch(parts, jit_compile):
    model = tiny()
    _, memory = model(batch(1)[0])  # each row remembers something of its own
    tokens, targets, weights = batch()
    shares = weights / weights.sum()

    @tf.function(jit_compile=jit_compile, autograph=False)
    def of(parts):
        return summed_gradients(model, tokens, targets, shares, memory, parts)

    loss, gradients, sums, after = of(1)
    loss_of_parts, gradients_of_parts, sums_of_parts, after_parts = of(parts)
    np.testing.assert_allclose(sums_of_parts, sums, rtol=1e-6)
    np.testing.assert_allclose(loss_of_parts, loss, rtol=1e-6)
    for whole, summed in zip(gradients, gradients_of_parts):
        # Relative to the gradient's size: sums in another order round elsewhere.
        assert np.linalg.norm(summed - whole) <= 1e-6 * np.linalg.norm(whole)
    for whole, joined in zip(tf.nest.flatten(after), tf.nest.flatten(after_parts)):
        np.testing.assert_allclose(joined, whole, atol=1e-6)


def test_parts_must_divide_the_rows():
    model = tiny()
    step = make_train_step(model, Adam(0.01), accumulate_steps=4)
    with pytest.raises(ValueError, match="6 rows, accumulate_steps=4"):
        step(*batch(), model.initial_memory(B))


def values(model, optimizer, state):
    named = {**state.variables, **{v.path: v for v in (*model.variables, *optimizer.variables)}}
    return {name: variable.numpy() for name, variable in named.items()}


@pytest.mark.parametrize("jit_compile", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_a_step_without_a_finite_loss_changes_nothing_but_counts(jit_compile):
    model, optimizer = tiny(), Adam(0.01)
    state = TrainState(model, ema_decay=0.9)
    step = make_train_step(model, optimizer, 0.25, jit_compile, 1, state)
    memory, metrics = step(*batch(), model.initial_memory(B))
    assert (int(metrics.bad_steps), int(metrics.bad_run)) == (0, 0)
    before = values(model, optimizer, state)
    tokens, targets, weights = batch(1)
    poisoned = weights.copy()
    poisoned[2, 3] = np.nan
    for bad in (1, 2):
        memory, metrics = step(tokens, targets, poisoned, memory)
        assert (int(metrics.bad_steps), int(metrics.bad_run)) == (bad, bad)
    after = values(model, optimizer, state)
    different = {n for n in before if not np.array_equal(before[n], after[n])}
    assert different == {"bad_steps", "bad_run"}
    memory, metrics = step(tokens, targets, weights, memory)
    assert np.isfinite(metrics.loss)
    assert (int(metrics.bad_steps), int(metrics.bad_run)) == (2, 0)
    assert int(optimizer.iterations) == 2


def test_rows_of_memory_that_are_not_finite_are_forgotten():
    model = tiny(num_layers=2)
    step = make_train_step(model, Adam(0.01))
    _, memory = model(batch(1)[0])
    # The last one: those before it are computed without, and remain finite.
    layer = memory.hidden[-1].numpy()
    layer[2, -1] = np.inf
    memory, metrics = step(*batch(), Memory((*memory.hidden[:-1], layer), memory.valid))
    assert int(metrics.bad_steps) == 1
    assert memory.valid.numpy().tolist() == [7, 7, 0, 7, 7, 7]
    assert all(np.isfinite(hidden).all() for hidden in memory.hidden)
    assert not memory.hidden[0][2].numpy().any()
    assert np.isfinite(step(*batch(), memory)[1].loss)


@pytest.mark.parametrize("jit_compile", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_the_loss_scale_falls_and_rises(jit_compile):
    model, optimizer = tiny(dtype="mixed_float16"), Adam(1e-3)
    state = TrainState(model, loss_scale=2.0**24, growth_steps=3)
    step = make_train_step(model, optimizer, 0.25, jit_compile, 1, state)
    memory, scales = model.initial_memory(B), []
    for number in range(40):
        memory, metrics = step(*batch(number % 2), memory)
        scales.append(float(metrics.loss_scale))
        assert np.isfinite(metrics.loss)
    ratios = np.array(scales[1:]) / scales[:-1]
    assert set(ratios) == {0.5, 1.0, 2.0}
    assert scales[0] == 2.0**24
    updates = int(optimizer.iterations)
    assert updates == 40 - np.sum(ratios == 0.5) - (float(state.loss_scale()) < scales[-1])
    # What overflows float16 only for its scale is no bad step.
    assert int(metrics.bad_steps) == 0


@pytest.mark.slow
def test_the_scale_does_not_change_the_gradients():
    """In float32, where nothing is rounded for it."""
    reports = []
    for scale in (0.0, 1024.0):
        model = tiny()
        state = TrainState(model, loss_scale=scale)
        step = make_train_step(model, Adam(0.01), 0.25, state=state)
        reports.append([float(v) for v in step(*batch(), model.initial_memory(B))[1][:2]])
    np.testing.assert_allclose(reports[1], reports[0], rtol=1e-6)


def test_the_scale_stays_at_least_one_where_steps_are_then_bad():
    state = TrainState(tiny(), loss_scale=1.0)
    verdict = state.judge(tf.constant(1.0), tf.constant(np.inf))
    assert not bool(verdict.good)
    assert float(verdict.loss_scale) == 1.0
    assert (int(verdict.bad_steps), int(verdict.bad_run)) == (1, 1)


def test_averages_are_the_formula_s_and_take_the_place_of_the_weights():
    model, optimizer, decay = tiny(), Adam(0.05), 0.5
    state = TrainState(model, ema_decay=decay)
    step = make_train_step(model, optimizer, state=state)
    memory = model.initial_memory(B)
    table = model.embedding.tables[0]
    average = table.numpy().astype("float64")
    for number in range(12):
        memory, _ = step(*batch(number), memory)
        kept = min(decay, (1 + number) / (10 + number))
        average = kept * average + (1 - kept) * table.numpy()
    weights = table.numpy()
    with state.averaged():
        np.testing.assert_allclose(table.numpy(), average, rtol=1e-5, atol=1e-7)
        assert np.abs(table.numpy() - weights).max() > 1e-3
    np.testing.assert_array_equal(table.numpy(), weights)
    assert state.finite()
    table.assign(np.full(table.shape, np.inf))
    assert not state.finite()


@pytest.mark.parametrize("dtype", ["float32", "float64", "bfloat16"])
def test_the_bound_of_gradients_of_any_dtype(dtype):
    """Of the norm as float64 has it, also where the gradients are in 16 bits."""
    model, clip_norm = tiny(dtype=dtype), 0.25
    _, memory = model(batch(1)[0])
    tokens, targets, weights = batch()
    _, gradients, *_ = summed_gradients(
        model, tokens, targets, tf.constant(weights / weights.sum()), memory, 1
    )
    gradients = [np.asarray(gradient, np.float64) for gradient in gradients]
    norm = np.sqrt(sum((gradient**2).sum() for gradient in gradients))
    before = [np.asarray(weight.numpy(), np.float64) for weight in model.trainable_variables]
    step = make_train_step(model, keras.optimizers.SGD(1.0), clip_norm)
    _, metrics = step(tokens, targets, weights, memory)
    # bfloat16 rounds each gradient to 2^-8 of itself, in a graph elsewhere than in eager calls.
    np.testing.assert_allclose(
        metrics.gradient_norm, norm, rtol=1e-3 if dtype == "bfloat16" else 1e-5
    )
    assert norm > clip_norm
    for weight, gradient, old in zip(model.trainable_variables, gradients, before):
        moved = np.asarray(weight.numpy(), np.float64) - old
        bound = 2**-7 * (np.abs(old) + np.abs(gradient)) if dtype == "bfloat16" else 1e-6
        assert (np.abs(moved + gradient * clip_norm / norm) <= bound).all()
