"""Preparation by several processes, its settings, and any bytes there may be."""

import collections
import os
import random
import signal
import time
from pathlib import Path

import numpy as np
import psutil
import pytest

from data_utils import VOCABULARY_KINDS, load_corpus, open_prepared, prepare
from data_utils.tokenization import tokenize_text
from tests.corpus_files import PIECES, random_text, write


def folder_of(root: Path, **splits: str | bytes) -> Path:
    for split, text in splits.items():
        write(root / f"{split}.txt", text)
    return root


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def settings_of(kind: str) -> dict:
    size = {"max_size": 320} if kind == "sentencepiece" else {}
    return {"vocabulary": kind, "min_count": 1 if kind == "word" else None, **size}


@pytest.fixture
def small_blocks(monkeypatch):
    """Blocks of a few bytes, in this process and those it starts."""
    monkeypatch.setattr("data_utils.blocks.BLOCK_BYTES", 7)
    monkeypatch.setattr("data_utils.sources._BLOCK_BYTES", 3)


# Against a slow oracle -----------------------------------------------------------------------


@pytest.mark.parametrize("corpus_name", ["wikitext2", "text"])
@pytest.mark.parametrize("lowercase", [False, True])
def test_words_agree_with_a_slow_oracle(tmp_path, small_blocks, corpus_name, lowercase):
    """Reads each file with Python alone; every token must be there, in order."""
    generator = random.Random(5)
    for trial in range(60):
        texts = {s: "a\nb\n" + random_text(generator, 80) for s in ("train", "valid", "test")}
        folder = folder_of(tmp_path / str(trial), **texts)
        corpus = load_corpus(corpus_name, folder)
        prepared = prepare(corpus, folder / "p", min_count=1, lowercase=lowercase)
        rule = prepared.vocabulary.tokenization
        expected = {}
        for split, text in texts.items():
            text = text.removeprefix("\ufeff")
            end = "" if text.endswith(("\n", "\r")) else "\n"
            expected[split] = tokenize_text(text + end, rule)
            num_words = sum(len(line.split()) + 1 for line in lines_that_count(text, rule))
            assert prepared.num_words[split] == num_words
            num_characters = sum(len(line) + 1 for line in lines_that_count(text, rule))
            assert prepared.num_characters[split] == num_characters
        counts = collections.Counter(expected["train"])
        vocabulary = prepared.vocabulary
        for split, tokens in expected.items():
            known = [token if token in counts else "<unk>" for token in tokens]
            assert [vocabulary.tokens[i] for i in prepared.arrays[split]] == known
            assert prepared.num_unknown[split] == known.count("<unk>")
        for token, count in zip(vocabulary.tokens, vocabulary.counts, strict=True):
            assert count == counts[token]


def lines_that_count(text: str, rule: str) -> list[str]:
    lines = text.replace("\r\n", "\n").replace("\r", "\n").split("\n")
    if not lines[-1]:
        lines.pop()
    return [line for line in lines if rule.startswith("whitespace") or line.strip()]


@pytest.mark.parametrize("kind", ["character", "byte", "sentencepiece"])
def test_nothing_is_lost(tmp_path, small_blocks, kind):
    generator = random.Random(6)
    train = "".join(random_text(generator, 300) for _ in range(40)) + "".join(PIECES) + "\n"
    texts = {"train": train, "valid": random_text(generator, 80) + "a", "test": "b\r\nca\n"}
    folder = folder_of(tmp_path / "x", **texts)
    prepared = prepare(load_corpus("wikitext2", folder), tmp_path / "p", **settings_of(kind))
    vocabulary = prepared.vocabulary
    assert (np.diff(vocabulary.counts) <= 0).all()
    np.testing.assert_array_equal(
        np.bincount(prepared.arrays["train"], minlength=vocabulary.size), prepared.counts
    )
    for split, text in texts.items():
        found = vocabulary.decode(prepared.arrays[split])
        if kind == "sentencepiece":  # Is cut into lines first, as words are.
            text = text.removeprefix("\ufeff").replace("\r\n", "\n").replace("\r", "\n")
            text += "" if text.endswith("\n") else "\n"
        if kind == "character":
            known = set(train)
            text = "".join(c if c in known else "\ufffd" for c in text)
        assert found == text
        if kind != "byte":
            assert len(text) == prepared.num_characters[split]


