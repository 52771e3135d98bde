"""--mode=score: log-probabilities of lines, in context and alone."""

import dataclasses
import io
import json
import os
import random
import re
import threading

import numpy as np
import pytest
from absl.testing import flagsaver

import train
from data_utils import ByteVocabulary, EvalSegments, load_corpus, prepare
from modes.scoring import LineScorer, open_lines
from tests.golden_files import unpack
from transformer_xl import ModelConfig, TrainConfig, TransformerXL
from transformer_xl.config import evaluation_lengths
from transformer_xl.pretrained import load_huggingface
from transformer_xl.score import make_score_step, score_alone, score_in_context
from transformer_xl.training.evaluate import Evaluator

pytestmark = pytest.mark.usefixtures("graphs_as_written", "short_evaluation_steps")

LENGTH = 5
SETTINGS = [f"--eval_segment_length={LENGTH}", "--jit_compile=false"]


def run(*arguments):
    """What `python train.py` does, in this process; the exit code."""
    with flagsaver.flagsaver():
        try:
            train.main(train.parse_flags(["train.py", *SETTINGS, *arguments]))
        except SystemExit as end:
            return end.code
    return 0


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """A model of HuggingFace's with a vocabulary."""
    directory = tmp_path_factory.mktemp("weights")
    unpack("huggingface_shared_biases", directory)
    unpack("huggingface_vocabulary", directory / "files")
    (directory / "vocab.txt").write_bytes((directory / "files" / "vocab.txt").read_bytes())
    return directory


@pytest.fixture(scope="module")
def model(weights):
    return load_huggingface(str(weights))


@pytest.fixture(scope="module")
def step(model):
    return make_score_step(model[0])


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    """A folder with the three splits; some words are unknown, some lines longer than a segment."""
    draw = random.Random(1)
    words = [f"word{i}" for i in range(40)] + ["strange", "odd", "the", ","]
    directory = tmp_path_factory.mktemp("text")
    for split, count in (("train", 30), ("valid", 11), ("test", 1)):
        lines = [" ".join(draw.choices(words, k=draw.randint(1, 14))) for _ in range(count)]
        (directory / f"{split}.txt").write_text("\n".join(lines) + "\n")
    return directory


def scored(capsys, *arguments):
    """The objects that --score_format=jsonl writes."""
    capsys.readouterr()
    assert run("--mode=score", "--score_format=jsonl", *arguments) == 0
    return [json.loads(line) for line in capsys.readouterr().out.splitlines()]


def expected(model, tokens, lines, memory=None):
    """Log-probabilities of ids line by line, from the whole distribution, one segment at a time."""
    result, ids = [], np.concatenate(lines)
    memory = model.initial_memory(1)
    inputs = np.concatenate([[tokens.index("<eos>")], ids[:-1]]).astype("int32")
    for start in range(0, len(ids), LENGTH):
        now = slice(start, start + LENGTH)
        log_prob, memory = model.log_prob(inputs[None, now], memory)
        result += log_prob.numpy()[0, range(len(ids[now])), ids[now]].tolist()
    ends = np.cumsum([len(line) for line in lines])[:-1]
    return np.split(np.array(result), ends)


def ids_of(path, tokens):
    index = {token: i for i, token in enumerate(tokens)}
    lines = path.read_text().splitlines()
    return [
        np.array([index.get(word, index["<unk>"]) for word in [*line.split(), "<eos>"]])
        for line in lines
    ]


@pytest.mark.parametrize("context", [True, False])
def test_every_token(context, weights, model, text, capsys):
    network, tokens = model
    lines = ids_of(text / "valid.txt", tokens)
    if context:
        numbers = expected(network, tokens, lines)
    else:
        numbers = [expected(network, tokens, [line])[0] for line in lines]
    flags = [f"--{'' if context else 'no'}score_context", "--eval_batch_size=4"]
    scores = scored(capsys, f"--init_from={weights}", f"--input_file={text}/valid.txt", *flags)
    assert [score["line"] for score in scores] == list(range(1, 12))
    words = [line.split() for line in (text / "valid.txt").read_text().splitlines()]
    for score, line, log_prob in zip(scores, words, numbers):
        assert [row["token"] for row in score["tokens"]] == [*line, "<eos>"]
        np.testing.assert_allclose(
            [row["log_prob"] for row in score["tokens"]], log_prob, rtol=0, atol=2e-5
        )
        assert score["log_prob"] == pytest.approx(log_prob.sum(), abs=1e-4)
        unknown = [word in ("strange", "odd") for word in [*line, "<eos>"]]
        assert [row["unknown"] for row in score["tokens"]] == unknown
        assert (score["num_tokens"], score["num_unknown"]) == (len(line) + 1, sum(unknown))
    assert sum(score["num_unknown"] for score in scores)


