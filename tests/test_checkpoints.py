"""Checkpoints of runs: those of other models, of earlier versions, damaged ones."""

import os
import shutil

import numpy as np
import pytest
import tensorflow as tf

from transformer_xl import ModelConfig, TrainConfig, TransformerXL
from transformer_xl.training.checkpoints import Checkpoints
from transformer_xl.training.optimizer import make_optimizer
from transformer_xl.training.state_store import CheckpointError

SETTINGS = {"num_layers": 1, "model_dim": 8, "num_heads": 2, "feed_forward_dim": 11}
CONFIG = ModelConfig(23, cutoffs=(7,), div_val=2, memory_length=3, **SETTINGS)


def made(config=CONFIG, seed=1, dtype="float32"):
    model = TransformerXL(config, seed=seed, dtype=dtype)
    optimizer = make_optimizer(TrainConfig())
    optimizer.build(model.trainable_variables)
    return model, optimizer


def arrays(*owners):
    return {v.path: v.numpy() for owner in owners for v in owner.variables}


def memory_of(model, value=0.0):
    memory = model.initial_memory(2)
    hidden = tuple(layer + tf.cast(value, layer.dtype) for layer in memory.hidden)
    return memory._replace(hidden=hidden, valid=memory.valid + 2)


@pytest.mark.parametrize("dtype", ["float32", "mixed_bfloat16"])
def test_all_of_a_state_comes_back(tmp_path, dtype):
    model, optimizer = made(dtype=dtype)
    more = tf.Variable([1, 2], name="skipped")
    checkpoints = Checkpoints(str(tmp_path), model, optimizer, {"skipped": more})
    checkpoints.save_best(5, 1.25)
    optimizer.iterations.assign(5)
    memory = memory_of(model, 0.7)
    checkpoints.save(5, memory)
    expected = arrays(model, optimizer)

    other, fresh = made(seed=2, dtype=dtype)
    again = Checkpoints(str(tmp_path), other, fresh, {"skipped": tf.Variable([0, 0])})
    assert again.last_step() == 5
    restored = again.restore(other.initial_memory(2))
    for name, value in arrays(other, fresh).items():
        np.testing.assert_array_equal(value, expected[name], err_msg=name)
    np.testing.assert_array_equal(again._others["more/skipped"], [1, 2])
    assert float(again.best_nll) == 1.25
    assert int(again.step) == 5
    assert restored.hidden[0].dtype == memory.hidden[0].dtype
    for one, two in zip(tf.nest.flatten(restored), tf.nest.flatten(memory)):
        np.testing.assert_array_equal(one, two)


def test_a_checkpoint_of_another_architecture_changes_nothing(tmp_path):
    model, optimizer = made()
    checkpoints = Checkpoints(str(tmp_path), model, optimizer)
    checkpoints.save(5, memory_of(model))
    checkpoints.save_best(5, 1.0)
    wider, fresh = made(ModelConfig(23, cutoffs=(7,), **{**SETTINGS, "feed_forward_dim": 12}))
    before = arrays(wider, fresh)
    again = Checkpoints(str(tmp_path), wider, fresh)
    with pytest.raises(CheckpointError, match="is of another model") as error:
        again.restore(memory_of(wider))
    assert "float32 [8, 11] there, float32 [8, 12] here" in str(error.value)
    assert "and 1" in str(error.value)  # others are counted, not told
    with pytest.raises(CheckpointError, match="another model"):
        again.restore_best()
    plain, _ = made(ModelConfig(23, **SETTINGS))
    with pytest.raises(CheckpointError, match=r"model/\S+ is not known here"):
        Checkpoints(str(tmp_path), plain).restore_best()
    for name, value in arrays(wider, fresh).items():
        np.testing.assert_array_equal(value, before[name], err_msg=name)
    assert int(again.step) == 0


