"""Preparation in the vocabulary of a model, from Python and from the command line."""

import itertools
import json
import random
import re

import numpy as np
import pytest

from data_utils import GivenVocabulary, load_corpus, load_vocabulary, open_prepared, prepare
from tests.golden_files import unpack
from tests.test_init_from import COMMON
from tests.test_preparation import contents, folder_of
from tests.test_train import SMALL, run

TOKENS = ("<eos>", "rare", "b", "<unk>", "a", "never", ",")


@pytest.fixture
def corpus(tmp_path):
    """Lines of words, some of which the model does not have."""
    draw = random.Random(3)
    words = ["a", "b", "rare", "A", "other", "a,b"]

    def lines(count):
        return "".join(" ".join(draw.choices(words, k=6)) + "\n" for _ in range(count))

    texts = {"train": lines(50), "valid": lines(9), "test": lines(5)}
    return load_corpus("text", folder_of(tmp_path / "text", **texts)), texts


@pytest.mark.parametrize("rule", ["whitespace", "words", "whitespace-lower", None])
def test_ids_are_the_models(corpus, rule, tmp_path):
    corpus, texts = corpus
    prepared = prepare(corpus, tmp_path / "p", tokens=TOKENS, tokenization=rule)
    assert isinstance(prepared.vocabulary, GivenVocabulary)
    assert prepared.vocabulary.tokens == TOKENS
    pattern = r"\S+" if rule and "whitespace" in rule else r"\w+|,"
    for split, text in texts.items():
        expected = []
        for line in text.splitlines():
            line = line.lower() if rule and "lower" in rule else line
            words = [*re.findall(pattern, line), "<eos>"]
            expected += [TOKENS.index(word if word in TOKENS else "<unk>") for word in words]
        np.testing.assert_array_equal(prepared.arrays[split], expected)
        assert prepared.num_unknown[split] == expected.count(TOKENS.index("<unk>")) > 0
        if split == "train":
            np.testing.assert_array_equal(prepared.counts, np.bincount(expected, minlength=7))


def test_limits_and_processes_change_nothing(corpus, tmp_path):
    corpus, _ = corpus
    prepare(corpus, tmp_path / "one", tokens=TOKENS)
    limits = {"min_count": 40, "max_size": 4, "num_processes": 2, "vocabulary": "word"}
    prepare(corpus, tmp_path / "two", tokens=TOKENS, **limits)
    assert contents(tmp_path / "one") == contents(tmp_path / "two")
    prepare(corpus, tmp_path / "one", tokens=TOKENS, **limits)


