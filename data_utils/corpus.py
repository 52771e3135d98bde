"""Preparation: a corpus becomes one flat array of ids per split, in a folder of its own.

Text is read once and cut into blocks; processes turn blocks into provisional ids and count them;
the vocabulary is made of the counts; and provisional ids become ids. The folder appears whole or
not at all; `prepared.py` says what is in it.
"""

import fcntl
import hashlib
import os
import shutil
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np

from .base_vocabulary import Vocabulary
from .block_encoders import Types, merge_types
from .blocks import Block, cut_characters, cut_lines
from .disk_room import told_where_full
from .documents import DocumentFinder
from .encoding_pool import EncodingPool, make_pool
from .found_corpus import Corpus, source_identity
from .id_arrays import ShardWriter, id_dtype
from .prepared import (
    FORMAT,
    META,
    VOCABULARY,
    PreparedCorpus,
    array_paths,
    documents_path,
    is_occupied,
    json_digest,
    open_prepared,
    read_meta,
    seal,
    write_meta,
)
from .settings import PreparationSettings, train_pieces
from .vocabularies import ids_of_types, vocabulary_from_counts

_REPORT_BYTES = 64 << 20
# Smaller corpora are done before another process has started.
_BYTES_FOR_PROCESSES = 16 << 20
_STALE_SECONDS = 60
_LOCK = "lock"

Progress = Callable[[str], None]


def prepare(
    corpus: Corpus,
    directory: str | os.PathLike,
    min_count: int | None = None,
    max_size: int | None = None,
    progress: Progress | None = None,
    vocabulary: str | None = None,
    lowercase: bool = False,
    piece_model: str = "unigram",
    num_processes: int | None = None,
    tokens: Sequence[str] | None = None,
    tokenization: str | None = None,
    given_vocabulary: Vocabulary | None = None,
) -> PreparedCorpus:
    """Prepares a corpus in `directory`, or verifies and opens what was prepared there before.

    Everything is written into a hidden folder beside `directory`, which is then renamed. What a
    process that was killed outright left there is removed by the next preparation. Memory grows
    with the number of different words, and not with the text; the disk must hold the ids twice.

    Args:
        corpus: what `load_corpus` found.
        directory: a folder that does not exist, is empty, or was prepared from the same source
            with the same settings.
        min_count: rarer words (or characters) of the training split are `<unk>`. None: the corpus'
            own minimum for words, 1 for characters.
        max_size: the most tokens the vocabulary may have; for sentencepiece, how many it has.
            None: no limit; sentencepiece needs one, unless a model is given.
        progress: is called with short messages.
        vocabulary: one of `VOCABULARY_KINDS`. None: the corpus' own kind.
        lowercase: whether text is lower-cased first.
        piece_model: for sentencepiece, "unigram" or "bpe", to be trained on the training split, or
            the path of a model.
        num_processes: how many work. None: as many as there are processors, for text that is worth
            it. The result does not depend on it.
        tokens: of a model, words in the order of its ids; they are then the vocabulary, and the two
            limits and `piece_model` have no effect. None: the vocabulary is counted.
        tokenization: how `tokens` are found in text, one of `tokenization.RULES`. None: as the
            corpus has it.
        given_vocabulary: of a model, one of characters, bytes or pieces, taken as it is, with the
            counts of the text that it was made from. None: the vocabulary is counted.

    Raises:
        ValueError: `directory` holds something else or was damaged; a split has no tokens; the
            text is not UTF-8; limits are too low; settings contradict each other; `tokens` are no
            vocabulary. `directory` is then as it was.
        ChildProcessError: a process was killed from outside.
        OSError: the disk is full; the message says what is needed.
    """
    directory = Path(directory).resolve()
    report = progress or (lambda message: None)
    if given_vocabulary is not None:
        settings = PreparationSettings.of_vocabulary(given_vocabulary, vocabulary, lowercase)
    elif tokens is not None:
        settings = PreparationSettings.of_model(corpus, tokens, tokenization, vocabulary, lowercase)
    elif tokenization is not None:
        raise ValueError(f"A tokenization is for given tokens. Received {tokenization!r} alone.")
    else:
        settings = PreparationSettings.resolve(
            corpus, vocabulary, lowercase, min_count, max_size, piece_model
        )
    if num_processes is not None and num_processes < 1:
        raise ValueError(f"num_processes must be at least 1. Received: {num_processes}.")
    if is_occupied(directory):
        return _reopen(corpus, directory, settings, report)

    directory.parent.mkdir(parents=True, exist_ok=True)
    _remove_stale(directory)
    partial = directory.with_name(f".{directory.name}.{uuid.uuid4().hex}.partial")
    preparation = _Preparation(corpus, partial, settings, report, num_processes)
    with told_where_full(directory, preparation.bytes_needed):
        return _prepare_beside(directory, partial, preparation, corpus, settings, report)