def test_a_damaged_best_checkpoint_is_replaced_by_the_one_before(tmp_path):
    model, _ = made()
    checkpoints = Checkpoints(str(tmp_path), model)
    for step, nll in ((2, 3.0), (4, 2.0), (6, 1.0)):
        model.variables[0].assign(tf.fill(model.variables[0].shape, float(step)))
        assert checkpoints.save_if_best(step, nll)
    assert checkpoints.best_candidates() == [6, 4]
    checkpoints.save_candidate(8, 1.5)
    assert checkpoints.best_candidates() == [8, 6]
    assert (float(checkpoints.best_nll), int(checkpoints.best_step)) == (1.0, 6)
    checkpoints.restore_candidate(6)
    checkpoints.save_best(6, 1.0)
    assert checkpoints.best_candidates() == [6, 8]
    state = tmp_path / "best" / "step-6" / "state.safetensors"
    content = bytearray(state.read_bytes())
    content[-1] ^= 8
    state.write_bytes(content)
    said = []
    other, _ = made()
    again = Checkpoints(str(tmp_path), other, say=said.append)
    again.restore_best()
    assert (other.variables[0].numpy() == 6).all()  # the candidate's, saved without a change
    assert float(again.best_nll) == 1.5
    assert int(again.best_step) == 8
    assert len(said) == 1
    assert "step-6 has a state.safetensors with a wrong checksum" in said[0]
    for folder in (tmp_path / "best").glob("step-*"):
        os.truncate(folder / "state.safetensors", 10)
    with pytest.raises(CheckpointError, match="has a state.safetensors of 10 bytes instead of"):
        Checkpoints(str(tmp_path), other).restore_best()


def test_the_best_figures_are_those_of_weights_that_are_there(tmp_path):
    model, optimizer = made()
    checkpoints = Checkpoints(str(tmp_path), model, optimizer)
    checkpoints.save_best(2, 3.0)
    checkpoints.save(3, memory_of(model))
    checkpoints.save_best(3, 2.0)  # the evaluation of step 3, made after its state was written
    checkpoints.save(6, memory_of(model))

    def started(step=6):
        if step == 3:
            shutil.rmtree(tmp_path / "step-6")
            os.remove(tmp_path / "index.json")
        said = []
        again = Checkpoints(str(tmp_path), model, optimizer, say=said.append)
        again.restore(memory_of(model))
        return again, (float(again.best_nll), int(again.best_step)), said

    assert started()[1:] == ((2.0, 3), [])
    again, figures, _ = started(step=3)
    assert figures == (2.0, 3)
    again.save_best(4, 1.0)
    assert started()[1] == (2.0, 3)  # what is of later steps will be written again
    os.truncate(tmp_path / "best" / "step-3" / "state.safetensors", 10)
    os.truncate(tmp_path / "best" / "step-4" / "state.safetensors", 10)
    again, figures, said = started()
    assert figures == (np.inf, 0)
    assert len(said) == 1
    assert "those of step 2, cannot be read" in said[0]
    assert again.save_if_best(7, 5.0)
    again.restore_best()
    assert int(again.best_step) == 7


def test_who_goes_back_looks_for_what_another_process_wrote(tmp_path):
    model, optimizer = made()
    chief, other = (Checkpoints(str(tmp_path), model, optimizer) for _ in range(2))
    assert other.restore(memory_of(model)) is None
    chief.save(5, memory_of(model, 0.5))
    other.best_nll.assign(1.5)
    memory = other.restore(memory_of(model), goes_back=True)
    np.testing.assert_array_equal(memory.hidden[0], memory_of(model, 0.5).hidden[0])
    assert (int(other.step), float(other.best_nll)) == (5, 1.5)


def test_a_run_of_an_earlier_version_goes_on(tmp_path):
    """Its checkpoints are TensorFlow's, made here as they were then."""
    model, optimizer = made()
    memory = memory_of(model, 0.3)
    parts = {
        "model": {variable.path: variable.value for variable in model.variables},
        "best": {
            "step": tf.Variable(4, dtype=tf.int64),
            "nll": tf.Variable(2.5, dtype=tf.float64),
        },
    }
    best = tf.train.Checkpoint(**parts)
    tf.train.CheckpointManager(best, str(tmp_path / "best"), 1).save(checkpoint_number=4)
    state = tf.train.Checkpoint(
        **parts,
        step=tf.Variable(6, dtype=tf.int64),
        optimizer={variable.path: variable.value for variable in optimizer.variables},
        memory={
            "hidden": [tf.Variable(layer) for layer in memory.hidden],
            "valid": tf.Variable(memory.valid),
        },
    )
    tf.train.CheckpointManager(state, str(tmp_path), 2).save(checkpoint_number=6)
    expected = arrays(model, optimizer)

    other, fresh = made(seed=2)
    again = Checkpoints(str(tmp_path), other, fresh)
    assert again.last_step() == 6
    restored = again.restore(other.initial_memory(2))
    for name, value in arrays(other, fresh).items():
        np.testing.assert_array_equal(value, expected[name], err_msg=name)
    np.testing.assert_array_equal(restored.hidden[0], memory.hidden[0])
    assert (int(again.step), int(again.best_step), float(again.best_nll)) == (6, 4, 2.5)
    again.restore_best()
    # What it writes from here on is of today's format, and newer.
    again.save(7, restored)
    assert Checkpoints(str(tmp_path), other, fresh).last_step() == 7
