"""Blocks of bytes become provisional ids: what every process of a preparation does.

Ids are sorted by frequency only when all text was read, so that text is cut into tokens once: an
encoder numbers tokens as it meets them, counts them, and its numbers are replaced at the end.
"""

import abc
import json
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import pyarrow as pa
from pyarrow import compute

from .blocks import Block
from .tokenization import EOS, is_lowercase, keeps_empty_lines, line_tokenizer, plain_rule

# White space of Python's str.split that Arrow's ASCII kernel does not know.
_OTHER_WHITE_SPACE = "\x1c\x1d\x1e\x1f\x85\xa0\u1680\u2028\u2029\u202f\u205f\u3000" + "".join(
    map(chr, range(0x2000, 0x200B))
)
_AS_SPACE = str.maketrans(dict.fromkeys(_OTHER_WHITE_SPACE, " "))


class Measures(NamedTuple):
    """What a block has: tokens, characters and words; a line's end is one of each."""

    tokens: int
    characters: int
    words: int


class Types(NamedTuple):
    """All different tokens that an encoder has met.

    Attributes:
        tokens: list of str, or of int for bytes.
        ids: int64 `[n]`, their provisional ids.
        counts: int64 `[n, S]`, how often each occurs in each of the S splits.
    """

    tokens: list
    ids: np.ndarray
    counts: np.ndarray


class NotUtf8Error(ValueError):
    """Text that is not UTF-8; `args` are the place in the block, the byte, and the reason."""


class BlockEncoder(abc.ABC):
    """Gives provisional ids to the tokens of blocks, and counts them."""

    dtype = np.dtype(np.int32)

    @abc.abstractmethod
    def encode(self, block: Block, split: int) -> tuple[np.ndarray, Measures]:
        """The provisional ids of a block of split number `split`, `[n]` of `dtype`.

        Raises NotUtf8Error.
        """

    @abc.abstractmethod
    def types(self) -> Types:
        """What was met so far."""


def make_encoder(settings: Mapping, num_splits: int, model: bytes = b"") -> BlockEncoder:
    """The encoder for a vocabulary.

    Args:
        settings: "kind" (word, character, byte or sentencepiece) and "tokenization", one of
            `tokenization.RULES`.
        num_splits: S.
        model: for sentencepiece, its model.
    """
    kind = settings["kind"]
    if kind == "byte":
        return _Bytes(num_splits)
    if kind == "character":
        return _Characters(num_splits, is_lowercase(settings["tokenization"]))
    if kind == "sentencepiece":
        return _Pieces(num_splits, settings["tokenization"], model)
    if plain_rule(settings["tokenization"]) == "whitespace":
        return _WhitespaceWords(num_splits, is_lowercase(settings["tokenization"]))
    return _Words(num_splits, settings["tokenization"])


def decoded(block: Block) -> str:
    """The text of a block. Raises NotUtf8Error."""
    try:
        return block.data.decode("utf-8")
    except UnicodeDecodeError as error:
        byte = block.data[error.start]
        raise NotUtf8Error(error.start, byte, error.reason) from None


def _one_line_end(text: str) -> str:
    if "\r" in text:
        text = text.replace("\r\n", "\n").replace("\r", "\n")
    return text


class _Numbered(BlockEncoder):
    """Numbers types in the order in which they come."""

    def __init__(self, num_splits: int):
        self._ids: dict = {}
        self._counts = np.zeros([num_splits, 1 << 16], np.int64)

    def _number(self, tokens: list) -> np.ndarray:
        ids = self._ids
        numbers = np.array([ids.setdefault(token, len(ids)) for token in tokens], np.int32)
        if len(ids) > self._counts.shape[1]:
            longer = np.zeros([self._counts.shape[0], 2 * len(ids)], np.int64)
            longer[:, : self._counts.shape[1]] = self._counts
            self._counts = longer
        return numbers

    def types(self) -> Types:
        n = len(self._ids)
        return Types(list(self._ids), np.arange(n), self._counts[:, :n].T)


class _WhitespaceWords(_Numbered):
    """Words between white space, as `str.split` finds them, and `<eos>` for every line's end."""

    def __init__(self, num_splits: int, lowercase: bool):
        super().__init__(num_splits)
        self._lowercase = lowercase

    def encode(self, block: Block, split: int) -> tuple[np.ndarray, Measures]:
        text = _one_line_end(decoded(block))
        num_characters = len(text)
        if self._lowercase:
            text = text.lower()
        if any(character in text for character in _OTHER_WHITE_SPACE):
            text = text.translate(_AS_SPACE)
        # Spaces at the ends would give empty tokens.
        data = text.replace("\n", f" {EOS} ").strip(" \t\x0b\x0c").encode("utf-8")
        if not data:
            return np.zeros(0, np.int32), Measures(0, num_characters, 0)
        offsets = pa.py_buffer(np.array([0, len(data)], np.int32))
        whole = pa.StringArray.from_buffers(1, offsets, pa.py_buffer(data))
        coded = compute.ascii_split_whitespace(whole).values.dictionary_encode()
        places = coded.indices.to_numpy()
        ids = self._number(coded.dictionary.to_pylist())
        self._counts[split, ids] += np.bincount(places, minlength=len(ids))
        n = len(places)
        return ids[places], Measures(n, num_characters, n)


