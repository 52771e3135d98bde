"""The registry of corpora: where each comes from, how it is cut into lines, tokens and splits.

A corpus yields its lines as lists of tokens, without the `<eos>` that ends every line: preparation
adds it. Everything is a stream; no corpus is ever held in memory.
"""

import dataclasses
import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path

from .sotu import find_sotu
from .sources import Source, digest, read_lines
from .text_files import find_text
from .tokenization import keeps_empty_lines, line_tokenizer
from .wikitext import accepted_layouts, find_wikitext

CORPUS_NAMES = ("sotu", "text", "wikitext2", "wikitext103")


@dataclasses.dataclass(frozen=True)
class ExpectedCounts:
    """What a corpus is known to have: tokens of each split with `<eos>`, and types.

    `types` is the size of the vocabulary with the corpus' own minimum count and no maximum.
    """

    tokens: Mapping[str, int]
    types: int


EXPECTED = {
    "sotu": ExpectedCounts({"train": 2_012_955, "valid": 106_207, "test": 115_908}, 17_268),
    "wikitext2": ExpectedCounts({"train": 2_088_628, "valid": 217_646, "test": 245_569}, 33_278),
    "wikitext103": ExpectedCounts(
        {"train": 103_227_021, "valid": 217_646, "test": 245_569}, 267_735
    ),
}


@dataclasses.dataclass(frozen=True)
class Corpus:
    """A corpus that was found, and not read yet.

    Attributes:
        name: one of `CORPUS_NAMES`.
        unit: what a token is; "word".
        tokenization: how a line is cut into tokens, see `tokenization.RULES`.
        min_count: the minimum count of a word in the vocabulary, unless the user says otherwise.
        sources: for each split, in the order train, valid, test, the pieces of text it is made of.
        notes: what the user should know about how the text was found.
    """

    name: str
    unit: str
    tokenization: str
    min_count: int
    sources: Mapping[str, tuple[Source, ...]]
    notes: tuple[str, ...] = ()
    vocabulary: str = "word"
    documents: str = "files"

    @property
    def splits(self) -> tuple[str, ...]:
        """The splits it has; "train" and "valid" always, perhaps "test"."""
        return tuple(self.sources)

    @property
    def expected(self) -> ExpectedCounts | None:
        """What it is known to have, or None where that depends on the user's text."""
        return EXPECTED.get(self.name)

    def texts(self, split: str) -> Iterator[str]:
        """The lines that count, as strings without their ends: what characters are counted on.

        Raises ValueError for a split that the corpus lacks, and where the text is not UTF-8.
        """
        if split not in self.sources:
            raise ValueError(
                f"The corpus {self.name} has the splits {', '.join(self.splits)}. "
                f"Received: {split!r}."
            )
        keep_empty = keeps_empty_lines(self.tokenization)
        for source in self.sources[split]:
            for line in read_lines(source):
                if keep_empty or (line and not line.isspace()):
                    yield line

    def lines(self, split: str) -> Iterator[list[str]]:
        """The tokens of each line, without `<eos>`; raises as `texts` does."""
        return map(line_tokenizer(self.tokenization), self.texts(split))

    def fingerprint(self) -> str:
        """sha256 over the bytes of every split and the rules that make tokens of them.

        Names and places of files do not enter: the same text gives the same fingerprint, from a
        folder or from an archive. Reads the whole source.
        """
        return source_identity(
            self,
            {
                split: [digest(source) for source in sources]
                for split, sources in self.sources.items()
            },
        )


def source_identity(corpus: Corpus, digests: Mapping[str, list[str]]) -> str:
    """The fingerprint of a corpus, from the sha256 of each of its sources."""
    identity = {"corpus": corpus.name, "tokenization": corpus.tokenization, "splits": digests}
    return hashlib.sha256(json.dumps(identity).encode()).hexdigest()


def load_corpus(name: str, data_dir: str | os.PathLike | None = None) -> Corpus:
    """Finds a corpus; nothing is written, neither here nor later, into `data_dir`.

    Args:
        name: one of `CORPUS_NAMES`. `sotu` is built in, `wikitext2` and `wikitext103` are read as
            published, `text` is text of the user's own.
        data_dir: where the files are; see `wikitext.find_wikitext` and `text_files.find_text` for
            what it may be. `sotu` ignores it: its text comes with a Python package.

    Raises:
        ValueError: unknown name, no `data_dir` where one is needed, or text that will not do.
        FileNotFoundError: `data_dir` does not exist or lacks the corpus.
        ModuleNotFoundError: `sotu` without its package.
    """
    if name not in CORPUS_NAMES:
        raise ValueError(f"A corpus is one of {', '.join(CORPUS_NAMES)}. Received: {name!r}.")
    if name == "sotu":
        return Corpus(name, "word", "words", min_count=3, sources=find_sotu())

    what = "text is read from a file or folder of text" if name == "text" else ""
    what = what or accepted_layouts(name)
    if data_dir is None:
        raise ValueError(f"{what}. Received no data_dir: say where it is.")
    data_dir = Path(data_dir).expanduser()
    if not data_dir.exists():
        raise FileNotFoundError(f"{what}. The data_dir {data_dir} does not exist.")
    if not (data_dir.is_dir() or data_dir.is_file()):
        raise ValueError(f"{what}. The data_dir {data_dir} is neither a file nor a folder.")
    if name == "text":
        sources, notes = find_text(data_dir)
        return Corpus(name, "word", "words", min_count=3, sources=sources, notes=notes)
    sources = find_wikitext(name, data_dir)
    return Corpus(name, "word", "whitespace", min_count=1, sources=sources, documents="headings")
