"""The corpus `text`: any text file, or a folder of them, split for the user where it is not."""

import os
from collections.abc import Sequence
from pathlib import Path

from .prepared import is_prepared
from .sources import COMPRESSIONS, FileSpan, LinePosition, nonblank_lines

SUFFIXES = (".txt", ".text", ".md")
SPLIT_NAMES = {
    "train": "train",
    "valid": "valid",
    "validation": "valid",
    "val": "valid",
    "test": "test",
}
ALL_PERCENT = {"train": 90, "valid": 5, "test": 5}
TRAIN_PERCENT = {"train": 95, "valid": 5}

# The text that a run writes into its workdir, beside its record and `data`, the prepared corpus.
_OF_RUNS, _RECORD = ("flags.txt", "sample.txt"), "config.json"
_ACCEPTED = "*.txt, *.text, *.md and wiki.*.tokens"


def find_text(
    data_dir: Path | Sequence[Path], pattern: str = "", any_bytes: bool = False
) -> tuple[dict[str, tuple[FileSpan, ...]], tuple[str, ...]]:
    """Finds the text below `data_dir` and divides it into splits.

    Three cases. A folder with `train.*` and one of `valid.*`, `validation.*`, `val.*` (and perhaps
    `test.*`) is used as it is. In a folder with `train.*` alone, the last 5 percent of it become
    `valid`. Anything else, a file or all text files below a folder one after the other in the
    order of their paths, is cut in order into 90, 5 and 5 percent. Percentages are of the bytes of
    the lines that are not blank; cuts stand at line starts; every split has at least one line.
    Hidden files and folders are passed over, and what runs write whose workdir is below. Any of the
    files may be compressed, with a name that ends in .gz, .xz or .zst.

    Args:
        data_dir: a file, a folder, or the files that `pattern`, a glob, stands for, in their order.
        pattern: what the user wrote, for the message where there are none.
        any_bytes: whether files may be other than UTF-8, for a vocabulary of bytes.

    Returns:
        The sources of each split, and notes on what was left out.

    Raises:
        ValueError: no text, too little text to split, text that is not UTF-8, or splits that
            contradict each other.
    """
    if not isinstance(data_dir, Path):
        files = _without_runs(data_dir)
        if not files:
            raise ValueError(f"The corpus text needs a file. No file is named {pattern}.")
        return _divide(files, ALL_PERCENT, any_bytes), ()
    if data_dir.is_file():
        return _divide([data_dir], ALL_PERCENT, any_bytes), ()
    given = _given_splits(data_dir)
    files = _text_files(data_dir)
    if not files:
        raise ValueError(
            f"The corpus text needs a file, or a folder with {_ACCEPTED} in it. {data_dir} is a "
            "folder without any. Give these names to the files, or pass one file itself."
        )
    if not given:
        return _divide(files, ALL_PERCENT, any_bytes), ()
    if "train" not in given:
        present = ", ".join(path.name for path in given.values())
        raise ValueError(
            f"A folder with files named for splits needs a train.* among them. {data_dir} has "
            f"only {present}. Add train.txt, or rename the file if it is not a split."
        )
    left_out = [path for path in files if path not in given.values()]
    notes = ()
    if left_out:
        names = ", ".join(_relative(path, data_dir) for path in left_out[:5])
        more = ", ..." if len(left_out) > 5 else ""
        notes = (
            f"{data_dir} has a {given['train'].name}, so {len(left_out)} other text file(s) in it "
            f"were left out: {names}{more}",
        )
    if "valid" in given:
        for path in given.values():
            _first_line([path], any_bytes)
        return {split: (FileSpan(path),) for split, path in given.items()}, notes
    divided = _divide([given["train"]], TRAIN_PERCENT, any_bytes)
    if "test" in given:
        _first_line([given["test"]], any_bytes)
        divided["test"] = (FileSpan(given["test"]),)
    return divided, notes


def _relative(path: Path, folder: Path) -> str:
    return path.relative_to(folder).as_posix()


def _without_compression(name: str) -> str:
    for suffix in COMPRESSIONS:
        name = name.removesuffix(suffix)
    return name


def _is_text_file(name: str) -> bool:
    lower = _without_compression(name.lower())
    is_wiki = lower.startswith("wiki.") and lower.endswith(".tokens")
    return not name.startswith(".") and (lower.endswith(SUFFIXES) or is_wiki)


