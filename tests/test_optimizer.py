"""The optimizer and its schedules, against NumPy written from the papers."""

import math

import keras
import numpy as np
import pytest
import tensorflow as tf

from transformer_xl import TrainConfig
from transformer_xl.training.adam import Adam
from transformer_xl.training.optimizer import make_optimizer
from transformer_xl.training.schedule import WarmupSchedule


def adam_in_numpy(value, gradients, rate, beta1=0.9, beta2=0.999, epsilon=1e-8):
    """Kingma and Ba (2015), algorithm 1 in the form at the end of section 2, in float64."""
    m, v = np.zeros_like(value), np.zeros_like(value)
    values = []
    for t, g in enumerate(gradients, start=1):
        m = beta1 * m + (1 - beta1) * g
        v = beta2 * v + (1 - beta2) * g**2
        step = rate * math.sqrt(1 - beta2**t) / (1 - beta1**t)
        value = value - step * m / (np.sqrt(v) + epsilon)
        values.append(value)
    return values


@pytest.mark.parametrize("jit_compile", [False, True])
def test_adam_is_exact_from_the_first_step(jit_compile):
    random = np.random.default_rng(0)
    start = random.normal(size=(5, 3))
    gradients = random.normal(size=(40, 5, 3)) * 10.0 ** random.integers(-6, 2, size=(40, 1, 1))
    variable = keras.Variable(start, dtype="float32")
    optimizer = Adam(1e-3, epsilon=1e-8)
    optimizer.build([variable])

    @tf.function(jit_compile=jit_compile, autograph=False)
    def apply(gradient):
        optimizer.apply([gradient], [variable])

    previous, expected_previous = start.astype("float32"), start
    for gradient, expected in zip(gradients, adam_in_numpy(start, gradients, 1e-3)):
        apply(tf.constant(gradient, tf.float32))
        moved, expected_move = variable.numpy() - previous, expected - expected_previous
        # The variable itself rounds at 1e-7 of its size, a step is 1e-3: 1e-4 of a step is what
        # can be seen of one step. Keras' own Adam is at 1e-5 of all steps, see below.
        np.testing.assert_allclose(moved, expected_move, rtol=2e-4, atol=2.5e-7)
        previous, expected_previous = variable.numpy(), expected
    np.testing.assert_allclose(variable.numpy(), expected, rtol=1e-6, atol=1e-7)


def test_adam_has_exact_bias_corrections_where_keras_has_not():
    """From a start at zero nothing is rounded away: the first steps' sizes show."""
    gradients = np.ones((3, 1))
    expected = adam_in_numpy(np.zeros(1), gradients, 1e-3, epsilon=1e-12)
    errors = {}
    for kind in (Adam, keras.optimizers.Adam):
        variable = keras.Variable(np.zeros(1), dtype="float32")
        optimizer = kind(1e-3, epsilon=1e-12)
        optimizer.build([variable])
        optimizer.apply([tf.ones(1)], [variable])
        errors[kind] = abs(float(variable[0]) / float(expected[0][0]) - 1)
    assert errors[Adam] < 3e-7
    # If this fails, Keras has mended it and our subclass is there for speed alone.
    assert errors[keras.optimizers.Adam] > 1e-6


def test_adam_makes_its_scalars_once_for_all_variables():
    variables = [keras.Variable(np.ones(2), dtype="float32") for _ in range(5)]
    optimizer = Adam(1e-3)
    optimizer.build(variables)

    def kinds(count):
        def apply(gradient, rate):
            for variable in variables[:count]:
                optimizer.update_step(gradient, variable, rate)

        specs = (tf.TensorSpec([2]), tf.TensorSpec([]))
        graph = tf.function(apply, autograph=False).get_concrete_function(*specs).graph
        return [operation.type for operation in graph.get_operations()]

    one, five = kinds(1), kinds(5)
    assert (one.count("ResourceApplyAdam"), five.count("ResourceApplyAdam")) == (1, 5)
    assert five.count("Const") == one.count("Const") > 0


def test_adam_takes_another_rate_in_the_same_graph():
    variables = [keras.Variable(np.ones(2), dtype="float32") for _ in range(2)]
    optimizer = Adam(1e-3)
    optimizer.build(variables)

    @tf.function(autograph=False)
    def apply(first, second):
        optimizer.update_step(tf.ones(2), variables[0], first)
        optimizer.update_step(tf.ones(2), variables[1], second)

    apply(tf.constant(1e-3), tf.constant(1e-2))
    np.testing.assert_allclose(variables[0], 1 - 1e-3, rtol=1e-6)
    np.testing.assert_allclose(variables[1], 1 - 1e-2, rtol=1e-6)