def test_kinds_of_vocabularies_count_the_same_words(tmp_path):
    """By `str.split`, also between white space that bytes do not know: perplexities compare."""
    line = "« Où ?\u00a0» dit-il\u00a0:\u3000日本\u2028語 a\x1fb\x85c\n"
    folder = folder_of(tmp_path / "x", train=line * 30, valid=line, test=line)
    corpus = load_corpus("wikitext2", folder)
    for kind in VOCABULARY_KINDS:
        sizes = {"max_size": 280} if kind == "sentencepiece" else {}
        prepared = prepare(corpus, tmp_path / kind, vocabulary=kind, **sizes)
        assert prepared.num_words["train"] == 30 * (len(line.split()) + 1), kind
        assert prepared.num_characters["train"] == 30 * len(line), kind


def test_bytes_that_are_no_text(tmp_path, small_blocks):
    generator = random.Random(7)
    splits = {s: generator.randbytes(300) for s in ("train", "valid", "test")}
    folder = folder_of(tmp_path / "x", **splits)
    corpus = load_corpus("wikitext2", folder)
    for kind in ("word", "character", "sentencepiece"):
        with pytest.raises(ValueError, match=r"Text must be UTF-8\. .*train\.txt is not: byte 0x"):
            prepare(corpus, tmp_path / kind, **settings_of(kind))
    assert sorted(os.listdir(tmp_path)) == ["x"]
    prepared = prepare(corpus, tmp_path / "byte", vocabulary="byte")
    for split, data in splits.items():
        assert prepared.vocabulary.decode_bytes(prepared.arrays[split]) == data


@pytest.mark.parametrize("kind", VOCABULARY_KINDS)
@pytest.mark.parametrize(
    "train",
    [
        "\n" * 1000,
        "\r\n" * 100,
        "\0" * 100 + "\n",
        "\u200b\u200d\ufeff\n" * 9,
        "\ud83d\ude00".encode("utf-16", "surrogatepass").decode("utf-16") * 40,
        b"ok\xed\xa0\x80\n",
        "\u05e9\u05dc\u05d5\u05dd \u202eabc\n" * 30,
        "e\u0301\u0327" * 50,
        " \t \u3000",
        "",
    ],
    ids=range(10),
)
def test_odd_text_is_prepared_or_refused_with_one_error(tmp_path, kind, train):
    folder = folder_of(tmp_path / "x", train=train, valid="a\n", test="a\n")
    try:
        prepared = prepare(load_corpus("wikitext2", folder), tmp_path / "p", **settings_of(kind))
    except ValueError as error:
        assert len(str(error)) > 30
        assert os.listdir(tmp_path) == ["x"]
        return
    data = train if isinstance(train, bytes) else train.encode("utf-8")
    if kind == "byte":
        assert prepared.vocabulary.decode_bytes(prepared.arrays["train"]) == data
    elif kind == "character":
        assert prepared.vocabulary.decode(prepared.arrays["train"]) == data.decode("utf-8")


