"""SentencePiece models: trained here so that no text is lost, or given by the user.

A model trained here changes nothing in the text: no normalisation, no added or removed spaces, and
characters that have no piece are spelled in bytes. One thing SentencePiece itself would lose: it
writes a space as U+2581, so that a real U+2581 comes back as a space. Such characters are
therefore always spelled in bytes here.
"""

import functools
import io
import re
from collections.abc import Iterable, Sequence

_SPACE = "\u2581"
_BYTE_PIECE = re.compile(r"<0x([0-9A-F]{2})>")
UNKNOWN_PIECE = "<unknown piece>"
MODEL_TYPES = ("unigram", "bpe")
# Longer ones are cut, at a character, in training only: SentencePiece would leave them out.
_LONGEST_SENTENCE_BYTES = 16_384


class PieceModel:
    """A SentencePiece model with ids of its own, 0 to `size - 1`.

    Attributes:
        pieces: tuple of str, the name of each piece.
        size: how many there are.
        is_exact: whether decoding gives back every text, bit for bit.
        unknown_id: the id of what the model cannot write.
    """

    def __init__(self, serialized: bytes):
        """Raises ValueError for what is no SentencePiece model."""
        sentencepiece = _library()
        self.serialized = serialized
        try:
            self._processor = sentencepiece.SentencePieceProcessor(model_proto=serialized)
        except (RuntimeError, TypeError) as error:
            raise ValueError(
                f"A SentencePiece model is needed, as spm_train writes it. It cannot be read: "
                f"{error}"
            ) from None
        self.size = self._processor.get_piece_size()
        if not self.size:
            raise ValueError("A SentencePiece model needs pieces. Received none.")
        self.pieces = tuple(self._processor.id_to_piece(list(range(self.size))))
        self.unknown_id = self._processor.unk_id()
        self._bytes = self._byte_ids()
        self.is_exact = self._bytes is not None and self.pieces[self.unknown_id] == UNKNOWN_PIECE

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        """Ids of each text, in which a line's end is a character as any other."""
        found = self._processor.encode(list(texts), num_threads=1)
        if self.is_exact:
            for i, text in enumerate(texts):
                if _SPACE in text or "\0" in text:
                    found[i] = self._encode_apart(text)
        return found

    def decode(self, ids: Iterable[int]) -> str:
        """The text of pieces. Bytes that are not UTF-8, which no text gives, become U+FFFD."""
        ids = list(ids)
        if not self.is_exact:
            return self._processor.decode(ids)
        return b"".join(self._spelling[i] for i in ids).decode("utf-8", errors="replace")

    @functools.cached_property
    def _spelling(self) -> list[bytes]:
        """The bytes that each piece writes."""
        spelling = [piece.replace(_SPACE, " ").encode("utf-8") for piece in self.pieces]
        for byte, i in enumerate(self._bytes):
            spelling[i] = bytes([byte])
        return spelling

    def _encode_apart(self, text: str) -> list[int]:
        """Spells each U+2581, and NUL, where SentencePiece would stop, in bytes."""
        ids = []
        for part in re.split(f"([{_SPACE}\0])", text):
            if part in (_SPACE, "\0"):
                ids += [self._bytes[byte] for byte in part.encode("utf-8")]
            elif part:
                ids += self._processor.encode(part)
        return ids

    def _byte_ids(self) -> list[int] | None:
        ids = [-1] * 256
        for i in range(self.size):
            if self._processor.is_byte(i):
                ids[int(_BYTE_PIECE.fullmatch(self.pieces[i])[1], 16)] = i
        return None if -1 in ids else ids


def train_piece_model(
    lines: Iterable[str], vocabulary_size: int, model_type: str = "unigram"
) -> bytes:
    """Trains a model; the same lines give the same model.

    Args:
        lines: text without line ends. Give a sample of a large corpus: training holds all of it.
        vocabulary_size: pieces, 256 of which are bytes, and one more that takes the place of
            `<eos>`.
        model_type: "unigram" or "bpe".

    Returns:
        The serialised model.

    Raises:
        ValueError: unknown type, or a size that is too small or too large for the text.
    """
    sentencepiece = _library()
    if model_type not in MODEL_TYPES:
        raise ValueError(
            f"A SentencePiece model is one of {', '.join(MODEL_TYPES)}. Received: {model_type!r}."
        )
    written = io.BytesIO()

    def sentences():
        for line in lines:
            # U+2581 and NUL are spelled in bytes, see above.
            for part in re.split(f"[{_SPACE}\0]", line):
                for i in range(0, len(part), _LONGEST_SENTENCE_BYTES // 4):
                    yield part[i : i + _LONGEST_SENTENCE_BYTES // 4]

    try:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=(s for s in sentences() if s),
            model_writer=written,
            model_type=model_type,
            vocab_size=vocabulary_size,
            character_coverage=1.0 - 5e-4,
            normalization_rule_name="identity",
            add_dummy_prefix=False,
            remove_extra_whitespaces=False,
            byte_fallback=True,
            unk_piece=UNKNOWN_PIECE,
            bos_id=-1,
            eos_id=-1,
            pad_id=-1,
            user_defined_symbols=["<unk>"],
            max_sentence_length=_LONGEST_SENTENCE_BYTES + 4,
            # Sums are formed for each thread: another number gives another model.
            num_threads=16,
            minloglevel=2,
        )
    except RuntimeError as error:
        raise ValueError(
            f"SentencePiece cannot make {vocabulary_size} pieces of this text: "
            f"{str(error).strip().splitlines()[-1]} Choose another --vocabulary_size."
        ) from None
    return written.getvalue()


def _library():
    try:
        import sentencepiece
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            "--vocabulary=sentencepiece needs the package sentencepiece: pip install sentencepiece",
            name="sentencepiece",
        ) from error
    return sentencepiece
