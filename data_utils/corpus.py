"""Preparation: a corpus becomes one flat array of ids per split, in a folder of its own.

The folder appears whole or not at all; `prepared.py` says what is in it.
"""

import collections
import os
import shutil
import uuid
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np

from .corpora import Corpus
from .given_vocabulary import GivenVocabulary, digest_tokens
from .id_arrays import id_dtype, write_ids
from .prepared import (
    FORMAT,
    META,
    VOCABULARY,
    PreparedCorpus,
    array_path,
    is_occupied,
    json_digest,
    open_prepared,
    read_meta,
    seal,
    write_meta,
)
from .tokenization import EOS, line_tokenizer
from .vocabulary import WordVocabulary

_BLOCK_TOKENS = 1 << 18
_REPORT_TOKENS = 10_000_000

Progress = Callable[[str], None]


def prepare(
    corpus: Corpus,
    directory: str | os.PathLike,
    min_count: int | None = None,
    max_size: int | None = None,
    progress: Progress | None = None,
    tokens: Sequence[str] | None = None,
) -> PreparedCorpus:
    """Prepares a corpus in `directory`, or verifies and opens what was prepared there before.

    Everything is written into a hidden folder beside `directory`, which is then renamed. (A
    process that is killed outright leaves `.NAME.*.partial` there, which may be deleted.)

    Args:
        corpus: what `load_corpus` found.
        directory: a folder that does not exist, is empty, or was prepared from the same source
            with the same settings.
        min_count: rarer words of the training split are `<unk>`. None: the corpus' own minimum.
        max_size: the most tokens the vocabulary may have. None: no limit.
        progress: is called with short messages.
        tokens: of a model, in the order of its ids; they are then the vocabulary, and the two
            limits have no effect. None: the vocabulary is counted.

    Raises:
        ValueError: `directory` holds something else or was damaged; a split has no tokens; the
            text is not UTF-8; limits are too low. `directory` is then as it was.
    """
    directory = Path(directory).resolve()
    report = progress or (lambda message: None)
    settings = {
        "min_count": corpus.min_count if min_count is None else min_count,
        "max_size": max_size,
    }
    if tokens is not None:
        settings = {"vocabulary": digest_tokens(tokens)}
    identity = {"format": FORMAT, "source": corpus.fingerprint(), "settings": settings}
    meta = {
        **identity,
        "fingerprint": json_digest(identity),
        "corpus": corpus.name,
        "unit": corpus.unit,
    }
    if is_occupied(directory):
        return _reopen(directory, meta, report)

    directory.parent.mkdir(parents=True, exist_ok=True)
    partial = directory.with_name(f".{directory.name}.{uuid.uuid4().hex}.partial")
    partial.mkdir()
    try:
        _write(corpus, partial, meta, report, tokens)
        try:
            os.rename(partial, directory)
        except OSError:
            # Another process may have prepared the same in the meantime.
            if not is_occupied(directory):
                raise
            return _reopen(directory, meta, report)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return open_prepared(directory)


def _reopen(directory: Path, meta: dict, report: Progress) -> PreparedCorpus:
    if not (directory / META).is_file():
        raise ValueError(
            f"{directory} must be a new folder or a prepared corpus. It is not empty and has no "
            f"{META}: choose another folder, or delete it if it is a damaged corpus."
        )
    found = read_meta(directory)
    if found["fingerprint"] != meta["fingerprint"]:
        differences = [
            f"{name} is {found['settings'].get(name)} there, {meta['settings'].get(name)} now"
            for name in {**meta["settings"], **found["settings"]}
            if found["settings"].get(name) != meta["settings"].get(name)
        ]
        if found["source"] != meta["source"]:
            differences.append(f"the text is another (corpus {found['corpus']} there)")
        raise ValueError(
            f"{directory} was prepared from another source or with other settings: "
            f"{'; '.join(differences)}. Choose another folder, or delete this one."
        )
    report(f"{directory} is prepared already; verifying it")
    return open_prepared(directory)


