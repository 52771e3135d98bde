"""What every vocabulary has: a table sorted by frequency, and a file of its own."""

import abc
import hashlib
import itertools
import os
import uuid
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np


class Vocabulary(abc.ABC):
    """Tokens and their counts in the training split, the commonest first. Immutable.

    Equal counts are in the order of the tokens' code points, so that the same counts give the same
    ids on every machine.

    Attributes:
        tokens: tuple; `tokens[i]` is the token of id `i`.
        counts: tuple of int, how often each occurs in the training split.
        eos_id: what stands before the first token of a text.
        unk_id: the id of tokens that are not in it, or None where there is none: `encode` then
            refuses them.
    """

    _FORMAT: str
    tokens: tuple
    counts: tuple[int, ...]
    eos_id: int
    unk_id: int | None

    def __len__(self) -> int:
        return len(self.tokens)

    @property
    def size(self) -> int:
        """The number of tokens; ids are 0 to `size - 1`."""
        return len(self.tokens)

    @abc.abstractmethod
    def tokenize(self, text: str) -> list:
        """The tokens of a text, cut as the corpus was."""

    @abc.abstractmethod
    def encode(self, tokens: Iterable) -> np.ndarray:
        """Ids of tokens, int32 `[number of tokens]`."""

    def encode_text(self, text: str) -> np.ndarray:
        """Ids of a text, int32: `encode(tokenize(text))`."""
        return self.encode(self.tokenize(text))

    def unknown_tokens(self, text: str) -> list[str]:
        """The tokens of a text that become `<unk>`, sorted, each once."""
        if self.unk_id is None:
            return []
        tokens = set(self.tokenize(text))
        return sorted(str(token) for token in tokens if self.encode([token])[0] == self.unk_id)

    @abc.abstractmethod
    def decode(self, ids: Iterable[int]) -> str:
        """A readable text. Raises ValueError for an id that is not in the vocabulary."""

    def check_ids(self, ids: Iterable[int]) -> list[int]:
        """The ids as a list. Raises ValueError for one that is not in the vocabulary."""
        ids = [int(i) for i in ids]
        for i in ids:
            if not 0 <= i < self.size:
                raise ValueError(
                    f"Ids must be in 0 to {self.size - 1}, the size of the vocabulary. "
                    f"Received: {i}. Is it the vocabulary of another model?"
                )
        return ids

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
    def load(cls, path: str | os.PathLike):
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

    @abc.abstractmethod
    def _to_bytes(self) -> bytes:
        """The file."""

    @classmethod
    @abc.abstractmethod
    def _from_bytes(cls, data: bytes) -> "Vocabulary":
        """What `_to_bytes` wrote. Raises ValueError."""


def table_order(entry: tuple) -> tuple:
    """The key that sorts pairs of token and count as every vocabulary does."""
    token, count = entry
    return -count, token


def check_limits(min_count: int, max_size: int | None, least: int, what: str) -> None:
    """Raises ValueError for limits of a vocabulary that nothing can meet."""
    if min_count < 1:
        raise ValueError(f"min_count must be at least 1. Received: {min_count}.")
    if max_size is not None and max_size < least:
        raise ValueError(
            f"max_size must be at least {least}, for {what}, or None for no limit. "
            f"Received: {max_size}."
        )


def limited(counts: Mapping, min_count: int, most: int | None) -> list[tuple]:
    """The pairs of at least so high a count, sorted, and of these at most so many."""
    kept = sorted(((t, n) for t, n in counts.items() if n >= min_count), key=table_order)
    return kept if most is None else kept[:most]


def check_table(tokens: Sequence, counts: Sequence[int], is_sorted: bool = True) -> None:
    """Raises ValueError where a table of tokens and counts is not one of a vocabulary.

    Its order is checked if it is one that must be `is_sorted`.
    """
    if len(tokens) != len(counts):
        raise ValueError(
            f"Each token needs one count. Received {len(tokens)} tokens, {len(counts)} counts."
        )
    if len(set(tokens)) != len(tokens):
        seen: set = set()
        twice = next(t for t in tokens if t in seen or seen.add(t))
        raise ValueError(f"Tokens must be unique. Received {twice!r} twice.")
    for token, count in zip(tokens, counts, strict=True):
        if isinstance(token, str):
            try:
                token.encode("utf-8")
            except UnicodeEncodeError:
                raise ValueError(
                    f"A token is text that UTF-8 can write. Received {token!r}: a lone surrogate."
                ) from None
        if count < 0:
            raise ValueError(f"Counts are at least 0. Received {count} for {token!r}.")
    if not is_sorted:
        return
    for before, after in itertools.pairwise(zip(tokens, counts, strict=True)):
        if table_order(before) > table_order(after):
            raise ValueError(
                "Tokens stand in the order of falling counts, and of code points where counts are "
                f"equal. Received {before} before {after}: use from_counts."
            )
