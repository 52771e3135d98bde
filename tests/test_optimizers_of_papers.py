"""AdamW, LAMB and Adafactor, against NumPy written from the papers; which weights decay."""

import itertools

import keras
import numpy as np
import pytest
import tensorflow as tf

from modes import dry_run
from transformer_xl import ModelConfig, TrainConfig, TransformerXL
from transformer_xl.config import OPTIMIZERS
from transformer_xl.training.adafactor import Adafactor
from transformer_xl.training.adam import AdamW
from transformer_xl.training.checkpoints import Checkpoints
from transformer_xl.training.lamb import Lamb
from transformer_xl.training.optimizer import make_optimizer
from transformer_xl.training.state_store import CheckpointError
from transformer_xl.training.weight_decay import decays

STEPS, RATE, DECAY = 30, 0.01, 0.1


def moments(gradients, beta1=0.9, beta2=0.999):
    """Kingma and Ba (2015), algorithm 1: the corrected moments of each step, float64."""
    m = v = np.zeros_like(gradients[0])
    for t, g in enumerate(gradients, start=1):
        m = beta1 * m + (1 - beta1) * g
        v = beta2 * v + (1 - beta2) * g * g
        yield m / (1 - beta1**t), v / (1 - beta2**t), t


def adamw_in_numpy(value, gradients, decay, epsilon=1e-8):
    """Loshchilov and Hutter (2019), algorithm 2, line 12, with Adam's epsilon as TensorFlow's."""
    for m, v, t in moments(gradients):
        bare = np.sqrt(1 - 0.999**t)  # epsilon is added to the uncorrected root
        value = value - RATE * (m / (np.sqrt(v) + epsilon / bare) + decay * value)
    return value


def lamb_in_numpy(value, gradients, decay, epsilon=1e-6):
    """You et al. (2020), algorithm 2, with phi(z) = z."""
    for m, v, _ in moments(gradients):
        r = m / (np.sqrt(v) + epsilon) + decay * value
        norms = np.linalg.norm(value), np.linalg.norm(r)
        trust = norms[0] / norms[1] if min(norms) > 0 else 1.0
        value = value - RATE * trust * r
    return value


def adafactor_in_numpy(value, gradients, decay):
    """Shazeer and Stern (2018), algorithms 4 and 5, with the constants of section 9."""
    rows = columns = squares = 0.0
    for t, g in enumerate(gradients, start=1):
        rho = min(RATE, 1 / np.sqrt(t))
        beta2 = 1 - t**-0.8
        value = value - RATE * decay * value
        alpha = max(1e-3, np.sqrt(np.mean(value**2))) * rho
        g2 = g * g + 1e-30
        if g.ndim == 2:
            rows = beta2 * rows + (1 - beta2) * g2.sum(1)
            columns = beta2 * columns + (1 - beta2) * g2.sum(0)
            squares = np.outer(rows, columns) / rows.sum()
        else:
            squares = beta2 * squares + (1 - beta2) * g2
        u = g / np.sqrt(squares)
        value = value - alpha * u / max(1.0, np.sqrt(np.mean(u**2)))
    return value


def take_steps(optimizer, variable, gradients, jit_compile):
    optimizer.build([variable])

    @tf.function(jit_compile=jit_compile, autograph=False)
    def apply(gradient):
        optimizer.apply([gradient], [variable])

    for gradient in gradients:
        apply(tf.constant(gradient, tf.float32))


@pytest.mark.parametrize("jit_compile", [False, True])
@pytest.mark.parametrize("name", ["kernel", "bias", "table_1"])
def test_adafactor_against_the_paper(jit_compile, name):
    random = np.random.default_rng(0)
    shape = (3,) if name == "bias" else (5, 3)
    start, gradients = random.normal(size=shape), random.normal(size=(STEPS, *shape))
    variable = keras.Variable(start, dtype="float32", name=name)
    optimizer = Adafactor(RATE, decay_rate=DECAY)
    take_steps(optimizer, variable, gradients, jit_compile)
    expected = adafactor_in_numpy(start, gradients, DECAY if name == "kernel" else 0.0)
    np.testing.assert_allclose(variable.numpy(), expected, rtol=2e-6, atol=1e-6)


