"""--mode=explore: a page that shows how well a text was predicted, token by token."""

import os

from data_utils import ByteVocabulary
from modes.explore_page import page
from modes.outputs import output_file
from modes.run_inputs import trained_model
from modes.scoring import open_lines, text_path
from modes.terminal import fail, say
from transformer_xl.config import evaluation_lengths
from transformer_xl.explore import explore, make_explore_step
from transformer_xl.training.breakdown_report import settings_line
from transformer_xl.training.devices import compiles_with_xla
from transformer_xl.training.workdir import write_atomically

_CANDIDATES = 8


def set_up():
    """Checks what can be checked; returns what runs then."""
    path = text_path()
    output = output_file("explore.html", path)
    config, model, vocabulary = trained_model()
    lengths = evaluation_lengths(model.config, config)
    attention = {name: lengths[name] for name in ("clamp_length", "same_length")}
    segment_length = config.eval_segment_length or config.segment_length

    def run():
        try:
            with open_lines(path, vocabulary) as lines:
                written = (b"" if isinstance(vocabulary, ByteVocabulary) else "").join(lines)
            tokens = vocabulary.tokenize(written)
            ids = vocabulary.encode(tokens)
            if not len(ids):
                raise ValueError(f"There is no text in {path or 'standard input'}.")
        except ValueError as error:
            fail(f"error: {error}", 2)
        step = make_explore_step(
            model,
            min(_CANDIDATES, vocabulary.size),
            compiles_with_xla(config.jit_compile),
            **attention,
        )
        memory = model.initial_memory(1, lengths["memory_length"])
        expected = explore(step, ids, memory, vocabulary.eos_id, segment_length)
        settings = settings_line({"batch_size": 1, "segment_length": segment_length, **lengths})
        title = "standard input" if path is None else os.path.basename(path)
        characters = len(written)
        if isinstance(written, bytes):
            characters = sum(byte & 0xC0 != 0x80 for byte in written)  # without those that go on
        html = page(title, settings, tokens, ids, expected, vocabulary, characters)
        os.makedirs(os.path.dirname(output) or ".", exist_ok=True)
        write_atomically(output, html)
        say(f"page: {output}, of {len(ids):,} tokens")

    return run
