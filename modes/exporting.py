"""--mode=export: a SavedModel to serve, a .keras file, and the vocabulary beside them."""

import contextlib
import json
import os
import shutil

import tensorflow as tf

from modes.outputs import check_output, output_path
from modes.run_inputs import trained_model
from modes.terminal import say
from transformer_xl.config import evaluation_lengths
from transformer_xl.export import save_served
from transformer_xl.training.workdir import write_atomically


def set_up():
    """Checks what can be checked; returns what runs then."""
    directory = output_path("export")
    if (os.path.isdir(directory) and os.listdir(directory)) or os.path.isfile(directory):
        raise FileExistsError(
            f"--output must be a folder that is new or empty. Received: {directory}, which has "
            "something in it. Remove it, or name another."
        )
    check_output(directory, directory)
    config, model, vocabulary = trained_model()
    lengths = evaluation_lengths(model.config, config)

    def run():
        with whole_or_nothing(directory):
            said = _write(directory, model, vocabulary, lengths, config.precision)
        say(f"SavedModel: {directory}/saved_model, with a memory of {said['memory_length']} tokens")
        say(f"for this library: {directory}/model.keras, vocabulary")
        say(f"for any client: {directory}/export.json, tokens.json; see docs/serving.md")

    return run


def _write(directory, model, vocabulary, lengths, precision) -> dict:
    # In a folder with a number, the version, as TensorFlow Serving wants it.
    os.makedirs(os.path.join(directory, "saved_model"))
    said = save_served(model, os.path.join(directory, "saved_model", "1"), **lengths)
    model.save(os.path.join(directory, "model.keras"))
    vocabulary.save(os.path.join(directory, "vocabulary"))
    tokens = json.dumps(vocabulary.tokens, ensure_ascii=False)
    write_atomically(os.path.join(directory, "tokens.json"), tokens + "\n")
    facts = {
        **said,
        "eos_id": vocabulary.eos_id,
        "unk_id": vocabulary.unk_id,
        "tokenization": vocabulary.tokenization,
        "precision": precision,
    }
    write_atomically(os.path.join(directory, "export.json"), json.dumps(facts, indent=2) + "\n")
    return said


@contextlib.contextmanager
def whole_or_nothing(directory):
    """Leaves a directory, which is new or empty, as it was where an export does not end.

    Raises:
      OSError: in place of what TensorFlow and Keras raise when they cannot write.
    """
    was_there = os.path.isdir(directory)
    try:
        yield
    except BaseException as error:
        for name in os.listdir(directory) if os.path.isdir(directory) else ():
            path = os.path.join(directory, name)
            if os.path.isdir(path):
                shutil.rmtree(path, ignore_errors=True)
            else:
                os.remove(path)
        if not was_there:
            with contextlib.suppress(OSError):
                os.rmdir(directory)
        if isinstance(error, (OSError, tf.errors.OpError)):
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            raise OSError(
                f"The export cannot be written to {directory}: {reason[:300]}. What there was of "
                "it is removed: make room, or name another --output, and export again."
            ) from error
        raise
