"""A model exported as Keras' users do it, which is what `save_served` writes."""

import json

import numpy as np
import pytest
import tensorflow as tf

from transformer_xl import ModelConfig, TransformerXL, export


def exported_by_keras_users(path, capsys):
    """A model, the lengths of NumPy that it was exported with, and what a client must know."""
    model = TransformerXL(ModelConfig(vocab_size=9, num_layers=1, model_dim=4, num_heads=1))
    lengths = {"clamp_length": np.int64(5), "same_length": np.bool_(True)}
    facts = model.export(path, memory_length=np.int64(3), **lengths)
    assert f"{path}, with a memory of 3 tokens" in capsys.readouterr().out
    return model, lengths, json.loads(json.dumps(facts))


def test_a_path_and_numbers_of_numpy_are_taken(tmp_path, capsys, monkeypatch):
    """Served are such in test_export.py; here only a name is written."""
    given = []

    def functions(*arguments):
        given.append(arguments)
        return tf.Module("served"), {}

    monkeypatch.setattr(export, "_functions", functions)
    model, _, facts = exported_by_keras_users(tmp_path / "served", capsys)
    ((_, *numbers),) = given
    assert str(numbers) == "[3, {'clamp_length': 5, 'same_length': True}]"
    assert facts == {
        "vocab_size": 9,
        "num_layers": 1,
        "model_dim": 4,
        "memory_length": 3,
        "clamp_length": 5,
        "same_length": True,
        "memory_start": model.config.memory_start,
    }
    assert (tmp_path / "served" / "saved_model.pb").exists()


@pytest.mark.slow
def test_a_path_and_a_number_of_numpy(tmp_path, capsys):
    """What is served by what was written."""
    model, lengths, _ = exported_by_keras_users(tmp_path / "served", capsys)
    signatures = tf.saved_model.load(str(tmp_path / "served")).signatures
    memory = signatures["initial_memory"](batch_size=tf.constant(2))
    assert memory["memory_hidden"].shape == (2, 1, 3, 4)
    ids = np.array([[1, 2, 8]], np.int32)
    memory = signatures["initial_memory"](batch_size=tf.constant(1))
    served = signatures["log_prob"](tokens=ids, **memory)["log_prob"]
    expected, _ = model.log_prob(ids, model.initial_memory(1, 3), **lengths)
    np.testing.assert_allclose(served, expected, rtol=1e-5)