def _prepare_beside(directory, partial, preparation, corpus, settings, report) -> PreparedCorpus:
    try:
        partial.mkdir()
        with open(partial / _LOCK, "wb") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            preparation.run()
            (partial / _LOCK).unlink()
        try:
            os.rename(partial, directory)
        except OSError:
            # Another process may have prepared the same in the meantime.
            if not is_occupied(directory):
                raise
            return _reopen(corpus, directory, settings, report)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return open_prepared(directory)


def _remove_stale(directory: Path) -> None:
    """Removes what killed preparations of the same folder left: no process holds its lock."""
    for partial in directory.parent.glob(f".{directory.name}.*.partial"):
        try:
            if time.time() - partial.stat().st_mtime < _STALE_SECONDS:
                continue  # Perhaps its process has not got so far as to lock it.
            with open(partial / _LOCK, "rb") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(partial, ignore_errors=True)
        except OSError:
            continue


def _reopen(
    corpus: Corpus, directory: Path, settings: PreparationSettings, report: Progress
) -> PreparedCorpus:
    if not (directory / META).is_file():
        raise ValueError(
            f"{directory} must be a new folder or a prepared corpus. It is not empty and has no "
            f"{META}: choose another folder, or delete it if it is a damaged corpus."
        )
    found = read_meta(directory)
    there, now = found["settings"], dict(settings.items())
    differences = [
        f"{name} is {there.get(name)} there, {now.get(name)} now"
        for name in {**now, **there}
        if there.get(name) != now.get(name)
    ]
    if found["source"] != corpus.fingerprint():
        differences.append(f"the text is another (corpus {found['corpus']} there)")
    if differences:
        raise ValueError(
            f"{directory} was prepared from another source or with other settings: "
            f"{'; '.join(differences)}. Choose another folder, or delete this one."
        )
    report(f"{directory} is prepared already; verifying it")
    return open_prepared(directory)