@pytest.mark.slow
def test_a_line_of_50_megabytes(tmp_path):
    line = "word and another, " * (50_000_000 // 18)
    folder = folder_of(tmp_path / "x", train=line, valid="word\n", test="word\n")
    prepared = prepare(load_corpus("wikitext2", folder), tmp_path / "words")
    assert prepared.vocabulary.tokens[:3] == ("and", "another,", "word")
    assert prepared.counts[:3].tolist() == [len(line) // 18] * 3
    assert np.count_nonzero(prepared.arrays["train"] == prepared.vocabulary.eos_id) == 1
    folder_of(tmp_path / "x", train=line.replace(" ", ""))
    whole = prepare(load_corpus("wikitext2", folder), tmp_path / "one word")
    assert sorted(map(len, whole.vocabulary.tokens)) == [5, 5, 15 * (len(line) // 18)]


# Processes -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "kind",
    [
        pytest.param(kind, marks=[] if kind in ("word", "sentencepiece") else pytest.mark.slow)
        for kind in VOCABULARY_KINDS
    ],
)
def test_the_number_of_processes_does_not_matter(tmp_path, kind, monkeypatch):
    monkeypatch.setattr("data_utils.blocks.BLOCK_BYTES", 64)
    generator = random.Random(8)
    texts = {s: "".join(random_text(generator, 200) for _ in range(30)) for s in ("train", "test")}
    folder = folder_of(tmp_path / "x", **texts, valid="a b\n")
    corpus = load_corpus("wikitext2", folder)
    found = []
    for processes in (1, 2, 3):
        directory = tmp_path / str(processes)
        prepare(corpus, directory, **settings_of(kind), num_processes=processes)
        found.append(contents(directory))
    assert found[0] == found[1] == found[2]
    assert set(os.listdir(tmp_path)) == {"x", "1", "2", "3"}
    assert not psutil.Process().children()


def test_errors_of_a_process_are_those_of_one(tmp_path):
    folder = folder_of(tmp_path / "x", train=b"ok\n\xff\n", valid="a\n", test="a\n")
    messages = []
    for processes in (1, 2):
        with pytest.raises(ValueError, match="byte 0xff at offset 3") as raised:
            prepare(load_corpus("wikitext2", folder), tmp_path / "p", num_processes=processes)
        messages.append(str(raised.value))
    assert messages[0] == messages[1]
    assert os.listdir(tmp_path) == ["x"]
    assert not psutil.Process().children()


def test_a_process_that_is_killed_is_noticed(tmp_path, monkeypatch):
    monkeypatch.setattr("data_utils.blocks.BLOCK_BYTES", 64)
    monkeypatch.setattr("data_utils.corpus._REPORT_BYTES", 1000)
    folder = folder_of(tmp_path / "x", train="some words\n" * 9000, valid="a\n", test="a\n")

    def kill(message):
        if "MB of text read" in message:
            for child in psutil.Process().children():
                child.kill()

    with pytest.raises(ChildProcessError, match="ended with code -9"):
        prepare(load_corpus("wikitext2", folder), tmp_path / "p", progress=kill, num_processes=2)
    assert os.listdir(tmp_path) == ["x"]


def test_what_a_killed_preparation_left_is_removed(tmp_path):
    folder = folder_of(tmp_path / "x", train="a\n", valid="a\n", test="a\n")
    corpus = load_corpus("wikitext2", folder)
    pid = os.fork()
    if not pid:
        prepare(corpus, tmp_path / "p", progress=lambda _: os.kill(os.getpid(), signal.SIGKILL))
    os.waitpid(pid, 0)
    (left,) = [path for path in tmp_path.iterdir() if path.name.endswith(".partial")]
    assert (left / "lock").exists()
    prepare(corpus, tmp_path / "p")
    assert left.exists(), "perhaps its process is only slow"
    os.utime(left, (time.time() - 3600,) * 2)
    (tmp_path / "p").rename(tmp_path / "q")
    prepare(corpus, tmp_path / "p")
    assert sorted(os.listdir(tmp_path)) == ["p", "q", "x"]


# Shards and settings -------------------------------------------------------------------------


def test_large_splits_become_shards_of_one_order(tmp_path, monkeypatch):
    monkeypatch.setattr("data_utils.blocks.BLOCK_BYTES", 16)
    generator = random.Random(9)
    text = "".join(generator.choices("abc \n", k=997)) + "\n"
    folder = folder_of(tmp_path / "x", train=text, valid="a\n", test="b\n")
    whole = prepare(load_corpus("wikitext2", folder), tmp_path / "whole")
    monkeypatch.setattr("data_utils.id_arrays.SHARD_TOKENS", 100)
    sharded = prepare(load_corpus("wikitext2", folder), tmp_path / "sharded")
    expected, found = np.array(whole.arrays["train"]), sharded.arrays["train"]
    files = sorted(path.name for path in (tmp_path / "sharded").glob("train-*"))
    assert len(files) == -(-expected.size // 100) > 3
    assert files[0] == f"train-00000-of-{len(files):05}.npy"
    assert (len(found), found.dtype, found.shape) == (len(expected), expected.dtype, expected.shape)
    np.testing.assert_array_equal(np.asarray(found), expected)
    for _ in range(300):
        a, b = generator.randrange(-50, 1100), generator.randrange(-50, 1100)
        np.testing.assert_array_equal(found[a:b], expected[a:b])
    assert found[-1] == expected[-1]
    (tmp_path / "sharded" / files[1]).unlink()
    with pytest.raises(ValueError, match=rf"{files[1]}: it is missing"):
        open_prepared(tmp_path / "sharded")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"vocabulary": "bpe"}, "one of word, character, byte, sentencepiece. Received: 'bpe'"),
        ({"max_size": 2}, "vocabulary_size must be at least 3 for word.*Received: 2"),
        ({"vocabulary": "character", "max_size": 1}, "at least 2 for character.*Received: 1"),
        ({"vocabulary": "byte", "max_size": 9}, "256 tokens. Received a size of 9"),
        ({"vocabulary": "byte", "lowercase": True}, "Bytes are not lower-cased"),
        ({"vocabulary": "byte", "min_count": 2}, "words and characters. Received 2 for byte"),
        ({"vocabulary": "sentencepiece"}, "at least 260, .* Received: None"),
        ({"vocabulary": "sentencepiece", "max_size": 259}, "at least 260, .* Received: 259"),
        ({"vocabulary": "sentencepiece", "max_size": 9000}, "cannot make 9000 pieces"),
        ({"piece_model": "bpe"}, "is for the vocabulary sentencepiece. Received 'bpe' for word"),
        ({"vocabulary": "sentencepiece", "piece_model": "no/file"}, "no file no/file"),
        ({"num_processes": 0}, "num_processes must be at least 1"),
    ],
)
def test_settings_that_will_not_do(tmp_path, settings, message):
    folder = folder_of(tmp_path / "x", train="a b\n" * 50, valid="a\n", test="b\n")
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        prepare(load_corpus("wikitext2", folder), tmp_path / "p", **settings)
    assert os.listdir(tmp_path) == ["x"]


