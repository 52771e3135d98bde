"""--mode=export: a SavedModel to serve, a .keras file, and the vocabulary beside them."""

import json
import os

from modes.outputs import output_path
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
    config, model, vocabulary = trained_model()
    lengths = evaluation_lengths(model.config, config)

    def run():
        os.makedirs(directory, exist_ok=True)
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
            "precision": config.precision,
        }
        write_atomically(os.path.join(directory, "export.json"), json.dumps(facts, indent=2) + "\n")
        say(f"SavedModel: {directory}/saved_model, with a memory of {said['memory_length']} tokens")
        say(f"for this library: {directory}/model.keras, vocabulary")
        say(f"for any client: {directory}/export.json, tokens.json; see docs/serving.md")

    return run
