"""A corpus that was found: its text as streams of lines, and the fingerprint of that text.

A corpus yields its lines as lists of tokens, without the `<eos>` that ends every line: preparation
adds it. Everything is a stream; no corpus is ever held in memory.
"""

import dataclasses
import hashlib
import json
from collections.abc import Iterator, Mapping

from .sources import Source, digest, read_lines
from .tokenization import keeps_empty_lines, line_tokenizer


@dataclasses.dataclass(frozen=True)
class ExpectedCounts:
    """What a corpus is known to have: tokens of each split with `<eos>`, and types.

    `types` is the size of the vocabulary with the corpus' own minimum count and no maximum, or None
    where none was published.
    """

    tokens: Mapping[str, int]
    types: int | None


@dataclasses.dataclass(frozen=True)
class Corpus:
    """A corpus that was found, and not read yet.

    Attributes:
        name: one of `CORPUS_NAMES`, or `tfds:...`.
        unit: what its published figures are about; "word" or "character".
        tokenization: how a line is cut into words, see `tokenization.RULES`.
        min_count: the minimum count of a word in the vocabulary, unless the user says otherwise.
        sources: for each split, in the order train, valid, test, the pieces of text it is made of.
        notes: what the user should know about how the text was found.
        vocabulary: its own kind, one of `VOCABULARY_KINDS`, unless the user says otherwise.
        documents: what its documents are, one of `documents.DOCUMENT_KINDS`.
        expected: what it is known to have, or None where that depends on the user's text.
    """

    name: str
    unit: str
    tokenization: str
    min_count: int
    sources: Mapping[str, tuple[Source, ...]]
    notes: tuple[str, ...] = ()
    vocabulary: str = "word"
    documents: str = "files"
    expected: ExpectedCounts | None = None

    @property
    def splits(self) -> tuple[str, ...]:
        """The splits it has; "train" and "valid" always, perhaps "test"."""
        return tuple(self.sources)

    @property
    def has_sentences(self) -> bool:
        """Whether its lines stand in no order, so that training may shuffle them."""
        return self.documents == "lines"

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
