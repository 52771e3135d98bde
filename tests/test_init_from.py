"""--init_from: evaluation and training from weights of other implementations and of other runs."""

import json
import os
import random
import re

import keras
import numpy as np
import pytest
from absl import flags as absl_flags
from absl.testing import flagsaver

import train
from data_utils import GivenVocabulary, WordVocabulary, load_vocabulary, open_prepared
from modes.run_inputs import given_weights
from tests.conftest import evaluation_steps_of
from tests.golden_files import unpack
from transformer_xl import ModelConfig, TrainConfig, TransformerXL
from transformer_xl.pretrained import load_from, load_huggingface
from transformer_xl.training.checkpoints import Checkpoints
from transformer_xl.training.workdir import RunRecord

COMMON = [
    "--corpus=text",
    "--batch_size=2",
    "--segment_length=8",
    "--eval_batch_size=3",
    "--eval_segment_length=5",
    "--max_steps=2",
    "--learning_rate=1e-12",
    "--jit_compile=false",
]


def run(*arguments):
    """What `python train.py` does, in this process; the exit code."""
    with flagsaver.flagsaver():
        try:
            train.main(train.parse_flags(["train.py", *arguments]))
        except SystemExit as end:
            return end.code
    return 0


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    """Words of the checkpoint's vocabulary, in an order of frequency of their own, and others."""
    draw = random.Random(1)
    words = [f"word{i}" for i in range(40)] + ["strange", "the", ","]
    lines = [" ".join(draw.choices(words, k=draw.randint(3, 12))) for _ in range(120)]
    path = tmp_path_factory.mktemp("text") / "lines.txt"
    path.write_text("\n".join(lines) + "\n")
    return path


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """A model of HuggingFace's with a vocabulary."""
    directory = tmp_path_factory.mktemp("weights")
    unpack("huggingface_div4_untied", directory)
    unpack("huggingface_vocabulary", directory / "vocabulary_files")
    (directory / "vocab.txt").write_bytes((directory / "vocabulary_files/vocab.txt").read_bytes())
    return directory


@pytest.fixture(scope="module")
def evaluated(text, weights, tmp_path_factory):
    """The directory of an evaluation."""
    directory = tmp_path_factory.mktemp("evaluated") / "results"
    arguments = [f"--init_from={weights}", f"--data_dir={text}", f"--workdir={directory}"]
    with evaluation_steps_of(2):
        assert run(*COMMON, "--mode=eval", *arguments) == 0
    return directory


