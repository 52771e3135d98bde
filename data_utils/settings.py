"""How a corpus is prepared: what enters the fingerprint, besides the text."""

import dataclasses
import hashlib
from collections.abc import Iterator, Sequence
from pathlib import Path

from .base_vocabulary import Vocabulary
from .block_encoders import NotUtf8Error, kept_lines
from .blocks import cut_lines
from .encoding_pool import not_utf8_message
from .found_corpus import Corpus
from .given_vocabulary import GivenVocabulary, tokens_digest
from .piece_model import MODEL_TYPES, PieceModel, train_piece_model
from .tokenization import is_lowercase, lowercase_rule
from .vocabularies import KINDS_OF_LINES, VOCABULARY_KINDS, kind_of

# What SentencePiece is trained on, at most: it holds all of it in memory, several times.
_SAMPLE_CHARACTERS = 50_000_000


@dataclasses.dataclass(frozen=True)
class PreparationSettings:
    """All settings, none of them None where another value is meant."""

    kind: str
    tokenization: str
    min_count: int
    max_size: int | None
    piece_model: str | None  # "unigram", "bpe", or the sha256 of the given file.
    model_path: Path | None = None
    given_tokens: str | None = None  # The sha256 of the given tokens.
    tokens: tuple[str, ...] | None = None
    vocabulary: Vocabulary | None = None  # Taken as it is.

    @classmethod
    def resolve(
        cls,
        corpus: Corpus,
        kind: str | None,
        lowercase: bool,
        min_count: int | None,
        max_size: int | None,
        piece_model: str,
    ) -> "PreparationSettings":
        """Fills in the corpus' own settings; see `prepare` for the arguments.

        Raises ValueError for settings that contradict each other, and FileNotFoundError for a
        model that is not there.
        """
        kind = corpus.vocabulary if kind is None else kind
        if kind not in VOCABULARY_KINDS:
            raise ValueError(
                f"A vocabulary is one of {', '.join(VOCABULARY_KINDS)}. Received: {kind!r}."
            )
        limited = kind in ("word", "character")
        if min_count is not None and not limited:
            raise ValueError(
                f"A minimum count is for words and characters. Received {min_count} for {kind}: "
                "leave it out."
            )
        rule = corpus.tokenization if kind in ("word", "sentencepiece") else "whitespace"
        if lowercase:
            if kind == "byte":
                raise ValueError("Bytes are not lower-cased: use characters, or leave it out.")
            rule = lowercase_rule(rule)
        if min_count is None:
            min_count = corpus.min_count if kind == "word" else 1
        if kind != "sentencepiece" and piece_model != MODEL_TYPES[0]:
            raise ValueError(
                f"A piece_model is for the vocabulary sentencepiece. Received {piece_model!r} for "
                f"{kind}: ask for that vocabulary, or leave it out."
            )
        path = None
        least = {"word": 3, "character": 2}.get(kind)
        if max_size is not None and least is not None and max_size < least:
            # Here, before any text is read.
            raise ValueError(
                f"A vocabulary_size must be at least {least} for {kind}, or left out for no bound. "
                f"Received: {max_size}."
            )
        if kind == "byte" and max_size is not None:
            raise ValueError(
                f"A byte vocabulary has 256 tokens. Received a size of {max_size}: leave it out."
            )
        if kind == "sentencepiece":
            path = None if piece_model in MODEL_TYPES else Path(piece_model).expanduser()
            if path and not path.is_file():
                raise FileNotFoundError(
                    f"A SentencePiece model is {', '.join(MODEL_TYPES)} or the file of one. There "
                    f"is no file {path}."
                )
            if path and max_size is not None:
                raise ValueError(
                    f"A given SentencePiece model has its size. Received {max_size} besides: leave "
                    "it out."
                )
            if not path and (max_size is None or max_size < 260):
                raise ValueError(
                    "SentencePiece needs a vocabulary_size, at least 260, since 256 pieces are "
                    f"bytes. Received: {max_size}. Use 8000, for instance."
                )
        named = None
        if kind == "sentencepiece":
            named = hashlib.sha256(path.read_bytes()).hexdigest() if path else piece_model
        return cls(kind, rule, min_count, max_size, named, path)

    @classmethod
    def of_model(
        cls,
        corpus: Corpus,
        tokens: Sequence[str],
        tokenization: str | None,
        kind: str | None,
        lowercase: bool,
    ) -> "PreparationSettings":
        """The settings where a model brings its tokens; see `prepare` for the arguments.

        Raises ValueError for tokens that are no vocabulary of words, and for another kind.
        """
        if kind not in (None, "word"):
            raise ValueError(
                f"The vocabulary of a model is one of words. Received {kind!r} besides: leave it "
                "out."
            )
        rule = corpus.tokenization if tokenization is None else tokenization
        rule = lowercase_rule(rule) if lowercase else rule
        tokens = GivenVocabulary.from_tokens(tokens, {}, rule).tokens
        digest = tokens_digest(tokens)
        return cls("word", rule, 1, None, None, given_tokens=digest, tokens=tokens)

    @classmethod
    def of_vocabulary(
        cls, vocabulary: Vocabulary, kind: str | None, lowercase: bool
    ) -> "PreparationSettings":
        """The settings where a model brings characters, bytes or pieces.

        Raises ValueError for another kind besides.
        """
        own = kind_of(vocabulary)
        if kind not in (None, own):
            raise ValueError(
                f"The vocabulary of the model is of the kind {own}. Received {kind!r} besides: "
                "leave it out."
            )
        rule = vocabulary.tokenization
        if lowercase and not is_lowercase(rule):
            raise ValueError(
                "The model's vocabulary was not made for text in lower case: leave lowercase out."
            )
        digest = vocabulary.fingerprint()
        return cls(own, rule, 1, None, None, given_tokens=digest, vocabulary=vocabulary)

    def items(self) -> Iterator[tuple[str, str | int | None]]:
        """Names and values that are stored and must be equal to use what was prepared."""
        names = ["kind", "tokenization", "min_count", "max_size", "piece_model"]
        if self.given_tokens is not None:
            names.append("given_tokens")
        return ((name, self[name]) for name in names)

    def __getitem__(self, name: str):
        return getattr(self, name)

    @property
    def has_lines(self) -> bool:
        """Whether text is cut into lines, each of which ends in `<eos>`."""
        return self.kind in KINDS_OF_LINES

    def for_encoders(self) -> dict[str, str]:
        """What `make_encoder` asks for."""
        return {"kind": self.kind, "tokenization": self.tokenization}

    def is_as_published(self, corpus: Corpus) -> bool:
        """Whether tokens are those that published counts are about."""
        # A model may bring another rule than the corpus has.
        is_other = self.tokens is not None and self.tokenization != corpus.tokenization
        if self.vocabulary is not None:
            return False
        return (
            self.kind == corpus.vocabulary and not is_lowercase(self.tokenization) and not is_other
        )

    def has_no_limits(self, corpus: Corpus) -> bool:
        """Whether the vocabulary is the one that published counts are about."""
        if self.given_tokens is not None:
            return False
        return self.max_size is None and self.min_count == (
            corpus.min_count if self.kind == "word" else 1
        )


