"""Datasets of TensorFlow Datasets: ours, and those of others as corpora."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import tensorflow_datasets as tfds

import data_utils.builders  # noqa: F401, registers them
from data_utils import load_corpus, prepare
from data_utils.tfds_text import _builder
from tests.corpus_files import WIKI, all_lines, write_wiki, write_zip
from tests.http_files import serving
from tests.look_alikes import publish

ROOT = Path(__file__).resolve().parents[1]
NAMES = ("wikitext2", "wikitext103", "ptb", "enwik8", "text8")


@pytest.fixture
def served(monkeypatch):
    with serving() as files:
        files.contents = publish(files, monkeypatch)
        yield files


@pytest.fixture(autouse=True)
def forget_builders():
    yield
    _builder.cache_clear()


def texts(name, split, **arguments) -> list[bytes]:
    dataset = tfds.load(name, split=split, **arguments)
    return [example["text"] for example in dataset.as_numpy_iterator()]


@pytest.mark.parametrize("name", NAMES)
def test_a_builder_downloads_and_keeps_the_order(tmp_path, served, name):
    corpus = load_corpus(name, download_dir=tmp_path / "other")
    for split, ours in (("train", "train"), ("validation", "valid"), ("test", "test")):
        found = texts(name, split, data_dir=tmp_path / "tfds")
        data = b"".join(b"".join(source.blocks()) for source in corpus.sources[ours])
        if name in ("enwik8", "text8"):
            assert b"".join(found) == data
        else:
            assert found == data.removesuffix(b"\n").split(b"\n")
    assert served.requests.total()


def test_long_text_is_cut_into_blocks(tmp_path, monkeypatch, served):
    monkeypatch.setattr("data_utils.builders.text_builders._BLOCK_BYTES", 7)
    found = texts("text8", "train", data_dir=tmp_path)
    assert {len(text) for text in found[:-1]} == {7}
    assert b"".join(found).startswith(b" anarchism originated anarchism")


def test_files_that_are_here_already_are_used(tmp_path, served):
    write_zip(tmp_path / "manual" / "wikitext-2-v1.zip", "wikitext-2/wiki.{}.tokens")
    config = tfds.download.DownloadConfig(manual_dir=tmp_path / "manual")
    found = texts(
        "wikitext2",
        "validation",
        data_dir=tmp_path / "tfds",
        download_and_prepare_kwargs={"download_config": config},
    )
    assert found == WIKI["valid"].encode().removesuffix(b"\n").split(b"\n")
    assert not served.requests
    (tmp_path / "manual" / "wikitext-2-v1.zip").write_bytes(b"no zip")
    with pytest.raises(ValueError, match="not a zip that can be read"):
        tfds.load(
            "wikitext2",
            data_dir=tmp_path / "again",
            download_and_prepare_kwargs={"download_config": config},
        )


def test_a_manual_dir_without_the_files_is_not_the_end(tmp_path, served):
    write_wiki(tmp_path / "manual" / "wikitext-2")
    config = tfds.download.DownloadConfig(manual_dir=tmp_path / "manual")
    found = texts(
        "ptb",
        "test",
        data_dir=tmp_path / "tfds",
        download_and_prepare_kwargs={"download_config": config},
    )
    assert found == [b" b b "]
    assert served.requests


def test_what_to_do_without_a_network(tmp_path, served):
    served.files.clear()
    with pytest.raises(OSError, match=r"(?s)enwik8\.zip could not be downloaded.*put it at"):
        tfds.load("enwik8", data_dir=tmp_path)


def test_nothing_but_an_import_is_needed():
    code = (
        "import tensorflow_datasets as tfds, data_utils.builders\n"
        f"print(*(tfds.builder(name).info.description for name in {NAMES}), sep='|')"
    )
    run = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "2"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert run.stdout.count("|") == 4
    assert "CC BY-SA 3.0" in run.stdout


# As corpora ----------------------------------------------------------------------------------


def test_any_dataset_is_a_corpus(tmp_path, served):
    corpus = load_corpus("tfds:wikitext2", tmp_path / "tfds")
    assert all_lines(corpus)["train"] == [["=", "A", "="], ["the", "cat", "<unk>", "the"]]
    assert corpus.splits == ("train", "valid", "test")
    prepared = prepare(corpus, tmp_path / "p", min_count=1)
    assert prepared.vocabulary.decode(prepared.arrays["valid"]) == "the <unk>\n"
    again = prepare(load_corpus("tfds:wikitext2:text", tmp_path / "tfds"), tmp_path / "q")
    assert again.name == "tfds:wikitext2:text"


def test_datasets_that_will_not_do(tmp_path, served):
    for name, message in (
        ("tfds:", "is named tfds:<name>/<config>:<feature>. Received: 'tfds:'"),
        ("tfds:no_such_dataset_at_all", "has no dataset 'no_such_dataset_at_all'"),
        ("tfds:wikitext2:label", "has the text features text. Received: 'label'"),
    ):
        with pytest.raises(ValueError, match=message):
            load_corpus(name, tmp_path / "tfds")


def test_a_dataset_without_validation(tmp_path):
    builder = tfds.testing.DummyDataset(data_dir=tmp_path)
    builder.download_and_prepare()
    with pytest.raises(ValueError, match="Say which feature .* one of \\(none\\)"):
        load_corpus("tfds:dummy_dataset", tmp_path)