@pytest.mark.parametrize("split", [pytest.param("valid", marks=pytest.mark.slow), "test"])
def test_totals_equal_evaluation(split, weights, text, tmp_path, capsys):
    given = f"--init_from={weights}"
    evaluation = ["--mode=eval", "--corpus=text", f"--data_dir={text}", f"--workdir={tmp_path}/e"]
    assert run(given, *evaluation, "--eval_batch_size=1") == 0
    result = json.loads((tmp_path / "e" / "eval.json").read_text())[split]
    scores = scored(capsys, given, f"--input_file={text}/{split}.txt")
    assert sum(score["num_tokens"] for score in scores) == result["tokens"]
    total = sum(score["log_prob"] for score in scores)
    assert total == pytest.approx(-result["nll"] * result["tokens"], abs=1e-4)


@pytest.mark.parametrize("batch_size", [pytest.param(1, marks=pytest.mark.slow), 7, 100])
def test_lines_alone_do_not_depend_on_the_others(batch_size, model, step, text):
    network, tokens = model
    lines = [*ids_of(text / "valid.txt", tokens), np.zeros(0, int)]

    def alone(lines, rows):
        memory = network.initial_memory(rows)
        return list(score_alone(step, iter(lines), memory, 0, LENGTH))

    together = alone(lines, batch_size)
    assert len(together) == len(lines)
    for line, log_prob in zip(lines, together):
        np.testing.assert_allclose(log_prob, alone([line], 1)[0], rtol=0, atol=1e-5)


@pytest.mark.parametrize("score", [score_in_context, score_alone])
@pytest.mark.parametrize(
    "line, message",
    [
        ([3, 99, 1], "must be ids from 0 to {}. Received ids from 0 to 99"),
        ([3, -1], "must be ids from 0 to {}. Received ids from -1 to 3"),
        ([2**32 + 3], "Received ids from 0 to 4294967299"),  # of which int32 has the 3
        ([0.5, 1.0], r"A line must be integer ids .*Received: dtype float64, shape \(2,\)"),
        ([[3, 1]], r"A line must be integer ids .*Received: dtype int64, shape \(1, 2\)"),
    ],
)
def test_lines_that_are_no_ids_are_refused(score, line, message, model, step):
    network, _ = model
    memory = network.initial_memory(1)
    last = network.config.vocab_size - 1
    with pytest.raises(ValueError, match=message.format(last)):
        list(score(step, [[3, 1], line], memory, 0, LENGTH))
    with pytest.raises(ValueError, match=f"Tokens must be ids from 0 to {last}. Received ids from"):
        list(score(step, [[3, 1]], memory, last + 1, LENGTH))


@pytest.mark.parametrize("score", [score_in_context, score_alone])
@pytest.mark.parametrize("length", [0, -1, 2.5, None])
def test_no_tokens_at_a_time_are_refused(score, length, model):
    network, _ = model
    message = f"segment_length must be an integer of at least 1. Received: {length}"
    with pytest.raises(ValueError, match=message):
        next(score(make_score_step(network), [[3, 1]], network.initial_memory(1), 0, length))


def test_lines_come_as_soon_as_they_are_known(model, step):
    """In context a line waits for the end of a segment, and for no line after it."""
    network, _ = model
    taken = []

    def lines():
        for number, length in enumerate([3, 2, 0, 4, 9, 1]):
            taken.append(number)
            yield np.full(length, 7)

    scores = score_in_context(step, lines(), network.initial_memory(1), 0, LENGTH)
    seen = []
    for number, score in enumerate(scores):
        seen.append((number, len(score), taken[-1]))
    assert seen == [(0, 3, 1), (1, 2, 1), (2, 0, 2), (3, 4, 4), (4, 9, 5), (5, 1, 5)]


