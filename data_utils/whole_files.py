"""Corpora of one file that is cut by bytes, enwik8, text8 and Tiny Shakespeare; and lm1b."""

import zipfile
from collections.abc import Mapping
from pathlib import Path, PurePosixPath

from .archives import zip_names
from .sources import FileSpan, Source, ZipMember

# Of 100 million bytes these are 90, 5 and 5 million.
_PERCENT = {"train": 90, "valid": 5, "test": 5}
NAMES = {
    "enwik8": ("enwik8", "enwik8.txt", "enwik8.zip"),
    "text8": ("text8", "text8.txt", "text8.zip"),
    "tinyshakespeare": ("input.txt", "tinyshakespeare.txt", "tiny-shakespeare.txt"),
}
_LM1B_TRAIN = "training-monolingual.tokenized.shuffled/news.en-?????-of-00100"
_LM1B_HELD_OUT = "heldout-monolingual.tokenized.shuffled/news.en.heldout-{:05}-of-00050"
LM1B_FOLDER = "1-billion-word-language-modeling-benchmark-r13output"


def find_whole_file(corpus: str, data_dir: Path) -> dict[str, tuple[Source, ...]]:
    """The splits of a corpus that is one file, in `data_dir`, a folder of its name, or itself.

    The first 90 percent of the bytes are train, the next 5 valid, the rest test, as published.

    Raises FileNotFoundError where it is not there, ValueError for a bad or empty archive.
    """
    if data_dir.is_file():
        return _cut(data_dir)
    for folder in (data_dir, data_dir / corpus):
        for name in NAMES[corpus]:
            if (folder / name).is_file():
                return _cut(folder / name)
    raise FileNotFoundError(f"{accepted_files(corpus)}. {data_dir} has none of these.")


def accepted_files(corpus: str) -> str:
    """What a `data_dir` of this corpus may be."""
    return f"{corpus} is read from a folder with {' or '.join(NAMES[corpus])}, or from the file"


def find_lm1b(data_dir: Path) -> dict[str, tuple[Source, ...]]:
    """The files of the One Billion Word benchmark, unpacked: 99 for train, all in one order.

    Test is the first file of the held-out data, as published results have it, valid the second.

    Raises FileNotFoundError where they are not all there.
    """
    for folder in (data_dir, data_dir / LM1B_FOLDER, data_dir / "lm1b"):
        train = sorted(folder.glob(_LM1B_TRAIN))
        test, valid = (folder / _LM1B_HELD_OUT.format(i) for i in (0, 1))
        if train and valid.is_file() and test.is_file():
            splits: Mapping[str, list[Path]] = {"train": train, "valid": [valid], "test": [test]}
            return {split: tuple(map(FileSpan, paths)) for split, paths in splits.items()}
    raise FileNotFoundError(
        f"lm1b is read from the folder {LM1B_FOLDER} or one that has it, with "
        f"{PurePosixPath(_LM1B_TRAIN).parent} and {PurePosixPath(_LM1B_HELD_OUT).parent}. "
        f"{data_dir} has not all of them. Unpack the published archive there: tar xf "
        f"{LM1B_FOLDER}.tar.gz"
    )


def _cut(path: Path) -> dict[str, tuple[Source, ...]]:
    if path.suffix == ".zip":
        names = [name for name in zip_names(path) if not name.endswith("/")]
        if len(names) != 1:
            raise ValueError(
                f"{path} must have one file in it. It has {', '.join(names[:8]) or 'none'}."
            )
        with zipfile.ZipFile(path) as archive:
            size = archive.getinfo(names[0]).file_size
        return {
            split: (ZipMember(path, names[0], start, stop),)
            for split, (start, stop) in _bounds(path, size).items()
        }
    size = path.stat().st_size
    return {
        split: (FileSpan(path, start, stop),)
        for split, (start, stop) in _bounds(path, size).items()
    }


def _bounds(path: Path, size: int) -> dict[str, tuple[int, int]]:
    # As TensorFlow Datasets cuts Tiny Shakespeare: half of the rest, rounded down.
    train = size * _PERCENT["train"] // 100
    valid = train + (size - train) // 2
    if not 0 < train < valid < size:
        raise ValueError(f"A corpus needs text for three splits. {path} has {size} bytes.")
    return {"train": (0, train), "valid": (train, valid), "test": (valid, size)}
