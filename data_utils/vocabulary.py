"""The word vocabulary: ids sorted by frequency, as the adaptive layers need them."""

import hashlib
import itertools
import os
import uuid
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np

from .tokenization import EOS, UNK, check_rule, join_tokens, tokenize_text


class _Ids(dict[str, int]):
    """Ids by token, with an answer for every token: `unk_id`."""

    def __init__(self, tokens: Sequence[str]):
        super().__init__((token, i) for i, token in enumerate(tokens))
        self._unk_id = self[UNK]

    def __missing__(self, token: str) -> int:
        return self._unk_id


class WordVocabulary:
    """Tokens and their counts in the training split, the commonest first.

    An id is a token's place in the order of falling count; equal counts are in code point order,
    so that the same counts give the same ids everywhere. `<eos>` and `<unk>` stand where their
    counts put them. Immutable.

    Attributes:
        tokens: tuple of str; `tokens[i]` is the token of id `i`.
        counts: tuple of int, how often each occurs in the training split. What falls under
            `<unk>` is counted there.
        tokenization: how text is cut into tokens, one of `tokenization.RULES`.
        eos_id, unk_id: the ids of `<eos>` and `<unk>`.
    """

    _FORMAT = "word vocabulary 1"

    def __init__(
        self, tokens: Sequence[str], counts: Sequence[int], tokenization: str = "whitespace"
    ):
        """Takes what is in order already; `from_counts` puts it in order.

        Raises ValueError for tokens that are empty, repeated, not text or have white space in
        them, for counts below 0, for a wrong order, and where `<eos>` or `<unk>` is missing.
        """
        self.tokens = tuple(tokens)
        self.counts = tuple(int(count) for count in counts)
        self.tokenization = check_rule(tokenization)
        _check_entries(self.tokens, self.counts)
        self._ids = _Ids(self.tokens)
        self.eos_id = self._ids[EOS]
        self.unk_id = self._ids[UNK]

    @classmethod
    def from_counts(
        cls,
        counts: Mapping[str, int],
        min_count: int = 1,
        max_size: int | None = None,
        tokenization: str = "whitespace",
    ) -> "WordVocabulary":
        """The vocabulary of counted tokens.

        Args:
            counts: how often each token occurs in the training split, `<eos>` among them.
            min_count: rarer tokens count as `<unk>`.
            max_size: of the rest, the rarest count as `<unk>` so that the vocabulary, `<eos>` and
                `<unk>` included, has at most so many tokens. None: no limit.
            tokenization: see the class.

        `<eos>` and `<unk>` are always in it, with a count of 0 if need be.

        Raises:
            ValueError: limits below 1 (`max_size`: 3), or tokens as in the constructor.
        """
        if min_count < 1:
            raise ValueError(f"min_count must be at least 1. Received: {min_count}.")
        if max_size is not None and max_size < 3:
            raise ValueError(
                "max_size must be at least 3, for <eos>, <unk> and a word, or None for no limit. "
                f"Received: {max_size}."
            )
        if min(counts.values(), default=0) < 0:
            raise ValueError("Counts are at least 0. Received one below.")
        words = [(t, n) for t, n in counts.items() if n >= min_count and t not in (EOS, UNK)]
        words.sort(key=_order)
        if max_size is not None:
            del words[max_size - 2 :]
        num_eos = counts.get(EOS, 0)
        num_unk = sum(counts.values()) - num_eos - sum(n for _, n in words)
        entries = sorted([*words, (EOS, num_eos), (UNK, num_unk)], key=_order)
        return cls([t for t, _ in entries], [n for _, n in entries], tokenization)

    def __len__(self) -> int:
        return len(self.tokens)

    @property
    def size(self) -> int:
        """The number of tokens; ids are 0 to `size - 1`."""
        return len(self.tokens)

    def tokenize(self, text: str) -> list[str]:
        """The tokens of a text, cut as the corpus was, with `<eos>` where a line ends.

        The last line has no `<eos>` unless the text ends in a line end.
        """
        return tokenize_text(text, self.tokenization)

    def encode(self, tokens: Iterable[str]) -> np.ndarray:
        """Ids of tokens, int32 `[number of tokens]`; unknown ones become `unk_id`.

        Raises ValueError for a str, which would be taken for a sequence of characters.
        """
        if isinstance(tokens, str):
            raise ValueError(
                f"encode takes a sequence of tokens. Received the text {tokens[:40]!r}: use "
                "encode_text."
            )
        return np.fromiter(map(self._ids.__getitem__, tokens), dtype=np.int32)

    def encode_text(self, text: str) -> np.ndarray:
        """Ids of a text, int32: `encode(tokenize(text))`."""
        return self.encode(self.tokenize(text))

    def decode(self, ids: Iterable[int]) -> str:
        """A readable text: `<eos>` becomes a line end, punctuation is attached to its word.

        `tokenize(decode(ids))` gives the tokens of `ids` again. Raises ValueError for an id that
        is not in the vocabulary.
        """
        ids = [int(i) for i in ids]
        for i in ids:
            if not 0 <= i < self.size:
                raise ValueError(
                    f"Ids must be in 0 to {self.size - 1}, the size of the vocabulary. "
                    f"Received: {i}. Is it the vocabulary of another model?"
                )
        return join_tokens([self.tokens[i] for i in ids], self.tokenization)

    def fingerprint(self) -> str:
        """sha256 of the file that `save` writes, in hexadecimal."""
        return hashlib.sha256(self._to_bytes()).hexdigest()

    def save(self, path: str | os.PathLike) -> None:
        """Writes a UTF-8 text file: three lines of header, then `token<TAB>count` a line.

        The file appears whole or not at all, also where one of that name is replaced.
        """
        path = Path(path)
        partial = path.with_name(f".{path.name}.{uuid.uuid4().hex}.partial")
        try:
            with open(partial, "wb") as file:
                file.write(self._to_bytes())
                file.flush()
                os.fsync(file.fileno())
            os.replace(partial, path)
        finally:
            partial.unlink(missing_ok=True)

    @classmethod
    def load(cls, path: str | os.PathLike) -> "WordVocabulary":
        """Reads what `save` wrote.

        Raises FileNotFoundError where there is no such file, and ValueError, naming the file and
        what is wrong, for one that `save` did not write so.
        """
        path = Path(path)
        if not path.is_file():
            raise FileNotFoundError(f"A vocabulary file is needed. There is none at {path}.")
        try:
            return cls._from_bytes(path.read_bytes())
        except ValueError as error:
            raise ValueError(
                f"{path} is not a sound vocabulary file: {error} Restore it, or prepare again."
            ) from error

    def _to_bytes(self) -> bytes:
        header = [self._FORMAT, f"tokenization {self.tokenization}", f"size {self.size}"]
        rows = [f"{t}\t{n}" for t, n in zip(self.tokens, self.counts, strict=True)]
        return ("\n".join(header + rows) + "\n").encode("utf-8")

    @classmethod
    def _from_bytes(cls, data: bytes) -> "WordVocabulary":
        # Not str.splitlines: a token may have characters in it that would split there.
        kind, *lines = data.decode("utf-8").split("\n")
        if kind != cls._FORMAT:
            raise ValueError(f"Its first line must be {cls._FORMAT!r}. Received: {kind[:40]!r}.")
        header = [line.split(" ") for line in lines[:2]]
        if [row[0] for row in header] != ["tokenization", "size"] or any(
            len(row) != 2 for row in header
        ):
            raise ValueError("Lines 2 and 3 must say 'tokenization RULE' and 'size NUMBER'.")
        rule, size = header[0][1], header[1][1]
        rows = lines[2:-1]
        if lines[-1] or str(len(rows)) != size:
            raise ValueError(f"It must have {size} tokens and end in a line end: it is cut short.")
        tokens, counts = [], []
        for number, row in enumerate(rows, start=4):
            token, tab, count = row.partition("\t")
            if not (tab and count.isascii() and count.isdecimal()):
                raise ValueError(f"Line {number} must be token<TAB>count. Received: {row[:60]!r}.")
            tokens.append(token)
            counts.append(int(count))
        return cls(tokens, counts, rule)


