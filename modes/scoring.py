"""--mode=score: lines of text with the log-probability of each token."""

import contextlib
import math
import os
import sys
from collections.abc import Iterable, Iterator

from data_utils import ByteVocabulary, CharacterVocabulary
from flag_groups import text
from modes.run_inputs import trained_model
from modes.terminal import fail
from transformer_xl.config import evaluation_lengths
from transformer_xl.score import make_score_step, score_alone, score_in_context
from transformer_xl.strict_json import strict_json
from transformer_xl.training.devices import compiles_with_xla
from transformer_xl.training.evaluate import perplexity_of

STANDARD_INPUT = "-"
TSV_HEADER = "line\tplace\ttoken\tlog_prob\tunknown"


def set_up():
    """Checks what can be checked; returns what runs then."""
    path = text_path()
    config, model, vocabulary = trained_model()
    lengths = evaluation_lengths(model.config, config)
    scorer = LineScorer(model, vocabulary, config, lengths, text.SCORE_CONTEXT.value)

    def run():
        is_table = text.SCORE_FORMAT.value == "tsv"
        write = as_tsv if is_table else as_jsonl
        try:
            with open_lines(path, vocabulary) as lines:
                for score in scorer.scores(lines):
                    if is_table and scorer.num_lines == 1:
                        print(TSV_HEADER)
                    print(write(score), flush=True)
            if not scorer.num_tokens:
                raise ValueError(f"There is no text in {path or 'standard input'}.")
        except ValueError as error:
            fail(f"error: {error}", 2)
        print(scorer.summary(), file=sys.stderr)

    return run


def text_path() -> str | None:
    """The file of --input_file; None for standard input, also where it is called -."""
    path = text.INPUT_FILE.value
    if path in (None, STANDARD_INPUT):
        return None
    # Not only files: a shell's <(zcat FILE.gz) is a pipe.
    if not os.path.exists(path) or os.path.isdir(path):
        raise FileNotFoundError(f"--input_file must be a text file. There is none at {path}.")
    return path


@contextlib.contextmanager
def open_lines(path: str | None, vocabulary=None):
    """The lines of a UTF-8 file, or of standard input, as they come, with their ends.

    As in preparation: a vocabulary of bytes has lines of bytes, which may be any; in one of bytes
    or characters a byte order mark and carriage returns are parts of the text, and its last line
    has no end where there is none. Elsewhere a mark is left out, carriage returns end lines, and
    every line has an end.

    Raises:
      ValueError: while reading, if the text must be UTF-8 and is not.
    """
    of_bytes = isinstance(vocabulary, ByteVocabulary)
    as_it_is = of_bytes or isinstance(vocabulary, CharacterVocabulary)

    def lines(file):
        try:
            for line in file:
                yield line if as_it_is or line.endswith("\n") else f"{line}\n"
        except UnicodeDecodeError as error:
            raise ValueError(f"{path or 'standard input'} is not UTF-8: {error}.") from error

    reading = {"encoding": "utf-8", "newline": "\n"} if as_it_is else {"encoding": "utf-8-sig"}
    if path is None:
        if not of_bytes:
            sys.stdin.reconfigure(**{"errors": "strict", "newline": None, **reading})
        yield lines(sys.stdin.buffer if of_bytes else sys.stdin)
        return
    with open(path, "rb") if of_bytes else open(path, **reading) as file:
        yield lines(file)


class LineScorer:
    """Scores lines and sums up.

    Args:
      model: a `TransformerXL`.
      vocabulary: of `data_utils`.
      config: the `TrainConfig`, for the evaluation's settings.
      lengths: of `evaluation_lengths`.
      in_context: whether a line is scored after all before it, or alone.

    Attributes:
      num_lines, num_tokens, num_unknown, log_prob: of the lines so far.
    """

    def __init__(self, model, vocabulary, config, lengths: dict, in_context: bool):
        self._vocabulary = vocabulary
        attention = {name: lengths[name] for name in ("clamp_length", "same_length")}
        jit_compile = compiles_with_xla(config.jit_compile)
        rows = 1 if in_context else config.eval_batch_size
        self._score = score_in_context if in_context else score_alone
        self._arguments = {
            "step": make_score_step(model, jit_compile, **attention),
            "memory": model.initial_memory(rows, lengths["memory_length"]),
            "eos_id": vocabulary.eos_id,
            "segment_length": config.eval_segment_length or config.segment_length,
        }
        self.num_lines = self.num_tokens = self.num_unknown = 0
        self.log_prob = 0.0

    def scores(self, lines: Iterable[str | bytes]) -> Iterator[dict]:
        """An object for each line of `open_lines` in turn.

        Yields:
          `line`, its number from 1; `log_prob`, in nats; `num_tokens`; `num_unknown`; `tokens`, a
          list of objects with `token` as it stands in the text, `log_prob` and `unknown`.
          A line's end, if it has one, is its last token. A line that preparation would leave out
          has no tokens.
        """
        vocabulary, waiting = self._vocabulary, []

        def ids():
            for line in lines:
                tokens = vocabulary.tokenize(line)
                encoded = vocabulary.encode(tokens)
                # Vocabularies that can write any text have no `<unk>`.
                unk = -1 if vocabulary.unk_id is None else vocabulary.unk_id
                waiting.append((tokens, encoded == unk))
                yield encoded

        for scores in self._score(lines=ids(), **self._arguments):
            tokens, unknown = waiting.pop(0)
            self.num_lines += 1
            total = math.fsum(scores)
            yield {
                "line": self.num_lines,
                "log_prob": total,
                "num_tokens": len(tokens),
                "num_unknown": int(unknown.sum()),
                "tokens": [
                    {"token": token, "log_prob": round(float(score), 6), "unknown": bool(flag)}
                    for token, score, flag in zip(tokens, scores, unknown)
                ],
            }
            self.log_prob += total
            self.num_tokens += len(tokens)
            self.num_unknown += int(unknown.sum())

    def summary(self) -> str:
        """What all lines together came to."""
        perplexity = perplexity_of(-self.log_prob / self.num_tokens)
        return (
            f"{self.num_lines:,} lines, {self.num_tokens:,} tokens, {self.num_unknown:,} of them "
            f"unknown; log-probability {self.log_prob:.4f}, perplexity {perplexity:,.2f}"
        )


def as_jsonl(score: dict) -> str:
    """A line's score as one line of JSON."""
    return strict_json(score, ensure_ascii=False)


def as_tsv(score: dict) -> str:
    """A line's score as rows of `TSV_HEADER`: a row for each token, and one for the total.

    The total's place is "total", its token how many tokens there are, and `unknown` how many of
    them are unknown. Line ends and tabs among characters are written `\\n` and `\\t`.
    """
    rows = [
        f"{score['line']}\t{place}\t{_one_cell(row['token'])}\t{row['log_prob']:.6f}\t"
        f"{row['unknown']:d}"
        for place, row in enumerate(score["tokens"], start=1)
    ]
    total = (score["num_tokens"], f"{score['log_prob']:.6f}", score["num_unknown"])
    return "\n".join([*rows, "\t".join(map(str, (score["line"], "total", *total)))])


def _one_cell(token) -> str:
    """A token of any vocabulary, bytes are integers, without what ends a cell."""
    return str(token).replace("\t", r"\t").replace("\n", r"\n").replace("\r", r"\r")
