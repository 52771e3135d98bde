"""Where documents begin in an array of ids."""

import numpy as np

from .base_vocabulary import Vocabulary

# What a corpus' documents are: its files, or the articles of WikiText, or its lines.
DOCUMENT_KINDS = ("files", "headings", "lines")


class DocumentFinder:
    """Notes the places of the tokens that begin documents, block by block.

    Args:
        kind: "files": each source is one; "headings": an article begins with the line before a
            line `= title =` that has empty lines on both sides, as in WikiText, when tokens are
            words, and each source where they are not; "lines": each line is one.
        vocabulary: of the ids.
    """

    def __init__(self, kind: str, vocabulary: Vocabulary):
        if kind not in DOCUMENT_KINDS:
            raise ValueError(f"Documents are {', '.join(DOCUMENT_KINDS)}. Received: {kind!r}.")
        self._eos = vocabulary.eos_id
        tokens = vocabulary.tokens
        self._equals = tokens.index("=") if "=" in tokens else -1
        is_words = bool(getattr(vocabulary, "tokenize", None)) and "<eos>" in tokens
        self._kind = kind if is_words else "files"
        self._starts: list[np.ndarray] = []
        self._num_tokens = 0
        self._begins = False  # Whether the next token is the first of a file.
        self._rest = np.zeros(0, np.int64)  # The last two lines, whose next is not known yet.

    def see(self, ids: np.ndarray, begins_source: bool) -> None:
        """Takes the next ids; `begins_source`: whether they are the first of a file."""
        self._begins |= begins_source
        if self._begins and ids.size:  # A first block may be white space, without any token.
            self._starts.append(np.array([self._num_tokens]))
            self._begins = False
        if self._kind == "lines":
            (ends,) = np.nonzero(ids == self._eos)
            self._starts.append(self._num_tokens + ends + 1)
        elif self._kind == "headings":
            self._headings(ids)
        self._num_tokens += ids.size

    def starts(self) -> np.ndarray:
        """int64 `[number of documents]`, rising, the first of them 0."""
        found = np.unique(np.concatenate([np.zeros(1, np.int64), *self._starts]))
        return found[found < max(self._num_tokens, 1)].astype(np.int64)

    def _headings(self, ids: np.ndarray) -> None:
        joined = np.concatenate([self._rest, ids.astype(np.int64)])
        first = self._num_tokens - self._rest.size
        (ends,) = np.nonzero(joined == self._eos)
        begins = np.concatenate([[0], ends[:-1] + 1]) if ends.size else ends
        lengths = ends - begins
        if ends.size >= 3:
            middle = slice(1, -1)
            b, e = begins[middle], ends[middle]
            ok = (lengths[middle] >= 3) & (lengths[:-2] == 0) & (lengths[2:] == 0)
            b, e, before = b[ok], e[ok], begins[:-2][ok]
            title = (
                (joined[b] == self._equals)
                & (joined[b + 1] != self._equals)
                & (joined[e - 1] == self._equals)
                & (joined[e - 2] != self._equals)
            )
            self._starts.append(first + before[title])
            self._rest = joined[begins[-2] :]
        else:
            self._rest = joined