class _Words(_Numbered):
    """Tokens of a rule that drops blank lines, found by Python."""

    def __init__(self, num_splits: int, rule: str):
        super().__init__(num_splits)
        self._tokenize = line_tokenizer(rule)

    def encode(self, block: Block, split: int) -> tuple[np.ndarray, Measures]:
        lines = kept_lines(block, keep_empty=False)
        num_characters = num_words = 0
        tokens: list[str] = []
        for line, ends in lines:
            tokens += self._tokenize(line)
            num_characters += len(line) + ends
            num_words += len(line.split()) + ends
            if ends:
                tokens.append(EOS)
        ids = self._number(tokens)
        self._counts[split] += np.bincount(ids, minlength=self._counts.shape[1])
        return ids, Measures(len(ids), num_characters, num_words)


class _Characters(BlockEncoder):
    """Code points; nothing is dropped, a line's end is the character that it is."""

    def __init__(self, num_splits: int, lowercase: bool):
        self._lowercase = lowercase
        self._counts = np.zeros([num_splits, 0x110000], np.int64)

    def encode(self, block: Block, split: int) -> tuple[np.ndarray, Measures]:
        text = decoded(block)
        if self._lowercase:
            text = text.lower()
        ids = np.frombuffer(text.encode("utf-32-le"), "<i4")
        found = np.bincount(ids)
        self._counts[split, : len(found)] += found
        return ids, Measures(len(ids), len(ids), _num_words(text))

    def types(self) -> Types:
        (ids,) = np.nonzero(self._counts.sum(0))
        return Types([chr(i) for i in ids], ids, self._counts[:, ids].T)


class _Bytes(BlockEncoder):
    """Bytes; any file will do."""

    dtype = np.dtype(np.uint8)

    def __init__(self, num_splits: int):
        self._counts = np.zeros([num_splits, 256], np.int64)

    def encode(self, block: Block, split: int) -> tuple[np.ndarray, Measures]:
        ids = np.frombuffer(block.data, np.uint8)
        self._counts[split] += np.bincount(ids, minlength=256)
        # A character has one byte that is none of UTF-8's continuations.
        num_characters = int(np.count_nonzero((ids & 0xC0) != 0x80))
        # Of the text: bytes.split knows ASCII's white space only, and kinds must compare.
        num_words = _num_words(block.data.decode("utf-8", errors="replace"))
        return ids, Measures(len(ids), num_characters, num_words)

    def types(self) -> Types:
        return Types(list(range(256)), np.arange(256), self._counts.T)


class _Pieces(BlockEncoder):
    """The pieces of a SentencePiece model, with `<eos>`, numbered last, after every line."""

    def __init__(self, num_splits: int, rule: str, model: bytes):
        from .piece_model import PieceModel

        self._model = PieceModel(model)
        self._keep_empty = keeps_empty_lines(rule)
        self._lowercase = is_lowercase(rule)
        self._counts = np.zeros([num_splits, self._model.size + 1], np.int64)

    def encode(self, block: Block, split: int) -> tuple[np.ndarray, Measures]:
        lines = kept_lines(block, self._keep_empty)
        num_characters = sum(len(line) + ends for line, ends in lines)
        num_words = sum(len(line.split()) + ends for line, ends in lines)
        texts = [line.lower() if self._lowercase else line for line, _ in lines]
        eos = self._model.size
        pieces: list[int] = []
        for line, (_, ends) in zip(self._model.encode(texts), lines, strict=True):
            pieces += line
            if ends:
                pieces.append(eos)
        ids = np.array(pieces, np.int32)
        self._counts[split] += np.bincount(ids, minlength=eos + 1)
        return ids, Measures(len(ids), num_characters, num_words)

    def types(self) -> Types:
        ids = np.arange(self._model.size + 1)
        return Types([*self._model.pieces, EOS], ids, self._counts.T)


def kept_lines(block: Block, keep_empty: bool) -> list[tuple[str, bool]]:
    """The lines of a block that count, each with whether it ends in the block.

    Raises NotUtf8Error.
    """
    *ended, last = _one_line_end(decoded(block)).split("\n")
    lines = [(line, True) for line in ended if keep_empty or (line and not line.isspace())]
    goes_on_blank = block.continues_line and ended and not (keep_empty or ended[0].strip())
    if goes_on_blank:
        # The line has no more text, but it has had some, and ends here.
        lines.insert(0, (ended[0], True))
    if last:
        lines.append((last, False))
    return lines


def _num_words(text: str) -> int:
    """Words and ends of lines."""
    return len(text.split()) + text.count("\n")


def merge_types(parts: list[Types]) -> tuple[dict, list[np.ndarray]]:
    """One numbering for what several encoders met.

    Returns:
        Counts of each token, int64 `[S]`, and for each encoder the places in that dict of its
        provisional ids, int64 `[largest id + 1]`.
    """
    totals: dict = {}
    places: dict = {}
    maps = []
    for part in parts:
        lookup = np.zeros(int(part.ids.max(initial=-1)) + 1, np.int64)
        for token, i, counts in zip(part.tokens, part.ids.tolist(), part.counts, strict=True):
            if token in totals:
                totals[token] = totals[token] + counts
            else:
                places[token] = len(places)
                totals[token] = counts
            lookup[i] = places[token]
        maps.append(lookup)
    return totals, maps


def pack_types(types: Types) -> tuple[bytes, bytes, bytes]:
    """Three messages from which `unpack_types` makes the types again; no pickles."""
    tokens = json.dumps(types.tokens).encode()
    return tokens, types.ids.astype("<i8").tobytes(), types.counts.astype("<i8").tobytes()


def unpack_types(messages: Sequence[bytes]) -> Types:
    """What `pack_types` packed."""
    tokens = json.loads(messages[0])
    ids = np.frombuffer(messages[1], "<i8")
    return Types(tokens, ids, np.frombuffer(messages[2], "<i8").reshape(len(ids), -1))
