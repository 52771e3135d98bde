"""Vocabularies of characters, bytes and SentencePiece pieces: what they write, they read again."""

import base64
import json
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from .base_vocabulary import Vocabulary, check_limits, check_table, limited, table_order
from .piece_model import PieceModel
from .tokenization import EOS, UNK, check_rule, is_lowercase, keeps_empty_lines, text_lines

_REPLACEMENT = "\ufffd"


class _SymbolVocabulary(Vocabulary):
    """A table that is written as JSON strings, so that a file of it can be read by people."""

    def __init__(self, tokens: Sequence, counts: Sequence[int], rule: str):
        self.tokens = tuple(tokens)
        self.counts = tuple(int(count) for count in counts)
        self.tokenization = check_rule(rule)
        check_table(self.tokens, self.counts)
        self._ids = {token: i for i, token in enumerate(self.tokens)}

    def encode(self, tokens: Iterable) -> np.ndarray:
        """Ids of tokens, int32 `[number of tokens]`.

        Raises ValueError for a token that is not in the vocabulary, where it has no `<unk>`.
        """
        found = [self._ids.get(token, self.unk_id) for token in tokens]
        if None in found:
            unknown = sorted({repr(token) for token in tokens if token not in self._ids})
            raise ValueError(
                f"Tokens must be in the vocabulary, which has no {UNK}. Received "
                f"{', '.join(unknown[:8])}. Leave them out, or prepare text that has them."
            )
        return np.array(found, np.int32)

    def _more_lines(self) -> list[str]:
        return []

    def _to_bytes(self) -> bytes:
        lines = [self._FORMAT, f"tokenization {self.tokenization}", f"size {self.size}"]
        for token, count in zip(self.tokens, self.counts, strict=True):
            lines.append(f"{json.dumps(token, ensure_ascii=False)}\t{count}")
        return ("\n".join([*lines, *self._more_lines()]) + "\n").encode("utf-8")

    @classmethod
    def _table(cls, data: bytes) -> tuple[list, list[int], str, list[str]]:
        """Tokens, counts, rule and the lines behind them, of a file."""
        kind, *lines = data.decode("utf-8").split("\n")
        if kind != cls._FORMAT:
            raise ValueError(f"Its first line must be {cls._FORMAT!r}. Received: {kind[:40]!r}.")
        names = [line.partition(" ")[0] for line in lines[:2]]
        if names != ["tokenization", "size"] or not lines[1].partition(" ")[2].isdecimal():
            raise ValueError("Lines 2 and 3 must say 'tokenization RULE' and 'size NUMBER'.")
        rule, size = lines[0].partition(" ")[2], int(lines[1].partition(" ")[2])
        rows = lines[2:-1]
        if lines[-1] or len(rows) < size:
            raise ValueError(f"It must have {size} tokens and end in a line end: it is cut short.")
        tokens, counts = [], []
        for number, row in enumerate(rows[:size], start=4):
            token, tab, count = row.rpartition("\t")
            try:
                tokens.append(json.loads(token))
            except ValueError:
                tab = ""
            if not (tab and count.isascii() and count.isdecimal()):
                raise ValueError(f"Line {number} must be TOKEN<TAB>count. Received: {row[:60]!r}.")
            counts.append(int(count))
        return tokens, counts, rule, rows[size:]

    @classmethod
    def _no_more(cls, rows: list[str]) -> None:
        if rows:
            raise ValueError(f"It must end after its tokens. Received: {rows[0][:60]!r}.")


