"""The registry of corpora: data_utils/corpora.py."""

import re
from pathlib import Path

import pytest

import data_utils
from data_utils import CORPUS_NAMES, VOCABULARY_KINDS, is_of_sentences, load_corpus
from data_utils.corpora import REGISTRY
from tests.corpus_files import all_lines, write, write_wiki


def test_registry():
    assert set(CORPUS_NAMES) == {
        *("enwik8", "lm1b", "ptb", "sotu", "text", "text8", "tinyshakespeare"),
        *("wikitext2", "wikitext103"),
    }
    message = r"one of enwik8, lm1b, .*, or tfds:<name>/<config>:<feature>\. Received: 'wiki'"
    with pytest.raises(ValueError, match=message):
        load_corpus("wiki")
    for name, entry in REGISTRY.items():
        assert entry.licence, name
        assert entry.unit in ("word", "character")
        assert entry.vocabulary in VOCABULARY_KINDS
        for download in entry.downloads:
            assert re.fullmatch(r"[0-9a-f]{64}", download.sha256)
            assert download.num_bytes > 100_000
            assert all(re.match(r"https?://", url) for url in download.urls)
            # Dead since 2024, and in most scripts all the same.
            assert not any("research.metamind.io" in url for url in download.urls)


def test_which_corpora_are_sentences_is_known_before_they_are_read():
    assert [name for name in CORPUS_NAMES if is_of_sentences(name)] == ["lm1b"]
    kinds = [kind for kind in VOCABULARY_KINDS if is_of_sentences("lm1b", kind)]
    assert kinds == ["word", "sentencepiece"]
    assert not is_of_sentences("tfds:lm1b:text")


def test_unknown_split(tmp_path):
    corpus = load_corpus("wikitext2", write_wiki(tmp_path))
    with pytest.raises(ValueError, match="has the splits train, valid, test. Received: 'dev'"):
        list(corpus.lines("dev"))


def test_fingerprint_depends_on_text_splits_and_rules_only(tmp_path):
    for folder in ("a", "b"):
        write(tmp_path / folder / "train.txt", "x y\nz")
        write(tmp_path / folder / "valid.txt", "x")
    original = load_corpus("text", tmp_path / "a").fingerprint()
    assert len(original) == 64
    assert load_corpus("text", tmp_path / "b").fingerprint() == original
    (tmp_path / "b" / "valid.txt").rename(tmp_path / "b" / "val.md")
    assert load_corpus("text", tmp_path / "b").fingerprint() == original
    others = set()
    write(tmp_path / "b" / "val.md", "X")
    others.add(load_corpus("text", tmp_path / "b").fingerprint())
    write(tmp_path / "b" / "val.md", "x")
    write(tmp_path / "b" / "test.md", "x")
    others.add(load_corpus("text", tmp_path / "b").fingerprint())
    write_wiki(tmp_path / "c")
    others.add(load_corpus("text", tmp_path / "c").fingerprint())
    others.add(load_corpus("wikitext2", tmp_path / "c").fingerprint())
    assert len(others | {original}) == 5


def test_the_split_is_part_of_the_fingerprint(tmp_path):
    one = load_corpus("text", write(tmp_path / "all.txt", "a\nb\nc\n"))
    for split, text in zip(("train", "valid", "test"), "abc", strict=True):
        write(tmp_path / "given" / f"{split}.txt", f"{text}\n")
    given = load_corpus("text", tmp_path / "given")
    assert all_lines(one) == all_lines(given)
    assert one.fingerprint() == given.fingerprint()
    write(tmp_path / "given" / "train.txt", "a\nb\n")
    write(tmp_path / "given" / "valid.txt", "c\n")
    assert load_corpus("text", tmp_path / "given").fingerprint() != one.fingerprint()


def test_public_names():
    public = {name for name in vars(data_utils) if not name.startswith("_")}
    modules = {path.stem for path in Path(data_utils.__file__).parent.glob("*.py")}
    assert public - modules - {"builders"} == set(data_utils.__all__)
