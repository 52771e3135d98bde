"""The word vocabulary: ids sorted by frequency, as the adaptive layers need them."""

from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from .base_vocabulary import Vocabulary, check_limits, check_table, limited, table_order
from .tokenization import EOS, UNK, check_rule, join_tokens, tokenize_text


class _Ids(dict[str, int]):
    """Ids by token, with an answer for every token: `unk_id`."""

    def __init__(self, tokens: Sequence[str]):
        super().__init__((token, i) for i, token in enumerate(tokens))
        self._unk_id = self[UNK]

    def __missing__(self, token: str) -> int:
        return self._unk_id


class WordVocabulary(Vocabulary):
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
    _IS_SORTED = True

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
        _check_entries(self.tokens, self.counts, self._IS_SORTED)
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
        check_limits(min_count, max_size, 3, "<eos>, <unk> and a word")
        if min(counts.values(), default=0) < 0:
            raise ValueError("Counts are at least 0. Received one below.")
        words = {t: n for t, n in counts.items() if t not in (EOS, UNK)}
        kept = limited(words, min_count, None if max_size is None else max_size - 2)
        num_eos = counts.get(EOS, 0)
        num_unk = sum(counts.values()) - num_eos - sum(n for _, n in kept)
        entries = sorted([*kept, (EOS, num_eos), (UNK, num_unk)], key=table_order)
        return cls([t for t, _ in entries], [n for _, n in entries], tokenization)

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
        ids = self.check_ids(ids)
        return join_tokens([self.tokens[i] for i in ids], self.tokenization)

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


def _check_entries(tokens: tuple[str, ...], counts: tuple[int, ...], is_sorted: bool) -> None:
    if len(tokens) == len(counts) == len(set(tokens)):
        for special in (EOS, UNK):
            if special not in tokens:
                raise ValueError(f"A vocabulary needs {EOS} and {UNK}. Received none of {special}.")
    for token in tokens:
        if token.split() != [token]:
            raise ValueError(f"A token has no white space and is not empty. Received: {token!r}.")
    check_table(tokens, counts, is_sorted)
