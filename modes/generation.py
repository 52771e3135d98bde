"""--mode=generate: text that goes on after prompts."""

import sys

import numpy as np

from data_utils import WordVocabulary
from data_utils.detokenization import detokenized
from flag_groups import text
from modes.run_inputs import trained_model
from modes.scoring import open_lines, text_path
from modes.terminal import say
from transformer_xl.decoding import Decoder, Sampling
from transformer_xl.generate import generate, stream

_EOS = "<eos>"
# Tokens between two looks at what was written: to show it, and to see where it ends.
_CHUNK = 16


def set_up():
    """Checks what can be checked; returns what runs then."""
    if text.TOP_P.value <= 0:
        raise ValueError("--top_p must be above 0. Received: 0. Use --temperature=0 instead.")
    if "" in text.STOP.value:
        raise ValueError("--stop must be <eos> or a string. Received: nothing.")
    sampling = Sampling(
        text.TEMPERATURE.value, text.TOP_K.value, text.TOP_P.value, text.REPETITION_PENALTY.value
    )
    prompts = _prompts()
    config, model, vocabulary = trained_model()
    encoded = [vocabulary.encode_text(prompt) for prompt in prompts]
    unknown = sorted({token for prompt in prompts for token in vocabulary.unknown_tokens(prompt)})
    if unknown:
        print(
            f"warning: not in the vocabulary, read as <unk>: {' '.join(unknown)}", file=sys.stderr
        )
    num_texts = len(prompts) * text.NUM_SAMPLES.value
    num_batches = -(-num_texts // config.eval_batch_size)
    # As even as they can be, and what the last one lacks is written twice: a batch of another size
    # would be compiled for itself.
    batch_size = -(-num_texts // num_batches)
    decoder = Decoder(
        model,
        sampling,
        config.eval_memory_length,
        [vocabulary.eos_id] if _EOS in text.STOP.value else [],
        {"auto": None, "true": True, "false": False}[config.jit_compile],
        num_batches * text.NUM_TOKENS.value,
        fixed_weights=True,
    )

    def run():
        several = num_texts > 1
        jobs = [(prompt, number) for prompt in encoded for number in range(text.NUM_SAMPLES.value)]
        for start in range(0, num_texts, batch_size):
            group = jobs[start : start + batch_size]
            filled = group + group[-1:] * (batch_size - len(group))
            texts = [GrowingText(vocabulary, prompt) for prompt, _ in filled]
            seeds = [(config.seed, number) for _, number in filled]
            _write(decoder, texts, seeds, shown=None if several else sys.stdout)
            for offset, grown in enumerate(texts[: len(group)]):
                if several:
                    prompt, number = divmod(start + offset, text.NUM_SAMPLES.value)
                    say(
                        f"--- {prompt + 1}.{number + 1}"
                        if len(prompts) > 1
                        else f"--- {number + 1}"
                    )
                    say(grown.read())

    return run


def _prompts() -> list[str]:
    if text.INPUT_FILE.value is None:
        return [text.PROMPT.value]
    if text.PROMPT.value:
        raise ValueError(
            "Prompts come from --prompt or from --input_file. Received: both. Give one of them."
        )
    with open_lines(text_path()) as lines:
        prompts = [line.removesuffix("\n") for line in lines]
    if not prompts:
        raise ValueError("--input_file must have a prompt on each line. Received: no lines.")
    return prompts


class GrowingText:
    """A prompt and what is written after it, until it stops.

    Args:
      vocabulary: of `data_utils`.
      prompt: int `[P]`.

    Attributes:
      row: what the model begins with, int `[P + 1]`; a text begins after the end of another.
      ended: whether a stop was found.
    """

    def __init__(self, vocabulary, prompt):
        self.row = np.concatenate([[vocabulary.eos_id], prompt]).astype(np.int32)
        self.ended = False
        self._vocabulary = vocabulary
        self._ids = [int(i) for i in prompt]
        self._prompt_characters = len(self._readable())
        self._end = None

    def add(self, ids):
        """More ids, of which those behind a stop are left out."""
        for i in ids if not self.ended else ():
            if i == self._vocabulary.eos_id and _EOS in text.STOP.value:
                self.ended = True
                break
            self._ids.append(int(i))
        readable = self._readable()
        found = [
            readable.find(stop, self._prompt_characters) for stop in text.STOP.value if stop != _EOS
        ]
        found = [place for place in found if place >= 0]
        if found:
            self.ended, self._end = True, min(found)

    def read(self) -> str:
        """The text, up to its stop."""
        return self._readable()[: self._end]

    def settled(self) -> str:
        """The part of `read` that more ids cannot change."""
        if self.ended:
            return self.read()
        # A letter in several bytes may be half there, and a stop too.
        readable = self._readable().rstrip("\ufffd")
        longest = max(map(len, text.STOP.value), default=1)
        return readable[: max(self._prompt_characters, len(readable) - longest + 1)]

    def _readable(self):
        readable = self._vocabulary.decode(self._ids)
        apart = (
            isinstance(self._vocabulary, WordVocabulary)
            and self._vocabulary.tokenization.startswith("whitespace")
            and text.DETOKENIZE.value
        )
        return detokenized(readable) if apart else readable


def _write(decoder, texts, seeds, shown):
    """Lets texts grow; `shown` is where a single one is printed as it does."""
    characters = 0

    def show(readable):
        nonlocal characters
        if shown is not None:
            print(readable[characters:], end="", file=shown, flush=True)
            characters = max(characters, len(readable))

    show(texts[0].settled())
    rows = [grown.row for grown in texts]
    for chunk in stream(decoder, rows, text.NUM_TOKENS.value, seeds, _CHUNK):
        for grown, ids in zip(texts, chunk.numpy()):
            grown.add(ids)
        show(texts[0].settled())
        if all(grown.ended for grown in texts):
            break
    show(texts[0].read())
    if shown is not None:
        print(file=shown, flush=True)


def continued(model, vocabulary, prompt, seed, num_tokens, num_samples=1, **settings):
    """Texts that go on after a prompt, int `[num_samples, num_tokens]`."""
    # A text begins after the end of another.
    row = np.concatenate([[vocabulary.eos_id], prompt]).astype("int32")
    rows = np.tile(row, (num_samples, 1))
    return generate(model, rows, num_tokens, (seed, 0), **settings).numpy()