def test_evaluation_is_that_of_the_model(evaluated, weights):
    """Against a loop of its own, over one stream, with HuggingFace's memory of zeros."""
    model, tokens = load_huggingface(str(weights))
    data = open_prepared(evaluated / "data")
    assert data.vocabulary.tokens == tuple(tokens)
    results = json.loads((evaluated / "eval.json").read_text())
    assert set(results) == {"valid", "test"}
    for split in results:
        ids = np.asarray(data.arrays[split], "int32")
        streams = 3
        length = -(-len(ids) // streams)
        before = np.concatenate([[tokens.index("<eos>")], ids[:-1]])
        total = 0.0
        for stream in range(streams):
            part = slice(stream * length, (stream + 1) * length)
            memory = model.initial_memory(1)
            for start in range(0, len(ids[part]), 5):
                now = slice(start, start + 5)
                inputs, targets = before[part][now][None], ids[part][now][None]
                nll, memory = model.nll(inputs.astype("int32"), targets, memory)
                total += float(nll.numpy().sum())
        assert results[split]["tokens"] == len(ids)
        assert results[split]["nll"] == pytest.approx(total / len(ids), rel=1e-5)


def test_the_text_is_encoded_by_the_models_vocabulary(evaluated, text, weights):
    tokens = (weights / "vocab.txt").read_text("utf-8").split("\n")[:-1]
    data = open_prepared(evaluated / "data")
    decoded = [
        tokens[i] for split in ("train", "valid", "test") for i in np.asarray(data.arrays[split])
    ]
    expected = []
    for line in text.read_text().splitlines():
        expected += [word if word in tokens else "<unk>" for word in line.split()] + ["<eos>"]
    assert decoded == expected
    assert "<unk>" in decoded
    counts = np.bincount(data.arrays["train"], minlength=53)
    np.testing.assert_array_equal(data.counts, counts)


@pytest.fixture(scope="module")
def trained(text, weights, evaluated, short_evaluation_steps, without_samples, tmp_path_factory):
    """The directory of a run that went on from the weights, at a learning rate of nearly 0.

    After the evaluation with steps of several stretches, which is held to a loop of its own.
    """
    directory = tmp_path_factory.mktemp("runs") / "run"
    arguments = [f"--init_from={weights}", f"--data_dir={text}", f"--workdir={directory}"]
    others = ["--dropout=0.1", "--memory_length=9", "--rematerialize_attention"]
    assert run(*COMMON, *arguments, *others) == 0
    return directory


def test_training_goes_on_from_the_weights(trained, evaluated, weights):
    config = json.loads((trained / "config.json").read_text())["model"]
    assert (config["model_dim"], config["div_val"], config["cutoffs"]) == (16, 4, [11, 29])
    assert (config["dropout"], config["memory_length"]) == (0.1, 9)
    assert config["memory_start"] == "zeros"
    assert config["rematerialize_attention"]
    theirs, _ = load_from(str(weights), {})
    ours, _ = load_from(str(trained), {})
    assert theirs.config.memory_length == 7
    for one, other in zip(ours.trainable_variables, theirs.trainable_variables):
        np.testing.assert_allclose(one, other, atol=1e-9)
    evaluation = ["--mode=eval", f"--workdir={trained}", "--eval_memory_length=7"]
    assert run(*evaluation) == 0
    here = json.loads((trained / "eval.json").read_text())["test"]
    there = json.loads((evaluated / "eval.json").read_text())["test"]
    assert here["nll"] == pytest.approx(there["nll"], rel=1e-6)


@pytest.mark.slow
def test_a_run_from_weights_is_a_run_like_any_other(trained, text, weights, capsys):
    # Its flags repeat it, it goes on, it writes text.
    assert f"--init_from={weights}" in (trained / "flags.txt").read_text()
    assert run(f"--flagfile={trained}/flags.txt", f"--data_dir={text}", "--max_steps=3") == 0
    assert "going on after step 2" in capsys.readouterr().out
    assert run("--mode=generate", f"--workdir={trained}", "--num_tokens=5", "--prompt=the") == 0
    assert capsys.readouterr().out.startswith("the")


def test_text_from_given_weights(weights, capsys):
    arguments = [f"--init_from={weights}", "--num_tokens=4", "--prompt=word1 the", "--seed=3"]
    assert run("--mode=generate", *arguments, "--jit_compile=false") == 0
    # Written text has its commas at the words.
    words = capsys.readouterr().out.replace("\n", " <eos> ").replace(",", " ,").split()
    assert words[:2] == ["word1", "the"]
    assert set(words) <= set((weights / "vocab.txt").read_text("utf-8").split())


@pytest.mark.slow
def test_from_another_run(trained, text, tmp_path):
    arguments = [f"--init_from={trained}", f"--data_dir={text}", f"--workdir={tmp_path}/new"]
    assert run(*COMMON, *arguments, "--dropout=0") == 0
    assert load_vocabulary(tmp_path / "new" / "vocabulary").tokens[0] == "<eos>"
    ours, _ = load_from(f"{tmp_path}/new", {})
    theirs, _ = load_from(str(trained), {})
    for one, other in zip(ours.trainable_variables, theirs.trainable_variables):
        np.testing.assert_allclose(one, other, atol=1e-9)


@pytest.mark.slow
def test_from_the_original_code(text, tmp_path, short_evaluation_steps):
    words = ["<eos>", "<unk>"] + [f"word{i}" for i in range(209)]
    (tmp_path / "vocab.txt").write_text("\n".join(words) + "\n")
    unpack("original_pytorch_div1", tmp_path)
    unpack("original_tensorflow_div4", tmp_path)
    settings = ["--memory_length=11", f"--data_dir={text}", "--mode=eval", "--split=test"]
    for path, more in (("model.pt", ["--cutoffs=20,60,140"]), ("model.ckpt", [])):
        arguments = [f"--init_from={tmp_path}/{path}", f"--workdir={tmp_path}/{path}.results"]
        assert run(*COMMON, *settings, *arguments, *more) == 0
        assert os.path.exists(f"{tmp_path}/{path}.results/eval.json")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--num_layers=3", "--cutoffs=9"], "num_layers is 2 there, 3 now; cutoffs is"),
        (["--model_dim=18"], "model_dim is 16 there, 18 now"),
        (["--init_from=nowhere/at/all"], "no weights at nowhere/at/all"),
        (["--mode=eval", "--workdir="], "needs --workdir"),
        (["--dropout=1"], "dropout must be"),
        (["--cutoffs=auto"], "must be those of the weights in --init_from. Received: auto"),
        (["--mode=prepare", "--cutoffs=auto"], "Received: auto. Leave it out"),
        (["--vocabulary_min_count=3", "--piece_model=bpe"], "besides: .*count=3 --piece_model=bpe"),
        (["--mode=eval", "--vocabulary_size=9"], "besides: --vocabulary_size=9. Leave them out"),
        (["--mode=prepare", "--vocabulary=byte"], "one of words. Received 'byte' besides"),
    ],
)
def test_bad_input_is_one_error(arguments, message, text, weights, tmp_path, capsys):
    start = [*COMMON, f"--init_from={weights}", f"--data_dir={text}", f"--workdir={tmp_path}/run"]
    assert run(*start, *arguments) == 2
    errors = capsys.readouterr().err
    assert errors.count("error: ") == 1
    assert re.search(message, errors), errors
    assert not (tmp_path / "run").exists()


