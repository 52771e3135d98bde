"""Preparation, and what it leaves: data_utils/{corpus,prepared,id_arrays}.py."""

import os
import re
import threading
from pathlib import Path

import numpy as np
import pytest

from data_utils import (
    load_corpus,
    open_prepared,
    prepare,
)
from data_utils.id_arrays import ShardWriter, id_dtype

REPOSITORY = Path(__file__).resolve().parents[1]
SHARED_WIKITEXT2 = REPOSITORY.parent / "shared" / "data" / "wikitext-2.zip"
FILES = (
    "meta.json",
    "test.documents.npy",
    "test.npy",
    "train.documents.npy",
    "train.npy",
    "valid.documents.npy",
    "valid.npy",
    "vocabulary.txt",
)


def write_text(folder: Path, **splits: str) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for split, text in splits.items():
        (folder / f"{split}.txt").write_bytes(text.encode("utf-8"))
    return folder


@pytest.fixture
def text(tmp_path):
    return write_text(
        tmp_path / "text",
        train="\ufeffthe cat, the dog.\r\n\r\nthe CAT\u2028sat 😀😀!\r\na a",
        valid="the bird\n",
        test="a\n\n\n😀 sat",
    )


def everything(folder: Path) -> dict[str, bytes]:
    """Names, contents and times of all files, to see that nothing was touched."""
    return {
        str(path.relative_to(folder)): path.read_bytes() + str(path.stat().st_mtime_ns).encode()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


# What preparation makes ----------------------------------------------------------------------


def test_text_by_hand(tmp_path, text):
    messages = []
    corpus = load_corpus("text", text)
    prepared = prepare(corpus, tmp_path / "new" / "prepared", min_count=1, progress=messages.append)
    assert (prepared.name, prepared.unit, prepared.warnings) == ("text", "word", ())
    assert prepared.splits == ("train", "valid", "test")
    counts = {"<eos>": 3, "the": 3, "a": 2, "😀": 2}
    singles = ["!", ",", ".", "CAT", "cat", "dog", "sat"]
    tokens = (*counts, *singles, "<unk>")
    assert prepared.vocabulary.tokens == tokens
    assert prepared.vocabulary.tokenization == "words"
    assert prepared.counts.tolist() == [3, 3, 2, 2, 1, 1, 1, 1, 1, 1, 1, 0]
    assert prepared.counts.dtype == np.int64
    lines = {
        "train": "the cat , the dog . <eos> the CAT sat 😀 😀 ! <eos> a a <eos>",
        "valid": "the <unk> <eos>",
        "test": "a <eos> 😀 sat <eos>",
    }
    for split, line in lines.items():
        array = prepared.arrays[split]
        assert isinstance(array, np.memmap)
        assert array.dtype == np.uint16
        assert [tokens[i] for i in array] == line.split()
        with pytest.raises(ValueError, match="read-only"):
            array[0] = 1
    assert prepared.num_unknown == {"train": 0, "valid": 1, "test": 0}
    # A line's end is one character and one word; dropped lines have neither.
    assert prepared.num_characters == {"train": 18 + 16 + 4, "valid": 9, "test": 2 + 6}
    assert prepared.num_words == {"train": 5 + 5 + 3, "valid": 3, "test": 2 + 3}
    assert sorted(os.listdir(prepared.directory)) == list(FILES)
    assert os.listdir(tmp_path / "new") == ["prepared"]
    assert any("test has 5 tokens, 0.00% unknown" in message for message in messages)


def test_wikitext_by_hand(tmp_path):
    folder = write_text(tmp_path / "x", train=" \n the <eos> <unk> \n", valid="\n\n", test=" z the")
    prepared = prepare(load_corpus("wikitext2", folder), tmp_path / "prepared")
    assert prepared.vocabulary.tokens == ("<eos>", "<unk>", "the")
    assert {split: array.tolist() for split, array in prepared.arrays.items()} == {
        "train": [0, 2, 0, 1, 0],
        "valid": [0, 0],
        "test": [1, 2, 0],
    }
    assert prepared.num_unknown == {"train": 1, "valid": 0, "test": 1}
    assert prepared.num_words == {"train": 5, "valid": 2, "test": 3}
    assert prepared.num_characters == {"train": 2 + 18, "valid": 2, "test": 7}
    assert len(prepared.warnings) == 1
    assert re.match(
        r"This is not the whole wikitext2 as published: train has 5 tokens, not 2,088,628; .*"
        r"the vocabulary has 3 types, not 33,278",
        prepared.warnings[0],
    )


def test_limits_of_the_vocabulary(tmp_path, text):
    corpus = load_corpus("text", text)
    default = prepare(corpus, tmp_path / "default")
    assert default.vocabulary.tokens == ("<unk>", "<eos>", "the")
    small = prepare(corpus, tmp_path / "small", min_count=2, max_size=4)
    assert small.vocabulary.tokens == ("<unk>", "<eos>", "the", "a")
    assert small.counts.tolist() == np.bincount(small.arrays["train"]).tolist() == [9, 3, 3, 2]
    assert len({default.fingerprint, small.fingerprint}) == 2
    with pytest.raises(ValueError, match="min_count must be at least 1"):
        prepare(corpus, tmp_path / "none", min_count=0)
    assert not (tmp_path / "none").exists()


def test_no_test_split(tmp_path):
    folder = write_text(tmp_path / "x", train="a\nb", valid="a")
    prepared = prepare(load_corpus("text", folder), tmp_path / "prepared")
    assert prepared.splits == ("train", "valid") == tuple(prepared.num_words)


def test_what_was_left_out_is_said(tmp_path):
    folder = write_text(tmp_path / "x", train="a\nb", valid="a", notes="c")
    prepared = prepare(load_corpus("text", folder), tmp_path / "prepared")
    assert "left out: notes.txt" in prepared.warnings[0]
    assert open_prepared(tmp_path / "prepared").warnings == prepared.warnings


def test_the_same_bytes_whatever_the_blocks(tmp_path, text, monkeypatch):
    corpus = load_corpus("text", text)
    one = everything(prepare(corpus, tmp_path / "one", min_count=1).directory)
    monkeypatch.setattr("data_utils.blocks.BLOCK_BYTES", 5)
    monkeypatch.setattr("data_utils.corpus._REPORT_BYTES", 4)
    monkeypatch.setattr("data_utils.sources._BLOCK_BYTES", 3)
    messages = []
    two = prepare(corpus, tmp_path / "two", min_count=1, progress=messages.append).directory
    assert {name: (two / name).read_bytes() for name in FILES} == {
        name: (tmp_path / "one" / name).read_bytes() for name in FILES
    }
    assert len(one) == len(FILES)
    assert any(" MB of text read, 7 tokens" in message for message in messages)


def test_the_dtype_follows_the_vocabulary(tmp_path):
    assert [id_dtype(n).str for n in (2, 65_536, 65_537)] == ["<u2", "<u2", "<i4"]
    words = " ".join(f"w{i}" for i in range(65_535))
    folder = write_text(tmp_path / "x", train=words + "\nlast", valid="last w7", test="last")
    prepared = prepare(load_corpus("text", folder), tmp_path / "prepared", min_count=1)
    assert prepared.vocabulary.size == 65_538
    assert prepared.arrays["valid"].dtype == np.int32
    assert prepared.vocabulary.decode(prepared.arrays["valid"]) == "last w7\n"
    assert max(prepared.arrays["train"]) == 65_536


@pytest.mark.parametrize("lengths", [[], [0], [1], [3, 0, 70_000]])
def test_arrays_are_ordinary_npy_files(tmp_path, lengths):
    blocks = [np.arange(n) % 7 for n in lengths]
    path = tmp_path / "x.npy"
    with ShardWriter([path], np.dtype("<u2"), sum(lengths)) as writer:
        for block in blocks:
            writer.write(block)
    found = np.load(path)
    assert found.dtype == np.uint16
    np.testing.assert_array_equal(found, np.concatenate([np.zeros(0, int), *blocks]))


# A second time -------------------------------------------------------------------------------


def test_a_second_time_only_verifies(tmp_path, text):
    corpus = load_corpus("text", text)
    first = prepare(corpus, tmp_path / "prepared")
    before = everything(tmp_path)
    messages = []
    second = prepare(load_corpus("text", text), tmp_path / "prepared", progress=messages.append)
    assert everything(tmp_path) == before
    assert second.fingerprint == first.fingerprint
    assert messages == [f"{tmp_path / 'prepared'} is prepared already; verifying it"]
    opened = open_prepared(str(tmp_path / "prepared"))
    assert opened.vocabulary.tokens == first.vocabulary.tokens
    assert opened.num_characters == first.num_characters


def test_other_sources_and_settings_are_refused(tmp_path, text):
    corpus = load_corpus("text", text)
    prepare(corpus, tmp_path / "prepared")
    before = everything(tmp_path)
    with pytest.raises(ValueError, match=r"min_count is 3 there, 2 now\. Choose another folder"):
        prepare(corpus, tmp_path / "prepared", min_count=2)
    with pytest.raises(ValueError, match=r"max_size is None there, 50 now\. Choose"):
        prepare(corpus, tmp_path / "prepared", max_size=50)
    write_text(text, valid="the bird!\n")
    with pytest.raises(ValueError, match=r"the text is another \(corpus text there\)\. Choose"):
        prepare(load_corpus("text", text), tmp_path / "prepared")
    write_text(text, valid="the bird\n")
    with pytest.raises(ValueError, match=r"min_count is 3 there, 1 now; the text is another"):
        prepare(load_corpus("wikitext2", text), tmp_path / "prepared")
    assert {k: v for k, v in everything(tmp_path).items() if k.startswith("prepared")} == {
        k: v for k, v in before.items() if k.startswith("prepared")
    }


def test_nothing_else_is_overwritten(tmp_path, text):
    corpus = load_corpus("text", text)
    write_text(tmp_path / "mine", notes="precious")
    (tmp_path / "file").write_text("precious")
    before = everything(tmp_path)
    for name in ("mine", "file"):
        with pytest.raises(ValueError, match=rf"{name} must be a new folder or a prepared corpus"):
            prepare(corpus, tmp_path / name, progress=pytest.fail)  # Refused before any work.
    assert everything(tmp_path) == before
    (tmp_path / "empty").mkdir()
    assert prepare(corpus, tmp_path / "empty").splits == ("train", "valid", "test")


# Interruption --------------------------------------------------------------------------------


def test_an_interruption_at_any_message_leaves_nothing(tmp_path, text):
    corpus = load_corpus("text", text)
    messages = []
    prepare(corpus, tmp_path / "a" / "whole", progress=messages.append)
    for stop_at in range(len(messages)):
        seen = []

        def interrupt(message, seen=seen, stop_at=stop_at):
            seen.append(message)
            if len(seen) > stop_at:
                partial = [p for p in (tmp_path / "b").iterdir() if p.name.endswith(".partial")]
                assert len(partial) == 1, "the test interrupts too early or too late"
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            prepare(corpus, tmp_path / "b" / "x", progress=interrupt)
        assert os.listdir(tmp_path / "b") == []
    again = prepare(corpus, tmp_path / "b" / "x")
    assert (again.directory / "train.npy").read_bytes() == (
        tmp_path / "a" / "whole" / "train.npy"
    ).read_bytes()


def test_bad_text_in_the_middle_leaves_nothing(tmp_path):
    folder = write_text(tmp_path / "x", train="a\nb", valid="a", test="a")
    (folder / "test.txt").write_bytes(b"fine\n" + b"\xff")
    with pytest.raises(ValueError, match=r"test\.txt is not: byte 0xff at offset 5"):
        prepare(load_corpus("text", folder), tmp_path / "y" / "prepared")
    assert os.listdir(tmp_path / "y") == []


def test_a_split_without_text(tmp_path):
    folder = write_text(tmp_path / "x", train="a\n", valid="", test="a")
    with pytest.raises(ValueError, match=r"valid of wikitext2 has none: .*valid\.txt"):
        prepare(load_corpus("wikitext2", folder), tmp_path / "y" / "prepared")
    assert os.listdir(tmp_path / "y") == []


def test_two_at_the_same_time(tmp_path, text):
    corpus = load_corpus("text", text)
    together = threading.Barrier(4, timeout=20)
    results = []

    def work():
        def wait_at_the_start(message):
            if "counting" in message:
                together.wait()

        results.append(prepare(corpus, tmp_path / "y" / "x", progress=wait_at_the_start))

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({result.fingerprint for result in results}) == 1
    assert len(results) == 4
    assert os.listdir(tmp_path / "y") == ["x"]


# Damage --------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("damage", ["missing", "short", "long", "empty", "changed"])
def test_damage_of_every_file_is_noticed(tmp_path, text, name, damage):
    corpus = load_corpus("text", text)
    path = prepare(corpus, tmp_path / "prepared", min_count=1).directory / name
    data = path.read_bytes()
    if damage == "missing":
        path.unlink()
    else:
        changed = bytearray(data)
        place = data.index(b'"characters": ') + 14 if name == "meta.json" else len(data) - 3
        changed[place] ^= 1
        contents = {"short": data[:-1], "long": data + b" ", "empty": b"", "changed": changed}
        path.write_bytes(bytes(contents[damage]))
    if name == "meta.json" and damage in ("short", "long"):
        open_prepared(tmp_path / "prepared")  # White space at the end of JSON means nothing.
        return
    message = rf"damaged: .*{re.escape(name)}: .*Delete the folder .*prepared and prepare again\."
    with pytest.raises(ValueError, match=message):
        open_prepared(tmp_path / "prepared")
    if (name, damage) == ("meta.json", "missing"):
        message = r"no meta\.json: choose another folder, or delete it if it is a damaged corpus"
    with pytest.raises(ValueError, match=message):
        prepare(corpus, tmp_path / "prepared", min_count=1)


def test_every_byte_of_an_array_counts(tmp_path, text):
    path = prepare(load_corpus("text", text), tmp_path / "prepared").directory / "valid.npy"
    data = path.read_bytes()
    for place in range(len(data)):
        changed = bytearray(data)
        changed[place] ^= 0x10
        path.write_bytes(bytes(changed))
        with pytest.raises(ValueError, match=r"valid\.npy: its bytes have changed"):
            open_prepared(tmp_path / "prepared")


def test_not_prepared_and_another_version(tmp_path, text):
    for name in ("nowhere", "empty"):
        with pytest.raises(FileNotFoundError, match="prepared corpus is needed. There is none at"):
            open_prepared(tmp_path / name)
        (tmp_path / "empty").mkdir(exist_ok=True)
    prepare(load_corpus("text", text), tmp_path / "prepared")
    path = tmp_path / "prepared" / "meta.json"
    path.write_text("[]")
    with pytest.raises(ValueError, match=r"meta\.json: its contents have changed"):
        open_prepared(tmp_path / "prepared")
