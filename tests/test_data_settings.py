"""The command line's settings of data: vocabularies, preparation ahead of time, cutoffs."""

import json
import math
import random
import re

import numpy as np
import pytest

from data_utils import PieceVocabulary, load_corpus, load_vocabulary, prepare
from data_utils.prepared_report import preparation_report
from modes import training
from tests.corpus_files import PIECES, random_text
from tests.test_preparation import folder_of
from tests.test_train import SMALL, run, text  # noqa: F401, a fixture
from transformer_xl import ModelConfig
from transformer_xl.auto_cutoffs import auto_cutoffs
from transformer_xl.training.evaluate import EvalResult

pytestmark = pytest.mark.usefixtures(
    "graphs_as_written", "short_evaluation_steps", "without_samples"
)

TINY = [a for a in SMALL if not a.startswith(("--cutoffs", "--vocabulary_min", "--max_steps"))]
TINY += ["--max_steps=2", "--eval_steps=1"]


@pytest.mark.parametrize(
    ("arguments", "kind"),
    [
        pytest.param(["--vocabulary=character", "--cutoffs="], "character", marks=pytest.mark.slow),
        pytest.param(["--vocabulary=byte", "--cutoffs=auto"], "byte", marks=pytest.mark.slow),
        (["--vocabulary=sentencepiece", "--vocabulary_size=276", "--cutoffs=9"], "sentencepiece"),
        pytest.param(
            ["--lowercase", "--cutoffs=auto", "--variable_length", "--roll_streams"],
            "word",
            marks=pytest.mark.slow,
        ),
        pytest.param(["--vocabulary=word", "--reset_memory"], "word", marks=pytest.mark.slow),
    ],
)
def test_every_vocabulary_is_trained_and_writes_text(
    text,  # noqa: F811
    tmp_path,
    capsys,
    monkeypatch,
    arguments,
    kind,
):
    directory = tmp_path / "run"
    arguments = [*TINY, f"--data_dir={text}", f"--workdir={directory}", *arguments]
    assert run(*arguments) == 0
    printed = capsys.readouterr().out
    meta = json.loads((directory / "data" / "meta.json").read_text())
    assert meta["settings"]["kind"] == kind
    result = json.loads((directory / "result.json").read_text())["test"]
    total = result["nll"] * result["tokens"]
    words = meta["splits"]["test"]["words"]
    assert result["perplexity_per_word"] == pytest.approx(math.exp(total / words))
    assert ("per word" in printed) == (words != result["tokens"])
    # Once more, with what was recorded, and what was chosen is not chosen anew. How training then
    # goes on is test_train's.
    with monkeypatch.context() as patch:
        started = []
        patch.setattr(training, "_train", lambda *given: started.append(given))
        assert run(*arguments, "--max_steps=3") == 0
    assert started
    assert run("--mode=eval", f"--workdir={directory}") == 0
    capsys.readouterr()
    generate = ["--mode=generate", f"--workdir={directory}", "--num_tokens=3"]
    assert run(*generate, "--prompt=Ann sees") == 0
    start = "ann sees" if "--lowercase" in arguments else "Ann sees"
    assert capsys.readouterr().out.startswith(start)
    if kind == "character":
        assert run(*generate, "--prompt=Ωß") == 2
        assert "in the vocabulary, which has no <unk>" in capsys.readouterr().err


def test_preparing_ahead_of_time_reports_and_is_used(
    text,  # noqa: F811
    tmp_path,
    capsys,
    monkeypatch,
):
    arguments = [*TINY, f"--data_dir={text}", f"--workdir={tmp_path}/run", "--cutoffs=3,9"]
    assert run(*arguments, "--mode=prepare") == 0
    printed = capsys.readouterr().out
    meta = json.loads((tmp_path / "run" / "data" / "meta.json").read_text())
    tokens = meta["splits"]["train"]["tokens"]
    assert re.search(rf"train +{tokens:,} ", printed)
    array = np.load(tmp_path / "run" / "data" / "train.npy")
    for name, a, b in (("head", 0, 3), ("tail 1", 3, 9), ("tail 2", 9, 99)):
        share = np.count_nonzero((array >= a) & (array < b)) / tokens
        assert re.search(rf"{name} .* {share:.2%}", printed), (name, printed)
    assert not (tmp_path / "run" / "config.json").exists()
    # Training begins with it; how it goes on is test_train.py's.
    started = []
    monkeypatch.setattr(training, "_train", lambda *given: started.append(given))
    assert run(*arguments) == 0
    assert started
    assert "is prepared already" in capsys.readouterr().out