def _text_files(folder: Path) -> list[Path]:
    found = []
    for parent, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".")]
        found += [Path(parent, name) for name in names if _is_text_file(name)]
    return sorted(_without_runs(found), key=lambda path: _relative(path, folder))


def _without_runs(paths: Sequence[Path]) -> list[Path]:
    """The files that no run wrote: one whose workdir is among the text must find the same text
    when it is started again."""
    prepared = {}

    def made_by_preparation(folder: Path) -> bool:
        if folder not in prepared:
            prepared[folder] = is_prepared(folder)
        return prepared[folder]

    def made_by_a_run(path: Path) -> bool:
        # Only prepared, without the record, a folder has no text but the user's.
        return (
            path.name in _OF_RUNS
            and (path.parent / _RECORD).is_file()
            and made_by_preparation(path.parent / "data")
        )

    return [
        path for path in paths if not made_by_preparation(path.parent) and not made_by_a_run(path)
    ]


def _given_splits(folder: Path) -> dict[str, Path]:
    """The files right in the folder that are named for a split, in the order of the splits."""
    given: dict[str, Path] = {}
    for path in sorted(folder.iterdir()):
        if not (_is_text_file(path.name) and path.is_file()):
            continue
        split = SPLIT_NAMES.get(
            Path(_without_compression(path.name.lower())).stem.removeprefix("wiki.")
        )
        if split is None:
            continue
        if split in given:
            raise ValueError(
                f"A folder has at most one file for each split. {folder} has two for {split}: "
                f"{given[split].name} and {path.name}. Remove one of them."
            )
        given[split] = path
    return {split: given[split] for split in ALL_PERCENT if split in given}


def _first_line(paths: Sequence[Path], any_bytes: bool) -> LinePosition:
    for path in paths:
        for line in nonblank_lines(FileSpan(path), any_bytes):
            return line
    names = ", ".join(str(path) for path in paths[:3]) + (", ..." if len(paths) > 3 else "")
    raise ValueError(
        f"A corpus needs text. {names}: empty, or nothing but white space. Pass another file."
    )


def _divide(
    paths: Sequence[Path], percent: dict[str, int], any_bytes: bool
) -> dict[str, tuple[FileSpan, ...]]:
    """Cuts the files, one after the other, into splits of so many percent of their bytes.

    The text is read twice, once for the totals and once for the cuts, so that memory does not grow
    with the number of lines.
    """
    _first_line(paths, any_bytes)
    num_lines = num_bytes = 0
    for path in paths:
        for line in nonblank_lines(FileSpan(path), any_bytes):
            num_lines += 1
            num_bytes += line.num_bytes
    if num_lines < len(percent):
        raise ValueError(
            f"Text is split at line ends into {', '.join(percent)}, which takes at least "
            f"{len(percent)} lines that are not blank. {paths[0]}"
            f"{' and the other files' if len(paths) > 1 else ''}: {num_lines}. Put one paragraph "
            "on a line, or pass a folder with train.txt, valid.txt and test.txt."
        )

    cuts: list[tuple[int, int]] = []  # Of each split after the first: index of file, first byte.
    bounds = [sum(list(percent.values())[: i + 1]) * num_bytes for i in range(len(percent) - 1)]
    bytes_before = lines_before = lines_of_split = 0
    for index, path in enumerate(paths):
        for line in nonblank_lines(FileSpan(path), any_bytes):
            splits_to_come = len(bounds) - len(cuts)
            if splits_to_come and lines_of_split:
                is_past_bound = bytes_before * 100 >= bounds[len(cuts)]
                is_needed_later = num_lines - lines_before == splits_to_come
                if is_past_bound or is_needed_later:
                    cuts.append((index, line.start))
                    lines_of_split = 0
            lines_of_split += 1
            lines_before += 1
            bytes_before += line.num_bytes

    edges = [(0, 0), *cuts, (len(paths), 0)]
    return {split: _spans(paths, edges[i], edges[i + 1]) for i, split in enumerate(percent)}


def _spans(
    paths: Sequence[Path], first: tuple[int, int], last: tuple[int, int]
) -> tuple[FileSpan, ...]:
    """The pieces of files from one (index of file, byte) up to, and without, another."""
    spans = []
    for index in range(first[0], min(last[0] + 1, len(paths))):
        start = first[1] if index == first[0] else 0
        stop = last[1] if index == last[0] else None
        if start != stop:
            spans.append(FileSpan(paths[index], start, stop))
    return tuple(spans)