def test_adam_takes_two_steps_in_one_graph():
    """The second has bias corrections of its own."""
    variable = keras.Variable(np.zeros(1), dtype="float32")
    optimizer = Adam(1e-3, epsilon=1e-12)
    optimizer.build([variable])

    @tf.function(autograph=False)
    def twice(gradients):
        for gradient in tf.unstack(gradients):
            optimizer.apply([gradient], [variable])

    gradients = np.array([[1.0], [3.0]])
    twice(tf.constant(gradients, tf.float32))
    expected = adam_in_numpy(np.zeros(1), gradients, 1e-3, epsilon=1e-12)[-1]
    np.testing.assert_allclose(variable, expected, rtol=1e-6)


def test_adam_in_float64_has_settings_in_float64():
    variable = keras.Variable(np.zeros(3), dtype="float64")
    optimizer = Adam(1e-3)
    optimizer.build([variable])
    rate = tf.constant(1e-3, tf.float64)
    _, *settings = optimizer._scalars(variable.value, rate)
    assert [float(one) for one in settings] == [0.9, 0.999, optimizer.epsilon, 0.0]


def test_tensorflow_saves_an_adam_that_was_traced(tmp_path):
    variable = keras.Variable(np.ones(2), dtype="float32")
    optimizer = Adam(1e-3)
    optimizer.build([variable])
    tf.function(lambda: optimizer.apply([tf.ones(2)], [variable]), autograph=False)()
    path = tf.train.Checkpoint(optimizer=optimizer).save(str(tmp_path / "saved"))
    assert (
        int(tf.train.load_variable(path, "optimizer/_iterations/.ATTRIBUTES/VARIABLE_VALUE")) == 1
    )


def test_adam_takes_sparse_gradients_and_refuses_amsgrad():
    variable = keras.Variable(np.zeros((4, 2)), dtype="float32")
    optimizer = Adam(0.1)
    optimizer.build([variable])
    sparse = tf.IndexedSlices(tf.ones([3, 2]), tf.constant([1, 1, 3]), tf.constant([4, 2]))
    optimizer.apply([sparse], [variable])
    # The first step's size is the rate, whatever the gradient's; rows without one stay.
    expected = np.array([[0, 0], [-0.1, -0.1], [0, 0], [-0.1, -0.1]])
    np.testing.assert_allclose(variable.numpy(), expected, rtol=1e-5)
    with pytest.raises(ValueError, match="no amsgrad"):
        Adam(0.1, amsgrad=True).build([variable])


def schedule_in_numpy(step, schedule, warmup, start, ratio, rate, max_steps):
    """`step` counts from 1, as in the docstring."""
    factor = min(1.0, step / warmup) if warmup else 1.0
    if schedule == "cosine":
        begin = warmup if start == "warmup_end" else 0
        progress = min(max((step - begin) / (max_steps - begin), 0.0), 1.0)
        factor *= ratio + (1 - ratio) * 0.5 * (1 + math.cos(math.pi * progress))
    if schedule == "inverse_sqrt":
        factor *= min(1.0, math.sqrt(max(warmup, 1) / step))
    return rate * factor


@pytest.mark.parametrize(
    ("schedule", "warmup", "start", "ratio"),
    [
        ("cosine", 200, "start", 0.0),
        ("cosine", 200, "warmup_end", 0.0),
        ("cosine", 0, "start", 0.004),
        ("cosine", 30, "warmup_end", 0.1),
        ("inverse_sqrt", 40, "start", 0.0),
        ("inverse_sqrt", 0, "start", 0.0),
        ("constant", 50, "start", 0.0),
        ("constant", 0, "start", 0.0),
    ],
)
def test_schedules(schedule, warmup, start, ratio):
    rate, max_steps = 2.5e-4, 1000
    ours = WarmupSchedule(rate, max_steps, schedule, warmup, start, ratio)
    for step in (1, 2, 29, 30, 31, 199, 200, 201, 500, 999, 1000, 1100):
        expected = schedule_in_numpy(step, schedule, warmup, start, ratio, rate, max_steps)
        # Half a cosine's end is a difference of nearly equal numbers: 1e-7 of the peak remains.
        np.testing.assert_allclose(ours(step - 1), expected, rtol=2e-6, atol=1e-7 * rate)


def test_the_schedule_is_the_configurations_and_survives_its_config():
    config = TrainConfig(
        learning_rate=3e-4, warmup_steps=7, max_steps=50, min_learning_rate_ratio=0.2
    )
    schedule = make_optimizer(config)._learning_rate
    again = WarmupSchedule.from_config(schedule.get_config())
    for step in (0, 5, 6, 7, 49):
        expected = schedule_in_numpy(step + 1, "cosine", 7, "start", 0.2, 3e-4, 50)
        assert float(schedule(step)) == float(again(step))
        np.testing.assert_allclose(schedule(step), expected, rtol=1e-6)
