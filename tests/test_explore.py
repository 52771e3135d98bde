"""--mode=explore: the numbers, and a page that is safe, whole and alone."""

import html.parser
import json
import re

import numpy as np
import pytest
import tensorflow as tf
from absl import flags as absl_flags
from absl.testing import flagsaver

import train
from data_utils import ByteVocabulary, CharacterVocabulary, GivenVocabulary
from modes import exploring
from modes.explore_page import page
from modes.outputs import output_file
from tests.golden_files import unpack
from transformer_xl import ModelConfig, TrainConfig, TransformerXL
from transformer_xl.explore import Expectations, explore, make_explore_step
from transformer_xl.pretrained import load_huggingface

LENGTH = 5
NASTY = "</script><script>alert(1)</script> &lt; \"quoted\" <b> 'one' {{data}} {{title}} word1"


def run(*arguments):
    """What `python train.py` does, in this process; the exit code."""
    with flagsaver.flagsaver():
        try:
            train.main(train.parse_flags(["train.py", *arguments, "--jit_compile=false"]))
        except SystemExit as end:
            return end.code
    return 0


class Page(html.parser.HTMLParser):
    """The tags, the tokens with their classes, and the data of a page."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.tokens, self.data, self._inside = [], [], "", None
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        attrs = dict(attrs)
        self.tags.append((tag, attrs))
        self._inside = None
        if tag == "span" and attrs.get("class", "").startswith("t "):
            self._inside = self.tokens
            self.tokens.append([attrs["class"].split(), ""])
        elif tag == "script" and attrs.get("id") == "data":
            self._inside = "data"

    def handle_endtag(self, tag):
        self._inside = None

    def handle_data(self, data):
        if self._inside == "data":
            self.data += data
        elif self._inside is not None:
            self.tokens[-1][1] += data


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """A model of HuggingFace's with a vocabulary."""
    directory = tmp_path_factory.mktemp("weights")
    unpack("huggingface_div4_untied", directory)
    unpack("huggingface_vocabulary", directory / "files")
    (directory / "vocab.txt").write_bytes((directory / "files" / "vocab.txt").read_bytes())
    return directory


@pytest.mark.parametrize("cutoffs", [(10, 30), ()])
def test_expectations_are_those_of_the_distribution(cutoffs):
    model = TransformerXL(
        ModelConfig(
            vocab_size=60,
            num_layers=2,
            model_dim=16,
            num_heads=2,
            feed_forward_dim=24,
            cutoffs=cutoffs,
            memory_length=40,
            init_stddev=0.2,
        )
    )
    ids = np.random.default_rng(4).integers(0, 60, 23)
    step = make_explore_step(model, 4)
    expected = explore(step, ids, model.initial_memory(1), 7, LENGTH)
    # At once, since the memory holds all of it.
    inputs = np.concatenate([[7], ids[:-1]])
    log_prob = model.log_prob(tf.constant(inputs[None]))[0][0].numpy().astype(float)
    own = log_prob[np.arange(23), ids]
    np.testing.assert_allclose(expected.nll, -own, rtol=0, atol=1e-5)
    # The likeliest has the rank 1.
    order = np.argsort(-log_prob, axis=-1)
    places = 1 + np.argmax(order == ids[:, None], axis=-1)
    np.testing.assert_array_equal(expected.rank, places)
    np.testing.assert_array_equal(expected.candidate_ids, order[:, :4])
    np.testing.assert_allclose(
        expected.candidate_log_prob, np.take_along_axis(log_prob, order[:, :4], -1), atol=1e-5
    )
    entropy = -(np.exp(log_prob) * log_prob).sum(-1)
    np.testing.assert_allclose(expected.entropy, entropy, rtol=1e-5)
    edges = [0, *cutoffs, 60]
    for i, token in enumerate(ids):
        cluster = np.searchsorted(edges, token, side="right") - 1
        assert expected.cluster[i] == cluster
        mass = np.exp(log_prob[i, edges[cluster] : edges[cluster + 1]]).sum()
        assert expected.cluster_nll[i] == pytest.approx(-np.log(mass), abs=1e-5)


