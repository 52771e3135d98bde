"""The kinds of vocabularies, by name."""

import os
from collections.abc import Mapping
from pathlib import Path

from .base_vocabulary import Vocabulary
from .given_vocabulary import GivenVocabulary
from .symbol_vocabularies import ByteVocabulary, CharacterVocabulary, PieceVocabulary
from .vocabulary import WordVocabulary

VOCABULARY_KINDS = ("word", "character", "byte", "sentencepiece")
_CLASSES = (
    WordVocabulary,
    GivenVocabulary,
    CharacterVocabulary,
    ByteVocabulary,
    PieceVocabulary,
)


def load_vocabulary(path: str | os.PathLike) -> Vocabulary:
    """Reads what the `save` of any vocabulary wrote; raises as `Vocabulary.load`."""
    path = Path(path)
    if path.is_file():
        with open(path, "rb") as file:
            first = file.readline(80).rstrip(b"\n")
        for kind in _CLASSES:
            if first == kind._FORMAT.encode():
                return kind.load(path)
    # Says what is wrong with it.
    return WordVocabulary.load(path)


def vocabulary_from_counts(
    settings: Mapping, counts: Mapping, needs_unk: bool, model: bytes
) -> Vocabulary:
    """The vocabulary of counted tokens.

    Args:
        settings: as of preparation: kind, tokenization, min_count, max_size, and tokens, those of
            a model, which are then the vocabulary, or None.
        counts: how often each token occurs in the training split, those that do not left out.
        needs_unk: whether other splits have tokens that are not in it.
        model: of SentencePiece, for that kind.
    """
    kind, rule = settings["kind"], settings["tokenization"]
    if settings["tokens"] is not None:
        return GivenVocabulary.from_tokens(settings["tokens"], counts, rule)
    if kind == "byte":
        return ByteVocabulary.from_counts(counts)
    if kind == "sentencepiece":
        return PieceVocabulary.from_counts(counts, model, rule)
    limits = (settings["min_count"], settings["max_size"], rule)
    if kind == "character":
        return CharacterVocabulary.from_counts(counts, *limits, needs_unk)
    return WordVocabulary.from_counts(counts, *limits)
