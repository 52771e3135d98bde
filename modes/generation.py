"""--mode=generate: text that goes on after a prompt."""

import numpy as np

from flag_groups import text
from modes.run_inputs import trained_model
from modes.terminal import say
from transformer_xl.generate import generate


def set_up():
    """Checks what can be checked; returns what runs then."""
    if text.TOP_P.value <= 0:
        raise ValueError("--top_p must be above 0. Received: 0. Use --temperature=0 instead.")
    config, model, vocabulary = trained_model()
    prompt = vocabulary.encode_text(text.PROMPT.value)
    unknown = vocabulary.unknown_tokens(text.PROMPT.value)
    if unknown:
        say(f"warning: not in the vocabulary, read as <unk>: {' '.join(unknown)}")

    def run():
        ids = continued(
            model,
            vocabulary,
            prompt,
            config.seed,
            text.NUM_TOKENS.value,
            num_samples=text.NUM_SAMPLES.value,
            temperature=text.TEMPERATURE.value,
            top_k=text.TOP_K.value,
            top_p=text.TOP_P.value,
            memory_length=config.eval_memory_length,
        )
        for number, row in enumerate(ids, start=1):
            if len(ids) > 1:
                print(f"--- {number}")
            print(vocabulary.decode([*prompt, *row]), flush=True)

    return run


def continued(model, vocabulary, prompt, seed, num_tokens, num_samples=1, **settings):
    """Texts that go on after a prompt, int `[num_samples, num_tokens]`."""
    # A text begins after the end of another.
    row = np.concatenate([[vocabulary.eos_id], prompt]).astype("int32")
    rows = np.tile(row, (num_samples, 1))
    return generate(model, rows, num_tokens, (seed, 0), **settings).numpy()