@pytest.mark.parametrize("jit_compile", [False, True])
def test_what_cannot_be_adds_no_entropy(jit_compile):
    model = TransformerXL(ModelConfig(vocab_size=9, num_layers=1, model_dim=4, num_heads=1))
    (bias,) = model.head.biases
    bias.assign(np.array([-np.inf, *np.zeros(8)]))
    step = make_explore_step(model, 4, jit_compile)
    expected = explore(step, [3, 4], model.initial_memory(1), 7, LENGTH)
    log_prob = model.log_prob(tf.constant([[7, 3]]))[0][0].numpy()[:, 1:].astype(float)
    entropy = -(np.exp(log_prob) * log_prob).sum(-1)
    np.testing.assert_allclose(expected.entropy, entropy, rtol=1e-5)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"ids": [3, 9]}, "Targets must be ids from 0 to 8. Received ids from 0 to 9"),
        ({"ids": [-1]}, "Targets must be ids from 0 to 8. Received ids from -1 to 0"),
        ({"ids": [2**32 + 3]}, "Received ids from 0 to 4294967299"),
        ({"ids": [0.5]}, r"A text must be integer ids .*Received: dtype float64, shape \(1,\)"),
        ({"ids": [[3]]}, r"A text must be integer ids .*Received: dtype int64, shape \(1, 1\)"),
        ({"ids": []}, "A text must have at least one token"),
        ({"eos_id": 9}, "Tokens must be ids from 0 to 8. Received ids from 0 to 9"),
        ({"segment_length": 0}, "segment_length must be an integer of at least 1. Received: 0"),
    ],
)
def test_refuses_what_is_no_text(changes, message):
    model = TransformerXL(ModelConfig(vocab_size=9, num_layers=1, model_dim=4, num_heads=1))
    text = {"ids": [3, 4], "eos_id": 7, "segment_length": LENGTH, **changes}
    with pytest.raises(ValueError, match=message):
        explore(make_explore_step(model, 4), memory=model.initial_memory(1), **text)


@pytest.mark.parametrize("num_candidates", [0, 10, 2.5, None])
def test_refuses_candidates_that_there_are_not(num_candidates):
    model = TransformerXL(ModelConfig(vocab_size=9, num_layers=1, model_dim=4, num_heads=1))
    with pytest.raises(ValueError, match=f"from 1 to .*, 9. Received: {num_candidates}"):
        make_explore_step(model, num_candidates)


def test_a_page_of_a_text(weights, tmp_path, capsys):
    """Any text stands in it as text; what it shows is what the model says."""
    (tmp_path / "text.txt").write_text(f"{NASTY}\n\nthe word2\n")
    output = tmp_path / "pages" / "page.html"
    source = f"--input_file={tmp_path}/text.txt"
    settings = f"--eval_segment_length={LENGTH}"
    given = f"--init_from={weights}"
    assert run("--mode=explore", given, source, f"--output={output}", settings) == 0
    assert f"page: {output}, of" in capsys.readouterr().out
    text = output.read_text("utf-8")
    found = Page(text)
    words = [*NASTY.split(), "↵", "↵", "the", "word2", "↵"]
    assert [token for _, token in found.tokens] == words
    tags = [tag for tag, _ in found.tags]
    assert tags.count("script") == 2
    assert not {"img", "link", "iframe", "b", "object"} & set(tags)
    # Nothing is fetched: no address, and the page forbids it itself.
    assert not re.search(r"https?://|src=|@import|url\(", text)
    assert not any({"src", "href", "action"} & set(attrs) for _, attrs in found.tags)
    policy = next(attrs for tag, attrs in found.tags if tag == "meta" and "content" in attrs)
    assert policy
    assert "default-src 'none'" in text
    data = json.loads(found.data)
    model, tokens = load_huggingface(str(weights))
    index = {token: i for i, token in enumerate(tokens)}
    ids = [index.get({"↵": "<eos>"}.get(word, word), index["<unk>"]) for word in words]
    step = make_explore_step(model, 8)
    expected = explore(step, ids, model.initial_memory(1), index["<eos>"], LENGTH)
    np.testing.assert_allclose(data["bits"], expected.nll / np.log(2), atol=0.006)
    assert data["rank"] == expected.rank.tolist()
    candidates = [[data["names"][i] for i in row] for row in data["candidates"]]
    shown = [
        ["↵" if tokens[i] == "<eos>" else tokens[i] for i in row] for row in expected.candidate_ids
    ]
    assert candidates == shown
    np.testing.assert_allclose(
        data["percent"], 100 * np.exp(expected.candidate_log_prob), rtol=0.01
    )
    levels = np.searchsorted([1, 2, 4, 6, 8, 11, 14], expected.nll / np.log(2), side="right")
    for (classes, word), level, cluster in zip(found.tokens, levels, expected.cluster):
        assert f"s{level}" in classes
        assert f"k{cluster}" in classes
        assert ("u" in classes) == (word != "↵" and word not in index)
        assert ("e" in classes) == (word == "↵")


def an_expectation(ids, vocab_size):
    """Of a model that knows nothing."""
    count, uniform = len(ids), np.log(vocab_size)
    flat = np.full(count, uniform, np.float32)
    zeros = np.zeros(count, np.int32)
    best = np.tile(np.arange(2, dtype=np.int32), (count, 1))
    return Expectations(flat, zeros + 1, flat, zeros * 0.0, zeros, best * 0.0 - uniform, best)


