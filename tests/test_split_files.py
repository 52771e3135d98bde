"""Finding WikiText: data_utils/split_files.py."""

import zipfile

import pytest

from data_utils import load_corpus
from tests.corpus_files import WIKI, WIKI_LINES, all_lines, words, write, write_wiki, write_zip


@pytest.mark.parametrize("name", ["wikitext2", "wikitext103"])
@pytest.mark.parametrize("layout", ["wiki.{}.tokens", "{}.txt"])
def test_wikitext_from_every_place(tmp_path, name, layout):
    number = name.removeprefix("wikitext")
    for data_dir in (
        write_wiki(tmp_path / "itself", layout),
        write_wiki(tmp_path / "above" / f"wikitext-{number}", layout).parent,
        write_wiki(tmp_path / "other" / "whatever", layout).parent,
        write_zip(tmp_path / "zips" / f"wikitext-{number}-v1.zip", "wikitext/" + layout).parent,
        write_zip(tmp_path / "short" / f"wikitext-{number}.zip", layout).parent,
        write_zip(tmp_path / "any.zip", "a/b/" + layout),
    ):
        corpus = load_corpus(name, str(data_dir))
        assert (corpus.name, corpus.unit, corpus.min_count) == (name, "word", 1)
        assert corpus.splits == ("train", "valid", "test")
        assert all_lines(corpus) == {
            "train": WIKI_LINES,
            "valid": [["the", "dog"], []],
            "test": [["a", "cat", "ran"]],
        }
        assert list(corpus.texts("train")) == [" ", " = A = ", " ", " the cat <unk> the"]
        assert corpus.fingerprint() == load_corpus(name, tmp_path / "itself").fingerprint()


def test_wikitext_takes_the_right_one_of_several(tmp_path):
    write_zip(tmp_path / "wikitext-2.zip", "{}.txt", {**WIKI, "train": "zip"})
    write_zip(tmp_path / "wikitext-103.zip", "{}.txt", {**WIKI, "train": "zip 103"})
    write_wiki(tmp_path / "wikitext-103", train="103")
    assert words(load_corpus("wikitext2", tmp_path), "train") == "zip"
    assert words(load_corpus("wikitext103", tmp_path), "train") == "103"
    write_wiki(tmp_path / "wikitext-2", train="folder")
    assert words(load_corpus("wikitext2", tmp_path), "train") == "folder"
    write_wiki(tmp_path, train="itself")
    assert words(load_corpus("wikitext2", tmp_path), "train") == "itself"


def test_wikitext2_never_takes_wikitext103(tmp_path):
    write_wiki(tmp_path / "wikitext-103")
    with pytest.raises(FileNotFoundError, match=r"wikitext2 is read from.*has wikitext-103\."):
        load_corpus("wikitext2", tmp_path)


def test_wikitext_refuses_to_choose(tmp_path):
    write_wiki(tmp_path / "a")
    write_wiki(tmp_path / "b", "{}.txt")
    with pytest.raises(ValueError, match=r"several folders with its files: a, b\. Pass one"):
        load_corpus("wikitext2", tmp_path)
    path = tmp_path / "two.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for split in WIKI:
            archive.writestr(f"a/{split}.txt", "x")
            archive.writestr(f"b/{split}.txt", "x")
    with pytest.raises(ValueError, match=r"several folders with its files: a, b\. Unpack"):
        load_corpus("wikitext2", path)


LAYOUTS = (
    r"wikitext2 is read from a folder with wiki\.\{train,valid,test\}\.tokens or "
    r"\{train,valid,test\}\.txt.*\(wikitext-2/\).*wikitext-2-v1\.zip.*"
)


def test_wikitext_errors(tmp_path):
    with pytest.raises(FileNotFoundError, match=LAYOUTS + "does not exist"):
        load_corpus("wikitext2", tmp_path / "nowhere")
    with pytest.raises(FileNotFoundError, match=LAYOUTS + "has nothing in it"):
        load_corpus("wikitext2", tmp_path)
    write(tmp_path / "wiki.train.tokens", "only training")
    with pytest.raises(FileNotFoundError, match=LAYOUTS + r"has wiki\.train\.tokens\."):
        load_corpus("wikitext2", tmp_path)
    write(tmp_path / "raw" / "wiki.train.raw", "raw")
    with pytest.raises(FileNotFoundError, match="raw variant is another corpus"):
        load_corpus("wikitext2", tmp_path / "raw")
    with pytest.raises(ValueError, match=LAYOUTS + "not a zip"):
        load_corpus("wikitext2", tmp_path / "wiki.train.tokens")
    path = write_zip(tmp_path / "less.zip", "{}.txt", {"train": "x"})
    with pytest.raises(ValueError, match=LAYOUTS + r"no complete set.*it has train\.txt"):
        load_corpus("wikitext2", path)


def test_a_damaged_archive(tmp_path):
    text = {split: " ".join(str(i) for i in range(5000)) for split in WIKI}
    path = write_zip(tmp_path / "wikitext-2.zip", "{}.txt", text)
    data = bytearray(path.read_bytes())
    data[2000] ^= 0xFF
    path.write_bytes(bytes(data))
    corpus = load_corpus("wikitext2", tmp_path)
    with pytest.raises(ValueError, match=r"wikitext-2\.zip:train\.txt cannot be unpacked"):
        list(corpus.lines("train"))


def test_wikitext_that_is_not_utf8_names_the_member(tmp_path):
    write_zip(tmp_path / "wikitext-2.zip", "{}.txt", {**WIKI, "valid": b"\xe4"})
    with pytest.raises(
        ValueError, match=r"wikitext-2\.zip:valid\.txt is not: byte 0xe4 at offset 0"
    ):
        list(load_corpus("wikitext2", tmp_path).lines("valid"))