class CharacterVocabulary(_SymbolVocabulary):
    """Unicode code points. A line's end is the character that it is, and nothing is dropped.

    `decode(encode_text(text)) == text` for every text whose characters are in it.

    Attributes:
        eos_id: the id of the line end, or, in text without lines, of the space, or else 0.
        unk_id: there is one only where preparation met a character that training has not.
    """

    _FORMAT = "character vocabulary 1"

    def __init__(
        self, tokens: Sequence[str], counts: Sequence[int], tokenization: str = "whitespace"
    ):
        """Takes what is in order already; raises ValueError for what is no table of characters."""
        for token in tokens:
            if not isinstance(token, str) or (len(token) != 1 and token != UNK):
                raise ValueError(f"A token is one character. Received: {token!r}.")
        super().__init__(tokens, counts, tokenization)
        if not self.tokens:
            raise ValueError("A vocabulary needs characters. Received none.")
        self.unk_id = self._ids.get(UNK)
        self.eos_id = self._ids.get("\n", self._ids.get(" ", 0))

    @classmethod
    def from_counts(
        cls,
        counts: Mapping[str, int],
        min_count: int = 1,
        max_size: int | None = None,
        tokenization: str = "whitespace",
        needs_unk: bool = False,
    ) -> "CharacterVocabulary":
        """The vocabulary of counted characters; `<unk>` is in it where limits or others need it."""
        check_limits(min_count, max_size, 2, "<unk> and a character")
        kept = limited(counts, min_count, None)
        if max_size is not None and len(kept) + needs_unk > max_size:
            kept = kept[: max_size - 1]
        num_unknown = sum(counts.values()) - sum(n for _, n in kept)
        if needs_unk or num_unknown:
            kept = sorted([*kept, (UNK, num_unknown)], key=table_order)
        return cls([t for t, _ in kept], [n for _, n in kept], tokenization)

    def tokenize(self, text: str) -> list[str]:
        """The characters."""
        return list(text.lower() if is_lowercase(self.tokenization) else text)

    def decode(self, ids: Iterable[int]) -> str:
        """The text; `<unk>` becomes U+FFFD."""
        unk = self.unk_id
        return "".join(_REPLACEMENT if i == unk else self.tokens[i] for i in self.check_ids(ids))

    @classmethod
    def _from_bytes(cls, data: bytes) -> "CharacterVocabulary":
        tokens, counts, rule, rest = cls._table(data)
        cls._no_more(rest)
        return cls(tokens, counts, rule)


class ByteVocabulary(_SymbolVocabulary):
    """All 256 bytes, sorted by frequency, so that any text and any file can be written.

    `decode(encode_text(text)) == text` for every text that UTF-8 can write.

    Attributes:
        tokens: tuple of int, 0 to 255.
        eos_id: the id of the line end's byte.
        unk_id: None.
    """

    _FORMAT = "byte vocabulary 1"
    unk_id = None

    def __init__(self, tokens: Sequence[int], counts: Sequence[int]):
        """Takes what is in order already; raises ValueError unless it is all 256 bytes."""
        if sorted(map(str, tokens)) != sorted(map(str, range(256))):
            raise ValueError(f"A byte vocabulary has the bytes 0 to 255. Received {len(tokens)}.")
        super().__init__(tokens, counts, "whitespace")
        self.eos_id = self._ids[10]

    @classmethod
    def from_counts(cls, counts: Mapping[int, int]) -> "ByteVocabulary":
        """The vocabulary of counted bytes."""
        table = sorted(((b, counts.get(b, 0)) for b in range(256)), key=table_order)
        return cls([b for b, _ in table], [n for _, n in table])

    def tokenize(self, text: str | bytes) -> list[int]:
        """The bytes, of a str in UTF-8. Raises ValueError for lone surrogates."""
        return list(text if isinstance(text, bytes) else _utf8(text))

    def decode_bytes(self, ids: Iterable[int]) -> bytes:
        """The bytes, exactly."""
        return bytes(self.tokens[i] for i in self.check_ids(ids))

    def decode(self, ids: Iterable[int]) -> str:
        """The text; bytes that are not UTF-8 become U+FFFD."""
        return self.decode_bytes(ids).decode("utf-8", errors="replace")

    @classmethod
    def _from_bytes(cls, data: bytes) -> "ByteVocabulary":
        tokens, counts, _, rest = cls._table(data)
        cls._no_more(rest)
        return cls(tokens, counts)