@pytest.mark.parametrize(
    ("vocabulary", "expected"),
    [
        (CharacterVocabulary.from_counts(dict.fromkeys("ab <é\n\t", 1)), list("a <é⇥b↵b")),
        (ByteVocabulary.from_counts({}), [*"a <", "\\xc3", "\\xa9", "⇥", "b", "↵", "b"]),
    ],
)
def test_characters_and_bytes(vocabulary, expected):
    written = "a <é\tb\nb"
    tokens = vocabulary.tokenize(written)
    ids = vocabulary.encode(tokens)
    text = page("a", "b", tokens, ids, an_expectation(ids, vocabulary.size), vocabulary, 8)
    found = Page(text)
    assert [token for _, token in found.tokens] == expected
    # Without clusters there is nothing to say of them.
    assert not any(tag == "table" for tag, _ in found.tags)
    paragraphs = re.findall(r"<p>(<span class=\"t .*)</p>", text)
    assert [re.sub(r"<[^>]*>", "", one) for one in paragraphs] == [
        "".join(expected[:-1]).replace("<", "&lt;"),
        "b",
    ]


def test_a_page_of_any_bytes(tmp_path, monkeypatch):
    """With the characters that evaluation counts, and no line end that the text has not."""
    (tmp_path / "text").write_bytes(b"na\xefve\n\xc3\xa9")
    vocabulary = ByteVocabulary.from_counts(dict.fromkeys(range(256), 1))
    model = TransformerXL(ModelConfig(256, num_layers=1, model_dim=4, num_heads=1))
    config = TrainConfig(jit_compile="false")
    monkeypatch.setattr(exploring, "trained_model", lambda: (config, model, vocabulary))
    with flagsaver.flagsaver():
        given = [f"--input_file={tmp_path}/text", f"--output={tmp_path}/page.html"]
        absl_flags.FLAGS(["train.py", "--mode=explore", *given])
        exploring.set_up()()
    text = (tmp_path / "page.html").read_text("utf-8")
    found = Page(text)
    names = ["n", "a", "\\xef", "v", "e", "↵", "\\xc3", "\\xa9"]
    assert [token for _, token in found.tokens] == names
    (said,) = re.findall(r"<dd>([\d.]+)</dd><dt>bits per character", text)
    # Seven characters: the last byte belongs to the one before.
    assert float(said) == pytest.approx(sum(json.loads(found.data)["bits"]) / 7, abs=0.02)


def test_twenty_thousand_tokens():
    words = [f"w{i}" for i in range(500)]
    vocabulary = GivenVocabulary(["<eos>", "<unk>", *words], [0] * 502)
    tokens = (words * 40)[:19_999] + ["<eos>"]
    ids = vocabulary.encode(tokens)
    text = page("many", "", tokens, ids, an_expectation(ids, 502), vocabulary, 90_000)
    found = Page(text)
    assert len(found.tokens) == len(json.loads(found.data)["bits"]) == 20_000
    # The chart has a bounded number of points.
    assert max(len(points.split()) for points in re.findall(r'points="(.*?)"', text)) <= 502
    assert len(text) < 5_000_000


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--input_file=nowhere.txt", "--output=page.html"], "There is none at nowhere.txt"),
        (["--input_file={folder}/empty.txt", "--output={folder}/page.html"], "no text in"),
        (["--input_file={folder}/latin.txt", "--output={folder}/page.html"], "is not UTF-8"),
        (["--input_file={folder}/empty.txt", "--output={folder}"], "must be the file of a page"),
        (["--input_file={folder}/empty.txt"], "needs --output"),
        (["--input_file={folder}/empty.txt", "--output="], "--output must be the name of what"),
        (["--input_file={folder}/latin.txt", "--output={folder}/latin.txt"], "must not replace"),
        (["--input_file={folder}/latin.txt", "--output={folder}/empty.txt"], "that is new. Rece"),
        (
            ["--input_file={folder}/latin.txt", "--output={folder}/latin.txt/page.html"],
            "latin.txt/page.html cannot be written to: ",
        ),
    ],
)
def test_bad_input_is_one_error(arguments, message, weights, tmp_path, capsys):
    (tmp_path / "empty.txt").write_bytes(b"")
    (tmp_path / "latin.txt").write_bytes("grüße\n".encode("latin-1"))
    arguments = [argument.format(folder=tmp_path) for argument in arguments]
    assert run("--mode=explore", f"--init_from={weights}", *arguments) == 2
    errors = capsys.readouterr().err
    assert errors.count("error: ") == 1
    assert message in errors
    assert not (tmp_path / "page.html").exists()
    assert (tmp_path / "empty.txt").read_bytes() == b""


def test_only_a_page_at_its_own_place_is_replaced(tmp_path):
    page, text = tmp_path / "explore.html", tmp_path / "text.txt"
    for path in (page, text):
        path.write_text("a")
    with flagsaver.flagsaver(workdir=str(tmp_path)):
        assert output_file("explore.html", str(text)) == str(page)
        with pytest.raises(FileExistsError, match="must not replace the text.*another --output"):
            output_file("explore.html", str(page))
    with flagsaver.flagsaver(workdir=str(tmp_path), output=str(page)):
        assert output_file("explore.html", str(text)) == str(page)
    with (
        flagsaver.flagsaver(output=str(page)),
        pytest.raises(FileExistsError, match="a file that is new.*Remove it, or name another"),
    ):
        output_file("explore.html", str(text))
