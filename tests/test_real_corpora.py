"""The built-in corpus and the genuine WikiText-2, prepared."""

import collections
import json
import math
import os
import re
import zipfile
from pathlib import Path

import numpy as np
import pytest

from data_utils import (
    EvalSegments,
    TrainSegments,
    WordVocabulary,
    load_corpus,
    prepare,
    unigram_nll,
)

REPOSITORY = Path(__file__).resolve().parents[1]
SHARED_WIKITEXT2 = REPOSITORY.parent / "shared" / "data" / "wikitext-2.zip"


@pytest.fixture(scope="module")
def prepared_sotu(tmp_path_factory):
    return prepare(load_corpus("sotu"), tmp_path_factory.mktemp("sotu") / "prepared")


def test_sotu_counts(prepared_sotu):
    """The figures of the built-in corpus; they change with the tokenization only."""
    sizes = {split: len(array) for split, array in prepared_sotu.arrays.items()}
    assert sizes == {"train": 2_012_955, "valid": 106_207, "test": 115_908}
    assert prepared_sotu.vocabulary.size == 17_268
    assert prepared_sotu.num_unknown == {"train": 17_159, "valid": 1_386, "test": 1_447}
    assert prepared_sotu.num_unknown["test"] / sizes["test"] <= 0.02
    assert prepared_sotu.warnings == ()
    assert prepared_sotu.arrays["train"].dtype == np.uint16
    perplexity = {
        split: math.exp(unigram_nll(prepared_sotu.counts, prepared_sotu.arrays[split]))
        for split in ("valid", "test")
    }
    assert perplexity == pytest.approx({"valid": 658.03, "test": 632.28}, abs=0.01)


def test_sotu_agrees_with_a_slow_reading(prepared_sotu):
    """Reads the test split anew, with nothing of ours but the places of the files."""
    pattern = re.compile(r"\w+(?:['’]\w+)*|[^\w\s]")
    tokens, num_characters = [], 0
    for source in load_corpus("sotu").sources["test"]:
        for line in source.path.read_text(encoding="utf-8").split("\n"):
            if line.strip():
                tokens += [*pattern.findall(line), "<eos>"]
                num_characters += len(line) + 1
    known = set(prepared_sotu.vocabulary.tokens)
    expected = [token if token in known else "<unk>" for token in tokens]
    found = [prepared_sotu.vocabulary.tokens[i] for i in prepared_sotu.arrays["test"]]
    assert found == expected
    assert prepared_sotu.num_characters["test"] == num_characters


def test_ids_are_sorted_by_the_counts_of_the_array(prepared_sotu):
    occurrences = np.bincount(
        prepared_sotu.arrays["train"], minlength=prepared_sotu.vocabulary.size
    )
    np.testing.assert_array_equal(occurrences, prepared_sotu.counts)
    assert (np.diff(prepared_sotu.counts) <= 0).all()
    words = set(prepared_sotu.vocabulary.tokens) - {"<eos>", "<unk>"}
    assert min(prepared_sotu.counts[prepared_sotu.vocabulary.encode(sorted(words))]) == 3


def test_sotu_to_batches_and_back(prepared_sotu):
    train = TrainSegments(prepared_sotu.arrays["train"], 2, 40)
    text = prepared_sotu.vocabulary.decode(train.batch(0).inputs[0])
    assert text.startswith(
        "Fellow-Citizens of the Senate and House of Representatives:\nI embrace with great"
    )
    evaluation = EvalSegments(
        prepared_sotu.arrays["test"], prepared_sotu.vocabulary.eos_id, 10, 1000
    )
    assert sum(batch.weights.numpy().sum() for batch in evaluation.dataset()) == 115_908


def wikitext2_source() -> Path:
    given = os.environ.get("WIKITEXT2_DIR")
    if not given and not SHARED_WIKITEXT2.exists():
        pytest.skip("needs WikiText-2: set WIKITEXT2_DIR to its folder or zip")
    return Path(given or SHARED_WIKITEXT2)


@pytest.mark.wikitext2
def test_wikitext2_has_the_published_counts(tmp_path):
    source = wikitext2_source()
    prepared = prepare(load_corpus("wikitext2", source), tmp_path / "prepared")
    assert {split: len(array) for split, array in prepared.arrays.items()} == {
        "train": 2_088_628,
        "valid": 217_646,
        "test": 245_569,
    }
    assert prepared.vocabulary.size == 33_278
    assert prepared.warnings == ()
    # By the published convention a word is a token, a line's end included.
    assert prepared.num_words == {split: len(array) for split, array in prepared.arrays.items()}
    assert prepared.vocabulary.tokens[:5] == ("the", ",", ".", "of", "<unk>")
    np.testing.assert_array_equal(np.bincount(prepared.arrays["train"]), prepared.counts)
    assert TrainSegments(prepared.arrays["train"], 16, 64).steps_per_epoch == 2039
    if source.suffix == ".zip":
        with zipfile.ZipFile(source) as archive:
            (member,) = (n for n in archive.namelist() if n.endswith(("test.txt", "test.tokens")))
            raw = archive.read(member).decode("utf-8")
        tokens = raw.replace("\n", " <eos> ").split()
        assert [prepared.vocabulary.tokens[i] for i in prepared.arrays["test"]] == tokens
        assert prepared.num_characters["test"] == len(raw)


def test_the_meta_file_is_readable(prepared_sotu):
    meta = json.loads((prepared_sotu.directory / "meta.json").read_text(encoding="utf-8"))
    assert meta["settings"] == {
        "kind": "word",
        "tokenization": "words",
        "min_count": 3,
        "max_size": None,
        "piece_model": None,
    }
    assert collections.Counter(meta["splits"]["valid"].keys()) == collections.Counter(
        ["tokens", "unknown", "characters", "words", "source_bytes", "files", "documents"]
    )
    vocabulary = WordVocabulary.load(prepared_sotu.directory / "vocabulary.txt")
    assert vocabulary.tokens == prepared_sotu.vocabulary.tokens