def test_documents(tmp_path, small_blocks):
    articles = " \n = One = \n \n a b \n = not = \n \n = = Sub = = \n \n c \n \n = Two = \n \n d \n"
    folder = folder_of(tmp_path / "x", train=articles, valid="a\n", test="a\n")
    prepared = prepare(load_corpus("wikitext2", folder), tmp_path / "p")
    starts = prepared.documents["train"]
    assert starts.tolist() == [0, 23]
    text = prepared.vocabulary.decode(prepared.arrays["train"][starts[1] :])
    assert text == "\n= Two =\n\nd\n"
    for name, line in (("1", "a b\nc\n"), ("2", "d\n"), ("3", "e"), ("4", "f\n")):
        write(tmp_path / "y" / f"{name}.txt", line * 30)
    prepared = prepare(load_corpus("text", tmp_path / "y"), tmp_path / "py", vocabulary="byte")
    train = bytes(prepared.vocabulary.decode_bytes(prepared.arrays["train"]))
    begins = prepared.documents["train"].tolist()
    assert [train[i : i + 2] for i in begins] == [b"a ", b"d\n", b"ee", b"f\n"]


def test_a_file_that_begins_with_blocks_of_white_space_is_a_document(tmp_path, small_blocks):
    for name, text in (("1", "a b\n" * 30), ("2", "\n" * 50 + "c d\n" * 30), ("3", "e\n" * 9)):
        write(tmp_path / "x" / f"{name}.txt", text)
    prepared = prepare(load_corpus("text", tmp_path / "x"), tmp_path / "p", min_count=1)
    starts, train = prepared.documents["train"], prepared.arrays["train"]
    assert [prepared.vocabulary.tokens[train[start]] for start in starts] == ["a", "c"]