def test_other_tokens_are_other_settings(corpus, tmp_path):
    corpus, _ = corpus
    prepare(corpus, tmp_path / "given", tokens=TOKENS)
    prepare(corpus, tmp_path / "own", min_count=1)
    before = contents(tmp_path / "given")
    message = "given_tokens is [0-9a-f]{64} there, "
    with pytest.raises(ValueError, match=message + "[0-9a-f]{64} now"):
        prepare(corpus, tmp_path / "given", tokens=TOKENS[::-1])
    with pytest.raises(ValueError, match=message + "None now"):
        prepare(corpus, tmp_path / "given", min_count=1)
    with pytest.raises(ValueError, match="given_tokens is None there"):
        prepare(corpus, tmp_path / "own", tokens=TOKENS)
    assert contents(tmp_path / "given") == before


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"tokens": TOKENS[1:]}, "Received none of <eos>"),
        ({"tokens": [*TOKENS, "a"]}, "Received 'a' twice"),
        ({"tokens": [*TOKENS, "a b"]}, "no white space"),
        ({"tokens": [*TOKENS, "\ud800"]}, "lone surrogate"),
        ({"tokens": TOKENS, "vocabulary": "character"}, "one of words. Received 'character'"),
        ({"tokens": TOKENS, "tokenization": "best"}, "A tokenization is one of"),
        ({"tokenization": "words"}, "for given tokens"),
    ],
)
def test_bad_settings(corpus, settings, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        prepare(corpus[0], tmp_path / "p", **settings)
    assert not (tmp_path / "p").exists()


@pytest.mark.slow
def test_preparing_ahead_of_time_for_given_weights(tmp_path, capsys):
    unpack("huggingface_div4_untied", tmp_path / "weights")
    words = ["<eos>", "<unk>", *(f"word{i}" for i in range(51))]
    (tmp_path / "weights" / "vocab.txt").write_text("\n".join(words) + "\n")
    (tmp_path / "text.txt").write_text("word7 word30 else, word50\n" * 200)
    arguments = [*COMMON, f"--init_from={tmp_path}/weights", f"--data_dir={tmp_path}/text.txt"]
    arguments += [f"--workdir={tmp_path}/run"]
    assert run(*arguments, "--mode=prepare") == 0
    printed = capsys.readouterr().out
    # The clusters are the model's; the text is cut at white space, as the model's is.
    for cluster, share in (("head", 3), ("tail 1", 0), ("tail 2", 2)):
        assert re.search(rf"{cluster} .* {share / 5:.2%}", printed), printed
    assert "11 to 28" in printed and "29 to 52" in printed
    assert open_prepared(tmp_path / "run" / "data").vocabulary.tokens == tuple(words)
    assert not (tmp_path / "run" / "config.json").exists()
    assert run(*arguments) == 0
    assert "is prepared already" in capsys.readouterr().out
    assert load_vocabulary(tmp_path / "run" / "vocabulary").tokens == tuple(words)


@pytest.mark.slow
def test_a_run_over_characters_scores_lines_and_is_evaluated_on_other_text(tmp_path, capsys):
    (tmp_path / "text.txt").write_text("Ann\tsees Bob\n" * 200)
    few = [a for a in SMALL if not a.startswith(("--vocabulary_min", "--cutoffs", "--max_steps"))]
    arguments = [*few, "--vocabulary=character", "--cutoffs=auto", "--max_steps=1"]
    arguments += [f"--data_dir={tmp_path}/text.txt", f"--workdir={tmp_path}/run"]
    assert run(*arguments) == 0
    (tmp_path / "lines.txt").write_text("n\tB\n")
    capsys.readouterr()
    score = ["--mode=score", f"--workdir={tmp_path}/run", f"--input_file={tmp_path}/lines.txt"]
    assert run(*score) == 0
    rows = [line.split("\t") for line in capsys.readouterr().out.splitlines()[1:]]
    assert [row[2] for row in rows] == ["n", r"\t", "B", r"\n", "4"]
    assert run(*score, "--score_format=jsonl") == 0
    (line,) = capsys.readouterr().out.splitlines()
    assert [token["token"] for token in json.loads(line)["tokens"]] == ["n", "\t", "B", "\n"]
    weights = f"--init_from={tmp_path}/run"
    given = [weights, f"--data_dir={tmp_path}/text.txt", "--mode=eval"]
    lengths = ["--eval_segment_length=8", "--eval_memory_length=8", "--eval_batch_size=2"]
    assert run(*COMMON, *given, f"--workdir={tmp_path}/new", *lengths) == 0
    assert run("--mode=eval", f"--workdir={tmp_path}/run", *lengths) == 0
    here, there = (
        json.loads((tmp_path / name / "eval.json").read_text()) for name in ("new", "run")
    )
    assert here["test"]["nll"] == pytest.approx(there["test"]["nll"], rel=1e-6)
    assert here["test"]["bits_per_character"] > 0
    # Other modes begin with it too, and a text with other characters is one error.
    explore = ["--mode=explore", weights, f"--input_file={tmp_path}/lines.txt"]
    assert run(*explore, f"--output={tmp_path}/page.html", "--jit_compile=false") == 0
    assert "⇥" in (tmp_path / "page.html").read_text("utf-8")
    (tmp_path / "other.txt").write_text("Ann sees Zoë\n" * 200)
    given[1] = f"--data_dir={tmp_path}/other.txt"
    assert run(*COMMON, *given, f"--workdir={tmp_path}/other") == 2
    errors = capsys.readouterr().err
    assert "Received 'Z', 'ë'" in errors
    assert not (tmp_path / "other" / "data").exists()


@pytest.mark.parametrize("kind", ["character", "byte", "sentencepiece"])
def test_other_kinds_are_taken_as_they_are(kind, tmp_path):
    """Ids of one text in the order of another's frequencies, by the vocabulary itself."""
    draw = random.Random(4)
    texts = {}
    for name, words in (("old", ["Ann", "sees", "Bob"] + LETTERS), ("new", ["Bob", "Bob", "nnA"])):
        lines = ["".join(f"{draw.choice(words)} " for _ in range(6)) + "\n" for _ in range(60)]
        texts[name] = {"train": "".join(lines), "valid": lines[0], "test": lines[1]}
    corpora = {
        name: load_corpus("text", folder_of(tmp_path / f"{name}_text", **splits))
        for name, splits in texts.items()
    }
    sizes = {"old": 280, "new": 264} if kind == "sentencepiece" else {}

    def counted(name, folder):
        size = sizes.get(name)
        return prepare(corpora[name], tmp_path / folder, vocabulary=kind, max_size=size).vocabulary

    old = counted("old", "old")
    new = prepare(corpora["new"], tmp_path / "new", given_vocabulary=old, max_size=3)
    assert new.vocabulary.fingerprint() == old.fingerprint()
    for split, text in texts["new"].items():
        np.testing.assert_array_equal(new.arrays[split], old.encode_text(text))
        assert new.num_unknown[split] == 0
    own = counted("new", "own")
    assert own.tokens != old.tokens
    for settings, message in (
        ({"given_vocabulary": own}, "given_tokens is [0-9a-f]{64} there"),
        ({"given_vocabulary": old, "vocabulary": "word"}, f"of the kind {kind}. Received 'word'"),
        ({"given_vocabulary": old, "lowercase": True}, "not made for text in lower case"),
    ):
        with pytest.raises(ValueError, match=message):
            prepare(corpora["new"], tmp_path / "new", **settings)
    prepare(corpora["new"], tmp_path / "new", given_vocabulary=old)


# So many that SentencePiece has something to learn, and all characters of the other text.
LETTERS = ["".join(letters) for letters in itertools.permutations("Anosebd", 3)]