def train_pieces(corpus: Corpus, settings: PreparationSettings, report) -> bytes:
    """The SentencePiece model of the settings, read or trained; nothing for other kinds.

    Raises ValueError as `train_piece_model` and `PieceModel`.
    """
    if settings.kind != "sentencepiece":
        return b""
    if settings.vocabulary is not None:
        return settings.vocabulary.model
    if settings.model_path:
        model = settings.model_path.read_bytes()
        PieceModel(model)
        return model
    report(f"{corpus.name}: training a SentencePiece model ({settings.piece_model})")
    lines = _sample(_train_lines(corpus), _SAMPLE_CHARACTERS)
    if is_lowercase(settings.tokenization):
        lines = [line.lower() for line in lines]
    return train_piece_model(lines, settings.max_size, settings.piece_model)


def _train_lines(corpus: Corpus) -> Iterator[str]:
    for source in corpus.sources["train"]:
        for block in cut_lines(source):
            try:
                lines = kept_lines(block, keep_empty=False)
            except NotUtf8Error as error:
                raise ValueError(not_utf8_message(source.name, block.offset, *error.args)) from None
            for line, _ in lines:
                yield line


def _sample(lines: Iterator[str], most_characters: int) -> list[str]:
    """Lines evenly from all of the text, of at most so many characters.

    Every `stride`-th line is kept; whenever it gets too much, every second is dropped, and the
    stride doubles. So one pass is enough, and the same text gives the same lines.
    """
    kept: list[str] = []
    stride, num_characters = 1, 0
    for number, line in enumerate(lines):
        if number % stride:
            continue
        kept.append(line)
        num_characters += len(line)
        while num_characters > most_characters and len(kept) > 1:
            kept = kept[::2]
            stride *= 2
            num_characters = sum(map(len, kept))
    return kept
