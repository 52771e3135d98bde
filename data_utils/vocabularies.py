"""The kinds of vocabularies, by name."""

import os
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from .base_vocabulary import Vocabulary
from .given_vocabulary import GivenVocabulary
from .symbol_vocabularies import ByteVocabulary, CharacterVocabulary, PieceVocabulary
from .vocabulary import WordVocabulary

VOCABULARY_KINDS = ("word", "character", "byte", "sentencepiece")
# For which text is cut into lines, each of which ends in `<eos>`.
KINDS_OF_LINES = ("word", "sentencepiece")
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


def kind_of(vocabulary: Vocabulary) -> str:
    """Which of `VOCABULARY_KINDS` a vocabulary is."""
    kinds = zip(VOCABULARY_KINDS, (WordVocabulary, CharacterVocabulary, ByteVocabulary))
    return next((kind for kind, of in kinds if isinstance(vocabulary, of)), "sentencepiece")


def vocabulary_from_counts(
    settings: Mapping, counts: Mapping, needs_unk: bool, model: bytes
) -> Vocabulary:
    """The vocabulary of counted tokens.

    Args:
        settings: as of preparation: kind, tokenization, min_count, max_size, and tokens, those of
            a model, which are then the vocabulary, or None; vocabulary, one that is taken as it
            is, or None.
        counts: how often each token occurs in the training split, those that do not left out.
        needs_unk: whether other splits have tokens that are not in it.
        model: of SentencePiece, for that kind.
    """
    if settings["vocabulary"] is not None:
        return settings["vocabulary"]
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


def ids_of_types(vocabulary: Vocabulary, counts: Mapping) -> np.ndarray:
    """Ids of different tokens, int64 `[n]`.

    Args:
        counts: by token, int `[S]`, how often it occurs in each split. Some occur nowhere: pieces
            that the model could have used. Their ids are of no use.

    Raises ValueError for tokens that the vocabulary, which then has no `<unk>`, does not have.
    """
    ids = {token: i for i, token in enumerate(vocabulary.tokens)}
    unknown = 0 if vocabulary.unk_id is None else vocabulary.unk_id
    missing = [token for token, n in counts.items() if token not in ids and n.any()]
    if missing and vocabulary.unk_id is None:
        raise ValueError(
            "Every token of the text must be in the model's vocabulary, which has no <unk>. "
            f"Received {', '.join(map(repr, missing[:8]))}. Leave them out."
        )
    return np.array([ids.get(token, unknown) for token in counts], np.int64)