class PieceVocabulary(_SymbolVocabulary):
    """The pieces of a SentencePiece model in the order of frequency, and `<eos>` for a line's end.

    The model's own ids, which are sorted by score or by merge, are used inside only. With a model
    that was trained here `decode(encode_text(text)) == text` for every text, where lines end in
    `\\n`; a given model may normalise, as it was trained to.

    Attributes:
        unk_id: the id of what the model cannot write, or None where it can write everything.
    """

    _FORMAT = "piece vocabulary 1"

    def __init__(
        self, tokens: Sequence[str], counts: Sequence[int], tokenization: str, model: bytes
    ):
        """Takes what is in order already, and the model; raises ValueError if they differ."""
        self._model = PieceModel(model)
        super().__init__(tokens, counts, tokenization)
        self.eos_id = self._ids.get(EOS, -1)
        expected = {*piece_names(self._model), EOS}
        if set(self.tokens) != expected:
            raise ValueError("The tokens must be the pieces of the model, and <eos>.")
        self.unk_id = None
        if not self._model.is_exact:
            self.unk_id = self._ids[self._model.pieces[self._model.unknown_id]]
        self._of_model = np.array(
            [self._ids.get(name, -1) for name in self._model.pieces] + [self.eos_id], np.int32
        )
        self._to_model = {int(i): n for n, i in enumerate(self._of_model[:-1]) if i >= 0}

    @classmethod
    def from_counts(
        cls, counts: Mapping[str, int], model: bytes, tokenization: str = "whitespace"
    ) -> "PieceVocabulary":
        """The vocabulary of counted pieces; those that do not occur have a count of 0."""
        names = {*piece_names(PieceModel(model)), EOS}
        table = sorted(((name, counts.get(name, 0)) for name in names), key=table_order)
        return cls([t for t, _ in table], [n for _, n in table], tokenization, model)

    def tokenize(self, text: str) -> list[str]:
        """The pieces of a text of any number of lines, with `<eos>` where a line ends."""
        return [self.tokens[i] for i in self.encode_text(text)]

    def encode_text(self, text: str) -> np.ndarray:
        """Ids of a text, int32; the last line has no `<eos>` unless the text ends in a line end."""
        _utf8(text)
        if is_lowercase(self.tokenization):
            text = text.lower()
        *ended, last = text_lines(text)
        if not keeps_empty_lines(self.tokenization):
            ended = [line for line in ended if line and not line.isspace()]
        ids = []
        for line in self._model.encode(ended):
            ids += [*line, self._model.size]
        ids += self._model.encode([last])[0]
        return self._of_model[np.array(ids, np.int64)]

    def decode(self, ids: Iterable[int]) -> str:
        """The text; `<eos>` becomes a line end."""
        lines: list[list[int]] = [[]]
        for i in self.check_ids(ids):
            if i == self.eos_id:
                lines.append([])
            else:
                lines[-1].append(self._to_model[i])
        return "\n".join(self._model.decode(line) if line else "" for line in lines)

    @property
    def model(self) -> bytes:
        """The SentencePiece model, as its file has it."""
        return self._model.serialized

    def _more_lines(self) -> list[str]:
        return ["model " + base64.b64encode(self._model.serialized).decode("ascii")]

    @classmethod
    def _from_bytes(cls, data: bytes) -> "PieceVocabulary":
        tokens, counts, rule, rest = cls._table(data)
        if len(rest) != 1 or not rest[0].startswith("model "):
            raise ValueError("Its last line must be 'model BASE64'.")
        model = base64.b64decode(rest[0].removeprefix("model "), validate=True)
        return cls(tokens, counts, rule, model)


def piece_names(model: PieceModel) -> tuple[str, ...]:
    """The pieces that can occur: in an exact model all but the one for what it cannot write."""
    if EOS in model.pieces:
        raise ValueError(
            f"A SentencePiece model must leave {EOS} to the line ends. This one has a piece of "
            "that name: train another."
        )
    if not model.is_exact:
        return model.pieces
    return tuple(name for i, name in enumerate(model.pieces) if i != model.unknown_id)


def _utf8(text: str) -> bytes:
    try:
        return text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise ValueError(
            "Text must be one that UTF-8 can write. Received a lone surrogate, "
            f"{text[error.start]!r}, at character {error.start}."
        ) from None
