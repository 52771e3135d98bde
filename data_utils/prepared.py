"""What preparation leaves behind: a folder of arrays, a vocabulary and their checksums.

The folder has `<split>.npy` (ids, uint16 or int32; in very large corpora several files
`<split>-00000-of-00002.npy`, which are one array), `<split>.documents.npy` (where documents begin),
`vocabulary.txt` and `meta.json` (counts, checksums, and the fingerprint of source and settings).
Nothing is changed in it after it was made.
"""

import dataclasses
import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from .base_vocabulary import Vocabulary
from .id_arrays import ShardedArray, file_sha256, num_shards, open_ids
from .vocabularies import load_vocabulary

FORMAT = 2
META = "meta.json"
VOCABULARY = "vocabulary.txt"


@dataclasses.dataclass(frozen=True)
class PreparedCorpus:
    """A prepared folder, opened and verified.

    A line's end counts as one character and as one word, because the model must predict it too:
    so `exp(total nll / num_words)` of WikiText is the published kind of perplexity, and bits per
    character are `total nll / log(2) / num_characters`.

    Attributes:
        directory: where it is.
        name, unit: those of the corpus.
        kind: of its vocabulary, one of `VOCABULARY_KINDS`.
        vocabulary: the `Vocabulary` of the training split.
        arrays: memory-mapped ids `[N]`, uint16 or int32, by split; a `ShardedArray` where there are
            several files.
        documents: int64 `[D]` by split, the places of the tokens that begin documents, rising.
        counts: int64 `[V]`, how often each id occurs in the training split.
        num_unknown: how many tokens of each split are `<unk>`.
        num_characters, num_words: of the text of each split, see above.
        num_source_bytes: of the text of each split as it was read.
        has_sentences: whether documents are lines in no order, which training may shuffle.
        fingerprint: sha256 of the source and the settings.
        warnings: what the user should be told.
    """

    directory: Path
    name: str
    unit: str
    kind: str
    vocabulary: Vocabulary
    arrays: Mapping[str, np.ndarray | ShardedArray]
    documents: Mapping[str, np.ndarray]
    counts: np.ndarray
    num_unknown: Mapping[str, int]
    num_characters: Mapping[str, int]
    num_words: Mapping[str, int]
    num_source_bytes: Mapping[str, int]
    has_sentences: bool
    fingerprint: str
    warnings: tuple[str, ...]

    @property
    def splits(self) -> tuple[str, ...]:
        """The splits it has; "train" and "valid" always, perhaps "test"."""
        return tuple(self.arrays)


def open_prepared(directory: str | os.PathLike) -> PreparedCorpus:
    """Opens a prepared folder. Every file is verified; the arrays are mapped into memory.

    Raises FileNotFoundError where nothing was prepared, and ValueError, naming the file, where one
    is missing or is not byte for byte what preparation wrote.
    """
    directory = Path(directory)
    if not is_occupied(directory):
        raise FileNotFoundError(
            f"A prepared corpus is needed. There is none at {directory}: prepare it first."
        )
    meta = read_meta(directory)
    splits = meta["splits"]
    _verify(directory / VOCABULARY, meta["vocabulary"])
    for split in splits:
        for name, expected in splits[split]["files"].items():
            _verify(directory / name, expected)
        _verify(documents_path(directory, split), splits[split]["documents"])
    vocabulary = load_vocabulary(directory / VOCABULARY)
    return PreparedCorpus(
        directory=directory,
        name=meta["corpus"],
        unit=meta["unit"],
        kind=meta["settings"]["kind"],
        vocabulary=vocabulary,
        arrays={
            split: _open_split(directory, entry, meta["dtype"]) for split, entry in splits.items()
        },
        documents={
            split: np.load(documents_path(directory, split), allow_pickle=False) for split in splits
        },
        counts=np.array(vocabulary.counts, dtype=np.int64),
        num_unknown={split: entry["unknown"] for split, entry in splits.items()},
        num_characters={split: entry["characters"] for split, entry in splits.items()},
        num_words={split: entry["words"] for split, entry in splits.items()},
        num_source_bytes={split: entry["source_bytes"] for split, entry in splits.items()},
        has_sentences=meta["has_sentences"],
        fingerprint=meta["fingerprint"],
        warnings=tuple(meta["warnings"]),
    )


def array_paths(directory: Path, split: str, num_tokens: int) -> list[Path]:
    """Where a split's ids are; several files where there are too many for one."""
    shards = num_shards(num_tokens)
    if shards == 1:
        return [directory / f"{split}.npy"]
    return [directory / f"{split}-{i:05}-of-{shards:05}.npy" for i in range(shards)]


def documents_path(directory: Path, split: str) -> Path:
    """Where the places are at which a split's documents begin."""
    return directory / f"{split}.documents.npy"


def is_occupied(path: Path) -> bool:
    """Whether something is there that preparation must not replace."""
    if path.is_dir():
        return any(path.iterdir())
    return path.exists()


def is_prepared(path: Path) -> bool:
    """Whether a folder is one that preparation made; its other files may be damaged."""
    try:
        meta = json.loads((path / META).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    # A user's own folder may have a file of this name.
    return isinstance(meta, dict) and {"format", "fingerprint", "checksum"} <= meta.keys()


def seal(path: Path) -> dict[str, int | str]:
    """Size and sha256 of a file, to be stored in the meta file."""
    return {"bytes": path.stat().st_size, "sha256": file_sha256(path)}


def json_digest(value: dict) -> str:
    """sha256 of a JSON object, whatever the order of its keys."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def write_meta(directory: Path, meta: dict) -> None:
    """Writes the meta file, with a checksum of itself."""
    text = json.dumps({**meta, "checksum": json_digest(meta)}, indent=2)
    (directory / META).write_text(text + "\n", encoding="utf-8")


def read_meta(directory: Path) -> dict:
    """Reads the meta file. Raises ValueError where it is missing, damaged or of another version."""
    path = directory / META
    if not path.is_file():
        raise _damaged(path, "it is missing")
    try:
        meta = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise _damaged(path, f"it is not JSON ({error})") from error
    if not isinstance(meta, dict) or meta.pop("checksum", None) != json_digest(meta):
        raise _damaged(path, "its contents have changed (the checksum differs)")
    if meta["format"] != FORMAT:
        raise ValueError(
            f"{directory} was prepared by another version (format {meta['format']}, this one has "
            f"{FORMAT}). Delete the folder and prepare again."
        )
    return meta


def _open_split(directory: Path, entry: dict, dtype: str) -> np.ndarray | ShardedArray:
    shards = [open_ids(directory / name, dtype) for name in entry["files"]]
    array = shards[0] if len(shards) == 1 else ShardedArray(shards)
    if array.size != entry["tokens"]:
        raise ValueError(
            f"{directory / META} says {entry['tokens']:,} tokens, its files have {array.size:,}. "
            "Delete the folder and prepare again."
        )
    return array


def _verify(path: Path, expected: dict) -> None:
    if not path.is_file():
        raise _damaged(path, "it is missing")
    if path.stat().st_size != expected["bytes"]:
        raise _damaged(path, f"it has {path.stat().st_size:,} bytes, not {expected['bytes']:,}")
    if file_sha256(path) != expected["sha256"]:
        raise _damaged(path, "its bytes have changed (the sha256 differs)")


def _damaged(path: Path, what: str) -> ValueError:
    return ValueError(
        f"The prepared corpus is damaged: {path}: {what}. Delete the folder {path.parent} and "
        "prepare again."
    )