def test_bytes_per_token_and_unknown_words_of_the_report(tmp_path):
    folder = folder_of(tmp_path / "x", train="a a b\n", valid="é a\n", test="a\n")
    prepared = prepare(load_corpus("wikitext2", folder), tmp_path / "p")
    report = preparation_report(prepared, (2,))
    # "é a" and the line's end have 5 bytes and are 3 tokens, one of them unknown.
    assert re.search(r"valid +3 +3 +33.33% +1.667 +1.000 +1\n", report)
    with pytest.raises(ValueError, match=r"between 1 and 3. Received: 4\."):
        preparation_report(prepared, (4,))


def test_automatic_cutoffs():
    counts = (1e6 / np.arange(1, 8001)).astype(int)
    config = ModelConfig(8000, model_dim=64, num_heads=2, div_val=4)
    cutoffs = auto_cutoffs(counts, 4, config, 1024)
    assert 1 <= len(cutoffs) <= 3
    assert list(cutoffs) == sorted(set(cutoffs))
    assert auto_cutoffs(counts, 1, config, 1024) == ()
    assert auto_cutoffs([9, 5, 3], 4, config, 1024) == (), "too few words to be worth it"
    narrow = ModelConfig(8000, model_dim=8, num_heads=2, div_val=4)
    assert len(auto_cutoffs(counts, 5, narrow, 1024)) <= 1, "widths of 8, 2 and none"
    with pytest.raises(ValueError, match="at least one cluster"):
        auto_cutoffs(counts, 0, config, 1024)


# Pieces --------------------------------------------------------------------------------------


@pytest.mark.parametrize("model", ["unigram", "bpe"])
def test_pieces_are_sorted_and_write_any_text(tmp_path, model):
    generator = random.Random(2)
    train = "".join(random_text(generator, 90) + "the cat sat. The cats\n" for _ in range(200))
    folder = folder_of(tmp_path / "x", train=train, valid="the cat\n", test="a cat\n")
    settings = {"vocabulary": "sentencepiece", "max_size": 330, "piece_model": model}
    prepared = prepare(load_corpus("wikitext2", folder), tmp_path / "p", **settings)
    vocabulary = prepared.vocabulary
    assert isinstance(vocabulary, PieceVocabulary)
    assert vocabulary.size == 330
    found = np.bincount(prepared.arrays["train"], minlength=330)
    np.testing.assert_array_equal(found, vocabulary.counts)
    assert (np.diff(found) <= 0).all()
    assert "<eos>" in vocabulary.tokens[:20]
    vocabulary.save(tmp_path / "v")
    loaded = load_vocabulary(tmp_path / "v")
    assert loaded.fingerprint() == vocabulary.fingerprint()
    for _ in range(500):
        line = random_text(generator, 40).replace("\r", "")
        assert loaded.decode(loaded.encode_text(line)) == line
    line = "".join(PIECES[:6])
    assert loaded.decode(loaded.encode(loaded.tokenize(line))) == line
    with pytest.raises(ValueError, match="lone surrogate"):
        loaded.encode_text("a\ud800")


def test_perplexity_per_word_of_pieces_by_hand(tmp_path):
    """ "new cats" is two words and a line's end; its pieces have these probabilities."""
    folder = folder_of(
        tmp_path / "x", train="new cats\nold dogs\n" * 90, valid="a\n", test="new cats\n"
    )
    settings = {"vocabulary": "sentencepiece", "max_size": 270}
    prepared = prepare(load_corpus("wikitext2", folder), tmp_path / "p", **settings)
    pieces = len(prepared.arrays["test"])
    probabilities = [0.5, 0.25, *([0.1] * (pieces - 2))]
    nll = -sum(math.log(p) for p in probabilities) / pieces
    words, characters = prepared.num_words["test"], prepared.num_characters["test"]
    assert (words, characters) == (3, 9)
    figures = EvalResult(nll, pieces).figures(words, characters)
    product = math.prod(probabilities)
    assert figures["perplexity_per_word"] == pytest.approx(product ** (-1 / 3))
    assert figures["perplexity"] == pytest.approx(product ** (-1 / pieces))
    assert figures["bits_per_character"] == pytest.approx(-math.log2(product) / 9)