@pytest.mark.parametrize("jit_compile", [False, True])
def test_adafactor_of_rows_and_columns_without_gradients(jit_compile):
    """As of the words that no batch had: their rows stay, and the others move as in the paper.

    Gradients are those of an unclipped step, whose squares and the least number differ by more than
    float32 holds.
    """
    start = np.random.default_rng(1).normal(size=(5, 3))
    gradients = 1e6 * np.random.default_rng(2).normal(size=(3, 5, 3))
    gradients[:, [0, 3]] = 0
    gradients[:, :, 1] = 0
    variable = keras.Variable(start, dtype="float32", name="table_0")
    optimizer = Adafactor(RATE)
    take_steps(optimizer, variable, gradients, jit_compile)
    np.testing.assert_allclose(variable, adafactor_in_numpy(start, gradients, 0.0), rtol=2e-6)


def test_adafactor_keeps_no_matrix():
    """Shazeer and Stern (2018), section 3: of n x m weights n + m numbers."""
    shapes = [(50, 7), (7, 30), (2, 3, 4), (30,), (7,)]
    variables = [keras.Variable(np.ones(one), name=f"kernel_{i}") for i, one in enumerate(shapes)]
    optimizer = Adafactor(RATE)
    optimizer.build(variables)
    kept = sum(np.prod(one.shape, dtype=int) for one in optimizer.variables)
    numbers = 2  # the count of updates, and the learning rate
    assert kept == numbers + (50 + 7) + (7 + 30) + 2 * (3 + 4) + 30 + 7


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_dry_run_counts_what_optimizers_keep(name):
    optimizer = make_optimizer(TrainConfig(optimizer=name))
    optimizer.build([keras.Variable(np.ones([200, 100]), name="kernel")])
    kept = sum(np.prod(one.shape, dtype=int) for one in optimizer.variables)
    assert round(kept / 200 / 100, 1) == dry_run.COPIES_KEPT[name]


class AdafactorAsItWas(Adafactor):
    """Until 0.1.0 a run's state had second moments as large as each matrix besides."""

    def build(self, variables):
        super().build(variables)
        for variable in variables:
            if len(variable.shape) > 1:
                self.add_variable_from_reference(variable, name="velocity")


def test_states_of_before_are_gone_on_from(tmp_path):
    config = ModelConfig(30, num_layers=1, model_dim=8, num_heads=2, memory_length=2)
    trained = []
    for kind in (AdafactorAsItWas, Adafactor):
        model = TransformerXL(config, seed=0)
        optimizer = kind(RATE, name="optimizer")
        optimizer.build(model.trainable_variables)
        checkpoints = Checkpoints(str(tmp_path), model, optimizer)
        memory = model.initial_memory(2)
        if kind is AdafactorAsItWas:
            ones = [tf.ones(one.shape) for one in model.trainable_variables]
            optimizer.apply(ones, model.trainable_variables)
            checkpoints.save(1, memory)
        else:
            assert checkpoints.restore(memory) is not None
        trained.append({one.path: one.numpy() for one in optimizer.variables})
    before, after = trained
    assert len(before) > len(after) > 0
    for path, value in after.items():
        np.testing.assert_array_equal(value, before[path], err_msg=path)
    # What another optimizer kept is a mistake as before.
    other = make_optimizer(TrainConfig(optimizer="lamb"))
    other.build(model.trainable_variables)
    with pytest.raises(CheckpointError, match="another model or optimizer"):
        Checkpoints(str(tmp_path), model, other).restore(memory)