def _order(entry: tuple[str, int]) -> tuple[int, str]:
    token, count = entry
    return -count, token


def _check_entries(tokens: tuple[str, ...], counts: tuple[int, ...]) -> None:
    if len(tokens) != len(counts):
        raise ValueError(
            f"Each token needs one count. Received {len(tokens)} tokens, {len(counts)} counts."
        )
    if len(set(tokens)) != len(tokens):
        seen: set[str] = set()
        twice = next(t for t in tokens if t in seen or seen.add(t))
        raise ValueError(f"Tokens must be unique. Received {twice!r} twice.")
    for special in (EOS, UNK):
        if special not in tokens:
            raise ValueError(f"A vocabulary needs {EOS} and {UNK}. Received none of {special}.")
    for token, count in zip(tokens, counts, strict=True):
        if token.split() != [token]:
            raise ValueError(f"A token has no white space and is not empty. Received: {token!r}.")
        try:
            token.encode("utf-8")
        except UnicodeEncodeError:
            raise ValueError(
                f"A token is text that UTF-8 can write. Received {token!r}: a lone surrogate."
            ) from None
        if count < 0:
            raise ValueError(f"Counts are at least 0. Received {count} for {token!r}.")
    entries = list(zip(tokens, counts, strict=True))
    for before, after in itertools.pairwise(entries):
        if _order(before) > _order(after):
            raise ValueError(
                "Tokens stand in the order of falling counts, and of code points where counts are "
                f"equal. Received {before} before {after}: use from_counts."
            )
