"""--mode=generate: where prompts come from, where texts end, how they are written.

The model is random; what it writes is compared with what `model.generate` does.
"""

import functools
import io
import sys

import keras
import pytest
from absl import flags as absl_flags
from absl.testing import flagsaver

import flags
from data_utils import ByteVocabulary, WordVocabulary
from data_utils.detokenization import detokenized
from modes import generation
from transformer_xl import ModelConfig, TransformerXL
from transformer_xl.decoding import Decoder, Sampling
from transformer_xl.generate import stream

TOKENS = ["<eos>", "<unk>", "the", "cat", ",", ".", "@-@", '"', "'s", "(", ")", "said", "it"]
VOCABULARY = WordVocabulary.from_counts({t: 100 - i for i, t in enumerate(TOKENS)})
WRITTEN = ("--num_tokens=40", "--seed=5", "--jit_compile=false")


@pytest.fixture(scope="module")
def model():
    keras.utils.set_random_seed(3)
    settings = {"num_layers": 1, "model_dim": 8, "num_heads": 2, "feed_forward_dim": 8}
    return TransformerXL(ModelConfig(VOCABULARY.size, **settings, init_stddev=0.4))


@functools.cache
def made_once(*arguments):
    """A decoder that others of the same arguments are, too: each compiles for itself."""
    return Decoder(*arguments[:-1], **dict(arguments[-1]))


@pytest.fixture
def run(model, monkeypatch, capsys):
    """Runs the mode with flags; returns what it printed, and warned."""

    def decoder(model, sampling, memory_length, stop_ids, *others, **named):
        return made_once(
            model, sampling, memory_length, tuple(stop_ids), *others, tuple(named.items())
        )

    def run(*arguments, vocabulary=VOCABULARY):
        with flagsaver.flagsaver():
            absl_flags.FLAGS(["train.py", *WRITTEN, *arguments])
            trained = (flags.train_config(), model, vocabulary)
            monkeypatch.setattr(generation, "trained_model", lambda: trained)
            monkeypatch.setattr(generation, "Decoder", decoder)
            generation.set_up()()
        return capsys.readouterr()

    return run


@functools.cache
def expected(model, prompt, number=0, num_tokens=40):
    """What `model.generate` does, all at once, by programs that are compiled once."""
    ids = VOCABULARY.encode_text(prompt)
    decoder = made_once(model, Sampling(), None, (), False, num_tokens, ())
    prompts, seeds = [[VOCABULARY.eos_id, *ids]], [(5, number)]
    (rows,) = stream(decoder, prompts, num_tokens, seeds, chunk=num_tokens)
    return detokenized(VOCABULARY.decode([*ids, *rows.numpy()[0]]))


def test_a_text_is_written_as_it_grows(model, run, monkeypatch):
    pieces = []

    class Terminal(io.StringIO):
        def write(self, piece):
            pieces.append(piece)
            return super().write(piece)

    monkeypatch.setattr(sys, "stdout", Terminal())
    run("--prompt=the cat")
    assert "".join(pieces) == expected(model, "the cat") + "\n"
    # The prompt, chunks of 16 tokens, and the line's end.
    assert sum(bool(piece) for piece in pieces) >= 5
    assert pieces[0] == "the cat"


def test_samples_differ_and_do_not_depend_on_their_number(model, run):
    printed = run("--prompt=it", "--num_samples=2").out
    first, second = expected(model, "it"), expected(model, "it", 1)
    assert first != second
    assert printed == f"--- 1\n{first}\n--- 2\n{second}\n"


def test_prompts_from_a_file_and_from_standard_input(model, run, tmp_path, monkeypatch):
    prompts = ["the cat said it , it , it", "", "it"]
    path = tmp_path / "prompts"
    path.write_text("\n".join(prompts) + "\n")
    wanted = "".join(f"--- {n}.1\n{expected(model, p)}\n" for n, p in enumerate(prompts, 1))
    assert run(f"--input_file={path}").out == wanted
    # In groups, too, the last of which is as large as the others.
    sizes, begin = [], Decoder.begin

    def spy(decoder, rows, *arguments):
        sizes.append(len(rows))
        return begin(decoder, rows, *arguments)

    monkeypatch.setattr(Decoder, "begin", spy)
    assert run(f"--input_file={path}", "--eval_batch_size=2").out == wanted
    assert sizes == [2, 2]
    stdin = io.TextIOWrapper(io.BytesIO(path.read_bytes()))
    monkeypatch.setattr(sys, "stdin", stdin)
    assert run("--input_file=-").out == wanted


def test_stops(model, run):
    whole = expected(model, "the cat")
    line, stop = whole.split("\n")[0], "<unk> the"
    assert line != whole
    assert run("--prompt=the cat", "--stop=<eos>").out == line + "\n"
    assert stop in whole[len("the cat") :]
    end = whole.index(stop, len("the cat"))
    assert run("--prompt=the cat", f"--stop={stop}").out == whole[:end] + "\n"
    both = run("--prompt=the cat", f"--stop={stop}", "--stop=<eos>", "--num_samples=2").out
    assert both.startswith(f"--- 1\n{min(line, whole[:end], key=len)}\n--- 2\n")


def test_tokens_apart_on_request(model, run):
    found = run("--prompt=the cat", "--nodetokenize").out.removesuffix("\n")
    assert detokenized(found) == expected(model, "the cat") != found


def test_half_a_letter_waits():
    vocabulary = ByteVocabulary.from_counts(dict.fromkeys(range(256), 1))
    grown = generation.GrowingText(vocabulary, [])
    start, end = vocabulary.encode_text("é")
    with flagsaver.flagsaver():
        absl_flags.FLAGS(["train.py"])
        grown.add([start])
        assert grown.settled() == ""
        grown.add([end])
        assert grown.settled() == grown.read() == "é"


def test_unknown_words_are_named(run):
    found = run("--prompt=the dog")
    assert "dog" in found.err and "<unk>" in found.out


@pytest.mark.parametrize(
    "text, expected",
    [
        (
            'Teddy \'s " two @-@ part " story , 1 @,@ 000 @.@ 5',
            'Teddy\'s "two-part" story, 1,000.5',
        ),
        ("he did n't ( not now ) . Why ?", "he didn't (not now). Why?"),
        (" = = Career = = \n\n the players ' $ 5", "= = Career = =\n\nthe players' $5"),
        ("@-@ a <unk>", "-a <unk>"),
    ],
)
def test_detokenized(text, expected):
    assert detokenized(text) == expected
    for end in range(len(text)):
        if text[end] == " ":
            assert expected.startswith(detokenized(text[:end]))


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["--input_file=/nowhere"], "--input_file must be a text file. There is none at /nowhere"),
        (["--prompt=a", "--input_file=-"], "from --prompt or from --input_file. Received: both"),
        (["--stop="], "--stop must be <eos> or a string"),
        (["--top_p=0"], "--top_p must be above 0"),
    ],
)
def test_refuses(run, arguments, message):
    with pytest.raises((ValueError, OSError), match=message):
        run(*arguments)


def test_refuses_no_prompts(run, tmp_path):
    (tmp_path / "empty").write_text("")
    with pytest.raises(ValueError, match="a prompt on each line. Received: no lines"):
        run(f"--input_file={tmp_path}/empty")