class _Preparation:
    """Writes all files of a prepared corpus into an empty folder."""

    def __init__(self, corpus, directory, settings, report, num_processes):
        self._corpus, self._directory = corpus, directory
        self._settings, self._report = settings, report
        self._splits = list(corpus.splits)
        self._source_bytes = dict.fromkeys(self._splits, 0)
        self._source_starts: dict[str, list[int]] = {}  # Of each source: its first block.
        self._num_bytes = sum(s.num_bytes for split in corpus.sources.values() for s in split)
        if num_processes is None:
            small = self._num_bytes < _BYTES_FOR_PROCESSES
            num_processes = 1 if small else len(os.sched_getaffinity(0))
        self._num_processes = num_processes
        self._tokens: Callable[[], int] = lambda: 0  # Read so far, with `_source_bytes`.

    def bytes_needed(self) -> float:
        """On the disk: provisional ids and ids, judged by the text that was read so far."""
        read = sum(self._source_bytes.values())
        return 8 * self._num_bytes * (self._tokens() / read if read else 0.2)

    def run(self) -> None:
        model = train_pieces(self._corpus, self._settings, self._report)
        with make_pool(
            self._settings.for_encoders(),
            len(self._splits),
            model,
            self._directory,
            self._num_processes,
        ) as pool:
            self._tokens = lambda: sum(measures.tokens for measures in pool.measures)
            digests = {split: list(self._read(split, pool)) for split in self._splits}
            types = pool.finish()
            for split, measures in zip(self._splits, pool.measures, strict=True):
                if not measures.tokens:
                    names = ", ".join(s.name for s in self._corpus.sources[split][:3])
                    raise ValueError(
                        f"Every split of a corpus needs text. {split} of {self._corpus.name} has "
                        f"none: {names}."
                    )
            vocabulary, lookups, unknown = self._number(types, model)
            del types
            vocabulary.save(self._directory / VOCABULARY)
            self._report(f"{self._corpus.name}: {vocabulary.size:,} types")
            splits = self._write(pool, vocabulary, lookups, unknown)
        source = source_identity(self._corpus, digests)
        identity = {"format": FORMAT, "source": source, "settings": dict(self._settings.items())}
        warnings = [
            *self._corpus.notes,
            *_unexpected(self._corpus, self._settings, vocabulary.size, splits),
        ]
        write_meta(
            self._directory,
            {
                **identity,
                "fingerprint": json_digest(identity),
                "corpus": self._corpus.name,
                "unit": self._corpus.unit,
                "has_sentences": self._corpus.has_sentences and self._settings.has_lines,
                "dtype": id_dtype(vocabulary.size).str,
                "vocabulary": seal(self._directory / VOCABULARY),
                "splits": splits,
                "warnings": warnings,
            },
        )

    def _read(self, split: str, pool: EncodingPool) -> Iterator[str]:
        """Gives all blocks of a split to the pool; yields the sha256 of each source."""
        name, number = self._corpus.name, self._splits.index(split)
        self._report(f"{name}: reading {split}, counting")
        cut = cut_lines if self._settings.has_lines else cut_characters
        sources = self._corpus.sources[split]
        num_reported = 0
        starts = self._source_starts[split] = []
        for i, source in enumerate(sources):
            sha256 = hashlib.sha256()
            starts.append(len(pool.entries))
            ends_line = True
            for block in cut(source, sha256):
                pool.submit(block, number, source.name)
                ends_line = block.data.endswith((b"\n", b"\r"))
                self._source_bytes[split] += len(block.data)
                if self._source_bytes[split] - num_reported >= _REPORT_BYTES:
                    num_reported = self._source_bytes[split]
                    self._report(
                        f"{name}: {split}, {num_reported >> 20:,} MB of text read, "
                        f"{sum(m.tokens for m in pool.measures):,} tokens"
                    )
            if not ends_line and i + 1 < len(sources):
                # Two files are two lines, also where lines are not cut.
                pool.submit(Block(b"\n", 0, False), number, source.name)
            yield sha256.hexdigest()

    def _number(self, types: list[Types], model: bytes):
        """The vocabulary, the ids of each process' provisional ids, and unknown tokens by split."""
        totals, places = merge_types(types)
        train = self._splits.index("train")
        counts = {token: int(n[train]) for token, n in totals.items() if n[train]}
        needs_unk = len(counts) < len(totals)
        vocabulary = vocabulary_from_counts(self._settings, counts, needs_unk, model)
        final, unk = ids_of_types(vocabulary, totals), vocabulary.unk_id
        unknown = dict.fromkeys(self._splits, 0)
        if unk is not None:
            for row, i in zip(totals.values(), final, strict=True):
                if i == unk:
                    for split, n in zip(self._splits, row.tolist(), strict=True):
                        unknown[split] += n
        dtype = id_dtype(vocabulary.size)
        return vocabulary, [final[place].astype(dtype) for place in places], unknown

    def _write(self, pool: EncodingPool, vocabulary, lookups, unknown) -> dict[str, dict]:
        """Writes the arrays of all splits; returns what the meta file says about them."""
        dtype = id_dtype(vocabulary.size)
        entries = pool.ids()
        result = {}
        number = 0
        for index, split in enumerate(self._splits):
            measures = pool.measures[index]
            documents = DocumentFinder(self._corpus.documents, vocabulary)
            starts = set(self._source_starts[split])
            paths = array_paths(self._directory, split, measures.tokens)
            with ShardWriter(paths, dtype, measures.tokens) as writer:
                while number < len(pool.entries) and pool.entries[number].split == index:
                    entry, provisional = next(entries)
                    ids = lookups[entry.process][provisional]
                    documents.see(ids, number in starts)
                    writer.write(ids)
                    number += 1
            np.save(documents_path(self._directory, split), documents.starts())
            self._report(
                f"{self._corpus.name}: {split} has {measures.tokens:,} tokens, "
                f"{unknown[split] / measures.tokens:.2%} unknown"
            )
            result[split] = {
                "tokens": measures.tokens,
                "unknown": unknown[split],
                "characters": measures.characters,
                "words": measures.words,
                "source_bytes": self._source_bytes[split],
                "files": {path.name: seal(path) for path in paths},
                "documents": seal(documents_path(self._directory, split)),
            }
        return result


def _unexpected(
    corpus: Corpus, settings: PreparationSettings, num_types: int, splits: dict
) -> list[str]:
    """What to tell the user where the corpus is not the one that was published."""
    if corpus.expected is None or not settings.is_as_published(corpus):
        return []
    differences = [
        f"{split} has {splits[split]['tokens']:,} tokens, not {tokens:,}"
        for split, tokens in corpus.expected.tokens.items()
        if splits[split]["tokens"] != tokens
    ]
    expected_types = corpus.expected.types
    if settings.has_no_limits(corpus) and expected_types and num_types != expected_types:
        differences.append(f"the vocabulary has {num_types:,} types, not {expected_types:,}")
    if not differences:
        return []
    return [
        f"This is not the whole {corpus.name} as published: {'; '.join(differences)}. Results do "
        "not compare with published ones."
    ]