@pytest.mark.parametrize("name", [(), ("--input_file=-",)])
def test_tsv_from_standard_input(name, weights, capsys, monkeypatch):
    content = b"word1 odd\n\nthe"
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(content)))
    assert run("--mode=score", f"--init_from={weights}", *name) == 0
    out, err = capsys.readouterr()
    rows = [line.split("\t") for line in out.splitlines()]
    assert rows[0] == ["line", "place", "token", "log_prob", "unknown"]
    assert [row[:3] + row[4:] for row in rows[1:]] == [
        ["1", "1", "word1", "0"],
        ["1", "2", "odd", "1"],
        ["1", "3", "<eos>", "0"],
        ["1", "total", "3", "1"],
        ["2", "1", "<eos>", "0"],
        ["2", "total", "1", "0"],
        ["3", "1", "the", "0"],
        ["3", "2", "<eos>", "0"],
        ["3", "total", "2", "0"],
    ]
    total = sum(float(row[3]) for row in rows[1:] if row[1] == "total")
    single = sum(float(row[3]) for row in rows[1:] if row[1] != "total")
    assert total == pytest.approx(single, abs=1e-5)
    assert f"3 lines, 6 tokens, 1 of them unknown; log-probability {total:.3f}"[:-1] in err


def test_text_from_a_pipe_that_has_a_name(weights, text, tmp_path, capsys):
    """As a shell's <(zcat FILE.gz) is one."""
    os.mkfifo(tmp_path / "pipe")
    content = (text / "test.txt").read_bytes()
    writer = threading.Thread(target=(tmp_path / "pipe").write_bytes, args=(content,), daemon=True)
    writer.start()
    found = scored(capsys, f"--init_from={weights}", f"--input_file={tmp_path}/pipe")
    writer.join()
    assert found == scored(capsys, f"--init_from={weights}", f"--input_file={text}/test.txt")


@pytest.mark.parametrize("end", [b"it\r\n", b"it"])
@pytest.mark.parametrize("kind", ["word", "character", "byte"])
def test_lines_have_what_preparation_reads_of_them(kind, end, tmp_path, monkeypatch):
    content = "\ufeffthe cat\r\nsat\ron\n\n".encode()
    content += (b"\xff na\xefve\n" if kind == "byte" else b"") + end
    for split in ("train", "valid", "test"):
        (tmp_path / f"{split}.txt").write_bytes(content)
    corpus = load_corpus("text", str(tmp_path), any_bytes=kind == "byte")
    data = prepare(corpus, str(tmp_path / "data"), vocabulary=kind)
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(content)))
    for path in (str(tmp_path / "test.txt"), None):
        with open_lines(path, data.vocabulary) as lines:
            ids = [i for line in lines for i in data.vocabulary.encode_text(line)]
        assert ids == data.arrays["test"].tolist()


def test_bytes_of_any_text_are_scored_as_they_are_evaluated():
    """Also a last line without an end."""
    vocabulary = ByteVocabulary.from_counts(dict.fromkeys(range(256), 1))
    network = TransformerXL(ModelConfig(256, num_layers=1, model_dim=8, num_heads=2))
    config = TrainConfig(eval_segment_length=LENGTH, jit_compile="false")
    lengths = evaluation_lengths(network.config, config)
    scorer = LineScorer(network, vocabulary, config, lengths, in_context=True)
    text = [b"na\xefve\n", b"\n", b"\xff"]
    scores = list(scorer.scores(text))
    assert [[row["token"] for row in score["tokens"]] for score in scores] == list(map(list, text))
    ids = vocabulary.encode(b"".join(text))
    evaluator = Evaluator(
        network,
        dataclasses.replace(config, eval_batch_size=1),
        lengths,
        lambda split, *sizes: EvalSegments(ids, vocabulary.eos_id, *sizes).dataset(),
    )
    nll = evaluator.result("test").nll
    assert scorer.log_prob == pytest.approx(-nll * len(ids), rel=1e-5)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--input_file=nowhere.txt"], "There is none at nowhere.txt"),
        (["--input_file={text}/empty.txt"], "There is no text in .*empty.txt"),
        (["--input_file={text}/latin.txt"], "latin.txt is not UTF-8"),
        (["--init_from=nowhere"], "no weights at nowhere"),
        (["--init_from=", "--workdir={text}"], "holds no run|no weights"),
    ],
)
def test_bad_input(arguments, message, weights, text, capsys):
    (text / "latin.txt").write_bytes("grüße\n".encode("latin-1"))
    (text / "empty.txt").write_bytes(b"")
    arguments = [argument.format(text=text) for argument in arguments]
    assert run("--mode=score", f"--init_from={weights}", *arguments) == 2
    printed, errors = capsys.readouterr()
    assert printed == ""
    assert errors.count("error: ") == 1
    assert re.search(message, errors), errors