def test_weights_without_a_vocabulary(text, tmp_path, capsys):
    unpack("huggingface_div4_untied", tmp_path / "weights")
    start = [f"--init_from={tmp_path}/weights", f"--data_dir={text}", f"--workdir={tmp_path}/run"]
    assert run(*COMMON, *start) == 2
    assert "Put vocab.txt beside the weights" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


@pytest.fixture
def exported(weights, tmp_path):
    """The file of an export, and the vocabulary beside it."""
    model, tokens = load_huggingface(str(weights))
    model.save(tmp_path / "model.keras")
    GivenVocabulary(tokens, [0] * len(tokens), "words").save(tmp_path / "vocabulary")
    return tmp_path / "model.keras"


def given(path, *arguments, precision="float32"):
    """What a mode makes of --init_from."""
    with flagsaver.flagsaver():
        absl_flags.FLAGS(["train.py", f"--init_from={path}", *arguments])
        return given_weights(TrainConfig(precision=precision))


@pytest.mark.parametrize("frozen", [False, True])
def test_from_the_keras_file_of_an_export(exported, weights, frozen):
    theirs, tokens = load_huggingface(str(weights))
    if frozen:
        saved = keras.models.load_model(exported)
        saved.trainable = False
        saved.save(exported)
    ours, vocabulary = given(exported, "--memory_length=9", precision="bfloat16")
    assert (vocabulary.tokens, vocabulary.tokenization) == (tuple(tokens), "words")
    assert (ours.config.memory_length, ours.compute_dtype) == (9, "bfloat16")
    assert ours.config.with_changes(memory_length=7) == theirs.config
    assert len(ours.trainable_variables) == len(theirs.trainable_variables)
    for one, other in zip(ours.trainable_variables, theirs.trainable_variables):
        np.testing.assert_array_equal(one, other)


def test_keras_files_that_will_not_do(exported):
    with pytest.raises(ValueError, match="model_dim is 16 there, 18 now"):
        given(exported, "--model_dim=18")
    GivenVocabulary(["<eos>", "<unk>"], [0, 0]).save(exported.parent / "vocabulary")
    with pytest.raises(ValueError, match="Received: 2 tokens, where the model has 53. Bring"):
        given(exported)
    (exported.parent / "vocabulary").unlink()
    with pytest.raises(ValueError, match="Put vocab.txt beside the weights"):
        given(exported)
    saved = keras.models.load_model(exported)
    broken = saved.trainable_variables[-1]
    broken.assign(np.full(broken.shape, np.nan))
    saved.save(exported)
    with pytest.raises(ValueError, match=f"must be finite. Received .* in: {broken.path}"):
        given(exported)
    content = exported.read_bytes()
    exported.write_bytes(content[: len(content) // 2])
    with pytest.raises(ValueError, match=r"model\.keras cannot be read: it is damaged, cut short"):
        given(exported)
    keras.Sequential([keras.Input([2]), keras.layers.Dense(1)]).save(exported)
    with pytest.raises(ValueError, match="must hold a TransformerXL. Received: a Sequential"):
        given(exported)


def test_a_run_whose_weights_are_not_finite(tmp_path):
    config = ModelConfig(11, num_layers=1, model_dim=4, num_heads=1)
    RunRecord(config, TrainConfig(), {}).write(str(tmp_path))
    model = TransformerXL(config)
    broken = model.trainable_variables[0]
    broken.assign(np.full(broken.shape, np.inf))
    Checkpoints(str(tmp_path / "checkpoints"), model).save_best(1, 2.0)
    with pytest.raises(ValueError, match=f"must be finite. Received .* in: {broken.path}. Take"):
        load_from(str(tmp_path), {})


def test_results_do_not_go_into_a_run(trained, text, weights, capsys):
    start = [f"--init_from={weights}", f"--data_dir={text}", f"--workdir={trained}"]
    assert run(*COMMON, "--mode=eval", *start) == 2
    assert "a folder without a run" in capsys.readouterr().err


def test_a_given_vocabulary_keeps_its_order(tmp_path):
    tokens = ["<eos>", "rare", "<unk>", "often"]
    counts = {"often": 9, "<eos>": 3, "else": 2, "other": 1}
    vocabulary = GivenVocabulary.from_tokens(tokens, counts, "words")
    assert vocabulary.counts == (3, 0, 3, 9)
    assert vocabulary.encode(["often", "else", "rare", "<eos>"]).tolist() == [3, 2, 1, 0]
    vocabulary.save(tmp_path / "vocabulary")
    again = load_vocabulary(tmp_path / "vocabulary")
    assert isinstance(again, GivenVocabulary)
    assert (again.tokens, again.counts, again.tokenization) == (
        vocabulary.tokens,
        vocabulary.counts,
        "words",
    )
    with pytest.raises(ValueError, match="first line"):
        WordVocabulary.load(tmp_path / "vocabulary")
    with pytest.raises(ValueError, match="Received none of <unk>"):
        GivenVocabulary(["<eos>", "a"], [1, 1])
    with pytest.raises(ValueError, match="no white space"):
        GivenVocabulary(["<eos>", "<unk>", "a b"], [1, 1, 1])
