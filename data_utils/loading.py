"""Finding a corpus of the registry, and downloading it where it is not there."""

import glob
import os
from collections.abc import Callable
from pathlib import Path

from .archives import unpack_tar
from .corpora import CORPUS_NAMES, REGISTRY, TFDS, TFDS_ENTRY, Entry
from .downloads import DownloadError, Progress, fetch
from .found_corpus import Corpus
from .sotu import find_sotu
from .split_files import accepted_layouts, find_split_files
from .text_files import find_text
from .tfds_text import find_tfds
from .whole_files import LM1B_FOLDER, accepted_files, find_lm1b, find_whole_file

# Times its size that a tar of text may unpack to; lm1b has 4.15 GB in 1.79.
_UNPACKED_TIMES = 50
_UNPACKED = ".unpacked"


def load_corpus(
    name: str,
    data_dir: str | os.PathLike | None = None,
    download_dir: str | os.PathLike | None = None,
    progress: Progress | None = None,
    any_bytes: bool = False,
) -> Corpus:
    """Finds a corpus; nothing is written, neither here nor later, into `data_dir`.

    Args:
        name: one of `CORPUS_NAMES`, or `tfds:<name>/<config>:<feature>` for a text feature of any
            dataset of TensorFlow Datasets. `sotu` is built in, `text` is text of the user's own,
            the others are read as published.
        data_dir: where the files are; see `split_files.find_split_files`,
            `whole_files` and `text_files.find_text` for what it may be; of TensorFlow Datasets for
            `tfds:`. None: what can be downloaded is. `sotu` ignores it: its text comes with a
            Python package.
        download_dir: where downloads are kept. None: `default_download_dir()`.
        progress: is called with short messages.
        any_bytes: whether `text` may be other than UTF-8: a vocabulary of bytes reads it. Other
            corpora are not looked into before they are prepared.

    Raises:
        ValueError: unknown name, no `data_dir` where one is needed, or text that will not do.
        FileNotFoundError: `data_dir` does not exist or lacks the corpus.
        DownloadError: a download failed; an OSError.
        ModuleNotFoundError: `sotu` without its package.
    """
    if name.startswith(TFDS):
        return _corpus(name, TFDS_ENTRY, find_tfds(name, data_dir))
    if name not in REGISTRY:
        raise ValueError(
            f"A corpus is one of {', '.join(CORPUS_NAMES)}, or {TFDS}<name>/<config>:<feature>. "
            f"Received: {name!r}."
        )
    entry = REGISTRY[name]
    if name == "sotu":
        return _corpus(name, entry, find_sotu())
    if data_dir is None and entry.downloads:
        data_dir = download_corpus(name, download_dir, progress)
    what, find = _finder(name)
    if data_dir is None:
        raise ValueError(f"{what}. Received no data_dir: say where it is.")
    if name == "text" and not os.path.lexists(data_dir) and glob.has_magic(os.fspath(data_dir)):
        pattern = os.path.expanduser(os.fspath(data_dir))
        paths = [Path(path) for path in sorted(glob.glob(pattern, recursive=True))]
        sources, notes = find_text([path for path in paths if path.is_file()], pattern, any_bytes)
        return _corpus(name, entry, sources, notes)
    data_dir = Path(data_dir).expanduser()
    if not data_dir.exists():
        raise FileNotFoundError(f"{what}. The data_dir {data_dir} does not exist.")
    if not (data_dir.is_dir() or data_dir.is_file()):
        raise ValueError(f"{what}. The data_dir {data_dir} is neither a file nor a folder.")
    if name == "text":
        sources, notes = find_text(data_dir, any_bytes=any_bytes)
        return _corpus(name, entry, sources, notes)
    return _corpus(name, entry, find(data_dir))


def default_download_dir() -> Path:
    """Where downloads are kept unless the user says otherwise."""
    cache = os.environ.get("XDG_CACHE_HOME") or Path("~/.cache").expanduser()
    return Path(cache, "adaptive-transformer-xl")


def download_corpus(
    name: str, download_dir: str | os.PathLike | None = None, progress: Progress | None = None
) -> Path:
    """Downloads what a corpus is published in, unless it is there; a `data_dir` for it.

    Raises DownloadError, an OSError, with what to put where by hand.
    """
    entry = REGISTRY[name]
    folder = Path(download_dir or default_download_dir()).expanduser() / name
    report = progress or (lambda message: None)
    if (folder / _UNPACKED).exists():
        return folder
    try:
        paths = [fetch(download, folder, progress) for download in entry.downloads]
    except DownloadError as error:
        if not entry.alternatives:
            raise
        report(str(error))
        try:
            paths = [fetch(download, folder, progress) for download in entry.alternatives]
        except DownloadError as second:
            raise DownloadError(f"{error}\nOr, instead of it: {second}") from None
    for path in paths:
        if path.name.endswith(".tar.gz"):
            report(f"{path}: unpacking")
            unpack_tar(path, folder, _UNPACKED_TIMES * path.stat().st_size)
            (folder / _UNPACKED).touch()
    return folder


def _finder(name: str) -> tuple[str, Callable]:
    """What a `data_dir` of the corpus may be, in words, and what finds it."""
    if name == "text":
        return "text is read from a file or folder of text", find_text
    if name == "lm1b":
        return f"lm1b is read from the folder {LM1B_FOLDER}", find_lm1b
    if name in ("enwik8", "text8", "tinyshakespeare"):
        return accepted_files(name), lambda data_dir: find_whole_file(name, data_dir)
    return accepted_layouts(name), lambda data_dir: find_split_files(name, data_dir)


def _corpus(name: str, entry: Entry, sources: dict, notes: tuple[str, ...] = ()) -> Corpus:
    return Corpus(
        name,
        entry.unit,
        entry.tokenization,
        entry.min_count,
        sources,
        notes,
        entry.vocabulary,
        entry.documents,
        entry.expected,
    )
