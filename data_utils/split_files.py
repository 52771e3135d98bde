"""Corpora of one file per split, WikiText and Penn Treebank: where they may lie."""

from collections.abc import Iterable
from pathlib import Path, PurePosixPath

from .archives import zip_names
from .sources import FileSpan, Source, ZipMember

SPLITS = ("train", "valid", "test")
# As published, and as many repackage them. The first that is complete is taken.
LAYOUTS = {
    "wikitext2": ("wiki.{}.tokens", "{}.txt"),
    "wikitext103": ("wiki.{}.tokens", "{}.txt"),
    "ptb": ("ptb.{}.txt", "{}.txt"),
}
FOLDERS = {
    "wikitext2": ("wikitext-2", "wikitext-2-v1", "wikitext2"),
    "wikitext103": ("wikitext-103", "wikitext-103-v1", "wikitext103"),
    "ptb": ("ptb", "penn", "penntree", "simple-examples/data", "data"),
}
ZIPS = {
    "wikitext2": ("wikitext-2-v1.zip", "wikitext-2.zip"),
    "wikitext103": ("wikitext-103-v1.zip", "wikitext-103.zip"),
    "ptb": ("ptb.zip", "penntreebank.zip"),
}


def find_split_files(corpus: str, data_dir: Path) -> dict[str, tuple[Source, ...]]:
    """Finds the three files of `corpus`, a key of `FOLDERS`; writes nothing.

    The first of these that there is: the files in `data_dir` itself; in a subfolder with one of
    the names in `FOLDERS`, in that order; in an archive with one of the names in `ZIPS`, in that
    order; in the only other subfolder that has them. `data_dir` may also be the archive itself.

    Raises:
        FileNotFoundError: none of these.
        ValueError: `data_dir` is a file that is no zip, an archive lacks the files, or several
            subfolders have them.
    """
    if data_dir.is_file():
        return _in_archive(corpus, data_dir)
    if found := _in_folder(corpus, data_dir):
        return found
    for name in FOLDERS[corpus]:
        if found := _in_folder(corpus, data_dir / name):
            return found
    for name in ZIPS[corpus]:
        if (data_dir / name).is_file():
            return _in_archive(corpus, data_dir / name)
    # A folder of corpora often holds both WikiTexts: never take the other for this one.
    others = {name for key, names in FOLDERS.items() if key != corpus for name in names}
    candidates = sorted(
        path
        for path in data_dir.iterdir()
        if path.is_dir() and path.name.lower() not in others and _in_folder(corpus, path)
    )
    if not candidates:
        raise FileNotFoundError(_not_found(corpus, data_dir))
    if len(candidates) > 1:
        names = ", ".join(path.name for path in candidates)
        raise ValueError(
            f"{data_dir} must hold one {corpus}. Received several folders with its files: "
            f"{names}. Pass one of them."
        )
    return _in_folder(corpus, candidates[0])


def accepted_layouts(corpus: str) -> str:
    """One sentence that says what a `data_dir` of this corpus may be."""
    return (
        f"{corpus} is read from a folder with {LAYOUTS[corpus][0].format('{train,valid,test}')} or "
        f"{LAYOUTS[corpus][1].format('{train,valid,test}')}, from a folder that has such a folder "
        f"({FOLDERS[corpus][0]}/) or the published {' or '.join(ZIPS[corpus])} in it, or from the "
        "zip itself"
    )


def _in_folder(corpus: str, folder: Path) -> dict[str, tuple[Source, ...]] | None:
    for layout in LAYOUTS[corpus]:
        paths = {split: folder / layout.format(split) for split in SPLITS}
        if all(path.is_file() for path in paths.values()):
            return {split: (FileSpan(path),) for split, path in paths.items()}
    return None


def _in_archive(corpus: str, path: Path) -> dict[str, tuple[Source, ...]]:
    try:
        names = [PurePosixPath(name) for name in zip_names(path)]
    except ValueError as error:
        raise ValueError(f"{accepted_layouts(corpus)}. {error}") from None
    for layout in LAYOUTS[corpus]:
        files = {split: layout.format(split) for split in SPLITS}
        complete = [
            folder
            for folder in sorted({name.parent for name in names})
            if all(folder / file in names for file in files.values())
        ]
        if len(complete) > 1:
            raise ValueError(
                f"{path} must hold one {corpus}. Received several folders with its files: "
                f"{', '.join(map(str, complete))}. Unpack it and pass one of them."
            )
        if complete:
            return {
                split: (ZipMember(path, str(complete[0] / file)),) for split, file in files.items()
            }
    raise ValueError(
        f"{accepted_layouts(corpus)}. {path} has no complete set of these files; it has "
        f"{_some(map(str, names))}."
    )


def _not_found(corpus: str, data_dir: Path) -> str:
    names = sorted(path.name for path in data_dir.iterdir())
    message = f"{accepted_layouts(corpus)}. {data_dir} has {_some(names)}."
    if any(name.endswith(".raw") or "-raw" in name for name in names):
        message += " The raw variant is another corpus, for models of characters."
    return message


def _some(names: Iterable[str], most: int = 8) -> str:
    names = list(names)
    return ", ".join(names[:most]) + (", ..." if len(names) > most else "") or "nothing in it"
