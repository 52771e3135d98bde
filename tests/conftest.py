"""What every test finds set up."""

import contextlib
import gc
import os
import pathlib
from unittest import mock

# Before TensorFlow is imported: the tests are for any machine, and say nothing about its GPU.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
# XLA's own passes all run; LLVM translates their programs, each of which runs a few times, as they
# are. That saved a fifth of the time of modules that compile. `make slow` leaves LLVM its own ways.
os.environ.setdefault("XLA_FLAGS", "--xla_backend_optimization_level=0")

import keras
import pytest
import tensorflow as tf

from transformer_xl.training import devices, evaluate

# Two devices wherever the tests run, for those that replicate a model.
tf.config.set_logical_device_configuration(
    tf.config.list_physical_devices("CPU")[0], [tf.config.LogicalDeviceConfiguration()] * 2
)

ROOT = pathlib.Path(__file__).resolve().parent.parent
SEED = 1

# Graphs are thousands of objects that live long: looking through them at Python's own threshold
# of 700 new ones takes a tenth of tracing's time.
gc.set_threshold(50_000, 20, 20)


@pytest.fixture(autouse=True, scope="module")
def _kept_graphs_are_not_searched_for_garbage():
    """What outlives a module does so to the end, and is no longer looked through.

    TensorFlow registers every gradient that a function gives itself, and with it the graph it is
    in. A full collection, as each drawing makes one, would take a second or two of these alone.
    """
    gc.freeze()
    yield
    gc.collect()


@pytest.fixture(autouse=True)
def _fresh_seed():
    """Each test draws the same numbers whichever tests ran before it.

    TensorFlow's seed is set only where it is another one. Setting it throws away all that was made
    for execution, also of functions that a module compiles once for its tests, which would then be
    optimised again in each. It is for eager operations that keep a state between calls; no test
    draws by one: weights, dropout and samples come of seeds that Keras draws, or that are given,
    and what `fit` shuffles does not depend on what was drawn before.
    """
    is_set = tf.compat.v1.get_seed(0)[0] == SEED
    with mock.patch.object(tf.random, "set_seed") if is_set else contextlib.nullcontext():
        keras.utils.set_random_seed(SEED)


@pytest.fixture(scope="module")
def graphs_as_written():
    """TensorFlow runs graphs as they were traced, without the time that its optimisers take.

    For modules of many small graphs that run a few times. Golden numbers, training curves, steps
    and whole runs are of optimised ones.
    """
    before = tf.config.optimizer.get_experimental_options()
    tf.config.optimizer.set_experimental_options({"disable_meta_optimizer": True})
    yield
    tf.config.optimizer.set_experimental_options(before)


@pytest.fixture(scope="module")
def short_evaluation_steps():
    """An evaluation step reads one stretch instead of up to four, all of which would be traced.

    For modules about something else than losses: those do not depend on it, which test_cache.py,
    test_breakdown.py and test_init_from.py see to.
    """
    with evaluation_steps_of(1):
        yield


@pytest.fixture(scope="module")
def without_samples():
    """Runs end without the text that they write, which would be traced anew in each.

    For modules about something else: test_train.py reads a run's sample, and the mode that writes
    text has modules of its own.
    """
    from modes import training

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(training, "_sample", lambda *given: "no sample")
        yield


@contextlib.contextmanager
def evaluation_steps_of(in_turn):
    """Evaluation steps read so many stretches, as long as they are."""

    def stretches(*sizes):
        return devices.stretches(*sizes)._replace(in_turn=in_turn)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(evaluate, "stretches", stretches)
        yield


@pytest.fixture(autouse=True, scope="session")
def _full_precision():
    """On GPUs that would round the inputs of float32 products to 10 bits."""
    tf.config.experimental.enable_tensor_float_32_execution(False)


@pytest.fixture(scope="session")
def mirrored():
    """One for all tests, since two in one process mistake each other's messages for theirs."""
    cpus = tf.config.list_logical_devices("CPU")
    return tf.distribute.MirroredStrategy([cpu.name for cpu in cpus[:2]])