def _write(
    corpus: Corpus,
    directory: Path,
    meta: dict,
    report: Progress,
    given_tokens: Sequence[str] | None,
) -> None:
    """Writes all files of a prepared corpus into an empty folder."""
    settings = meta["settings"]
    report(f"{corpus.name}: counting the words of train")
    counts: collections.Counter[str] = collections.Counter()
    for tokens in _Reader(corpus, "train", report).blocks():
        counts.update(tokens)
    if given_tokens is None:
        vocabulary = WordVocabulary.from_counts(
            counts, settings["min_count"], settings["max_size"], corpus.tokenization
        )
    else:
        vocabulary = GivenVocabulary.from_tokens(given_tokens, counts, corpus.tokenization)
    del counts
    vocabulary.save(directory / VOCABULARY)
    report(f"{corpus.name}: {vocabulary.size:,} types")

    dtype = id_dtype(vocabulary.size)
    splits = {
        split: _write_split(corpus, split, directory, vocabulary, dtype, report)
        for split in corpus.splits
    }
    warnings = [*corpus.notes, *_unexpected(corpus, settings, vocabulary.size, splits)]
    write_meta(
        directory,
        {
            **meta,
            "dtype": dtype.str,
            "vocabulary": seal(directory / VOCABULARY),
            "splits": splits,
            "warnings": warnings,
        },
    )


def _write_split(
    corpus: Corpus,
    split: str,
    directory: Path,
    vocabulary: WordVocabulary,
    dtype: np.dtype,
    report: Progress,
) -> dict:
    """Writes the array of a split; returns what the meta file says about it."""
    reader = _Reader(corpus, split, report)
    num_tokens = num_unknown = 0

    def blocks() -> Iterator[np.ndarray]:
        nonlocal num_tokens, num_unknown
        for tokens in reader.blocks():
            ids = vocabulary.encode(tokens)
            num_tokens += ids.size
            num_unknown += int(np.count_nonzero(ids == vocabulary.unk_id))
            yield ids

    path = array_path(directory, split)
    write_ids(path, blocks(), dtype)
    if not num_tokens:
        raise ValueError(
            f"Every split of a corpus needs text. {split} of {corpus.name} has none: "
            f"{', '.join(source.name for source in corpus.sources[split][:3])}."
        )
    report(
        f"{corpus.name}: {split} has {num_tokens:,} tokens, {num_unknown / num_tokens:.2%} unknown"
    )
    return {
        "tokens": num_tokens,
        "unknown": num_unknown,
        "characters": reader.num_characters,
        "words": reader.num_words,
        **seal(path),
    }


class _Reader:
    """Streams one split as blocks of tokens, with `<eos>`, and measures its text on the way."""

    def __init__(self, corpus: Corpus, split: str, report: Progress):
        self.num_characters = 0
        self.num_words = 0
        self._corpus = corpus
        self._split = split
        self._report = report

    def blocks(self) -> Iterator[list[str]]:
        tokenize = line_tokenizer(self._corpus.tokenization)
        tokens: list[str] = []
        num_tokens = num_reported = 0
        for text in self._corpus.texts(self._split):
            line = tokenize(text)
            self.num_characters += len(text) + 1
            # Splitting takes a quarter of the time: not twice where it has been done.
            self.num_words += len(line if tokenize is str.split else text.split()) + 1
            tokens += line
            tokens.append(EOS)
            if len(tokens) >= _BLOCK_TOKENS:
                num_tokens += len(tokens)
                yield tokens
                tokens = []
                if num_tokens - num_reported >= _REPORT_TOKENS:
                    num_reported = num_tokens
                    self._report(f"{self._corpus.name}: {self._split}, {num_tokens:,} tokens read")
        if tokens:
            yield tokens


def _unexpected(corpus: Corpus, settings: dict, num_types: int, splits: dict) -> list[str]:
    """A warning where a corpus does not have the counts it is known for."""
    if corpus.expected is None:
        return []
    differences = [
        f"{split} has {splits[split]['tokens']:,} tokens, not {tokens:,}"
        for split, tokens in corpus.expected.tokens.items()
        if splits[split]["tokens"] != tokens
    ]
    is_default = settings == {"min_count": corpus.min_count, "max_size": None}
    if is_default and num_types != corpus.expected.types:
        differences.append(f"the vocabulary has {num_types:,} types, not {corpus.expected.types:,}")
    if not differences:
        return []
    return [
        f"This is not the whole {corpus.name} as published: {'; '.join(differences)}. Results do "
        "not compare with published ones."
    ]