@pytest.mark.parametrize(
    ("kind", "oracle"), [(AdamW, adamw_in_numpy), (Lamb, lamb_in_numpy)], ids=["adamw", "lamb"]
)
@pytest.mark.parametrize("jit_compile", [False, True])
@pytest.mark.parametrize("name", ["kernel", "bias", "table_1"])
def test_against_the_paper(kind, oracle, jit_compile, name):
    random = np.random.default_rng(0)
    start, gradients = random.normal(size=(5, 3)), random.normal(size=(STEPS, 5, 3))
    variable = keras.Variable(start, dtype="float32", name=name)
    epsilon = 1e-8 if kind is AdamW else 1e-6
    optimizer = kind(RATE, epsilon=epsilon, decay_rate=DECAY)
    take_steps(optimizer, variable, gradients, jit_compile)
    expected = oracle(start, gradients, DECAY if name == "kernel" else 0.0)
    np.testing.assert_allclose(variable.numpy(), expected, rtol=2e-6, atol=1e-6)


def test_keras_lamb_is_not_the_papers():
    """It lets weights decay outside of the trust ratio; if this fails, ours is not needed."""
    start, gradients = np.full((2, 2), 3.0), np.ones((3, 2, 2))
    values = {}
    for kind, named in ((Lamb, "decay_rate"), (keras.optimizers.Lamb, "weight_decay")):
        variable = keras.Variable(start, dtype="float32", name="kernel")
        optimizer = kind(RATE, epsilon=1e-6, **{named: DECAY})
        optimizer.build([variable])
        for gradient in gradients:
            optimizer.apply([tf.constant(gradient, tf.float32)], [variable])
        values[kind] = variable.numpy()
    expected = lamb_in_numpy(start, gradients, DECAY)
    np.testing.assert_allclose(values[Lamb], expected, rtol=1e-6)
    assert np.abs(values[keras.optimizers.Lamb] / expected - 1).max() > 1e-4


def test_lamb_moves_weights_that_are_zero():
    variable = keras.Variable(np.zeros((2, 2)), dtype="float32", name="kernel")
    optimizer = Lamb(RATE)
    optimizer.build([variable])
    optimizer.apply([tf.ones([2, 2])], [variable])
    np.testing.assert_allclose(variable.numpy(), -RATE, rtol=1e-5)


@pytest.mark.parametrize("untie", [True, False])
def test_biases_norms_and_tables_do_not_decay(untie):
    model = TransformerXL(
        ModelConfig(
            30,
            num_layers=1,
            model_dim=8,
            num_heads=2,
            cutoffs=(9, 20),
            div_val=2,
            final_norm=True,
            untie_position_biases=untie,
        )
    )
    decaying = {v.path.split("/")[-1] for v in model.trainable_variables if decays(v)}
    attention = {f"{part}_kernel" for part in ("query", "key_value", "position", "output")}
    feed_forward = {"inner_kernel", "outer_kernel"}
    assert decaying == attention | feed_forward | {f"projection_{i}" for i in range(3)}


@pytest.mark.parametrize("name", ["adam", "adamw", "lamb", "adafactor"])
def test_every_optimizer_learns_and_has_variables_of_its_own_paths(name):
    decay = 0.0 if name == "adam" else 0.01
    config = TrainConfig(
        optimizer=name, weight_decay=decay, learning_rate=0.1, warmup_steps=0, schedule="constant"
    )
    optimizer = make_optimizer(config)
    target = np.arange(12, dtype="float32").reshape(4, 3) / 10
    # A start off zero: Adafactor and LAMB move by parts of the weights.
    variables = [keras.Variable(np.ones_like(target), name=f"kernel_{i}") for i in range(2)]
    # As norms and biases of several layers, whose names are the same.
    for layer in ("norm_0", "norm_1"):
        with keras.name_scope(layer):
            variables.append(keras.Variable(np.ones([3], "float32"), name="gamma"))
    goals = [target, target, target[1], target[2]]
    optimizer.build(variables)
    paths = [variable.path for variable in optimizer.variables]
    assert len(set(paths)) == len(paths)

    def distance():
        return sum(float(tf.reduce_sum((v - goal) ** 2)) for v, goal in zip(variables, goals))

    before = distance()
    for _ in itertools.repeat(None, 20):
        optimizer.apply([2 * (v - goal) for v, goal in zip(variables, goals)], variables)
    assert distance() < before / 2
