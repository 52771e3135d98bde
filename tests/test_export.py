"""The exported SavedModel, served by a process that cannot import this project."""

import json
import pathlib
import re
import subprocess
import sys
import urllib.error
import urllib.request

import keras
import numpy as np
import pytest
import tensorflow as tf
from absl.testing import flagsaver

import train
from data_utils import load_vocabulary
from modes import exporting
from tests.golden_files import unpack
from transformer_xl import ModelConfig, TransformerXL
from transformer_xl.export import save_served
from transformer_xl.pretrained import load_huggingface

ROOT = pathlib.Path(train.__file__).parent
OURS = ("adaptive", "transformer_xl", "data_utils", "modes", "flags", "train", "keras")
LENGTH, MEMORY = 6, 13


def run(*arguments):
    """What `python train.py` does, in this process; the exit code."""
    with flagsaver.flagsaver():
        try:
            train.main(train.parse_flags(["train.py", *arguments]))
        except SystemExit as end:
            return end.code
    return 0


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """A model of HuggingFace's with a vocabulary."""
    directory = tmp_path_factory.mktemp("weights")
    unpack("huggingface_div4_untied", directory)
    unpack("huggingface_vocabulary", directory / "files")
    (directory / "vocab.txt").write_bytes((directory / "files" / "vocab.txt").read_bytes())
    return directory


@pytest.fixture(scope="module")
def exported(weights, tmp_path_factory):
    """What --mode=export writes."""
    directory = tmp_path_factory.mktemp("exported") / "export"
    settings = [f"--eval_memory_length={MEMORY}", "--eval_same_length", "--eval_clamp_length=9"]
    assert run("--mode=export", f"--init_from={weights}", f"--output={directory}", *settings) == 0
    return directory


@pytest.fixture(scope="module")
def signatures(exported):
    loaded = tf.saved_model.load(str(exported / "saved_model" / "1"))
    # The functions live as long as what they were loaded with.
    signatures = dict(loaded.signatures)
    signatures["loaded"] = loaded
    return signatures


@pytest.fixture(scope="module")
def model(weights):
    return load_huggingface(str(weights))[0]


@pytest.fixture(scope="module")
def address(exported):
    """Of the example's server, in a process in which nothing of ours, nor Keras, is found."""
    path = ROOT / "examples" / "serve_saved_model.py"
    program = (
        f"import runpy, sys\nsys.modules.update(dict.fromkeys({OURS}))\n"
        f"sys.argv = ['serve', {str(exported / 'saved_model' / '1')!r}, '--port=0']\n"
        f"runpy.run_path({str(path)!r}, run_name='__main__')\n"
    )
    command = [sys.executable, "-c", program]
    with subprocess.Popen(command, cwd=exported, stdout=subprocess.PIPE, text=True) as process:
        try:
            line = process.stdout.readline().strip()
            assert line.startswith("http://127.0.0.1:"), line
            yield line
        finally:
            process.kill()


def post(address, request):
    """The status and the JSON of an answer."""
    body = request if isinstance(request, bytes) else json.dumps(request).encode()
    try:
        with urllib.request.urlopen(f"{address}:predict", body, timeout=120) as answer:
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as error:
        return error.code, json.load(error)


def segments(vocab_size, rows=2, count=4):
    """Segments of ids that follow one another, each with its targets."""
    ids = np.random.default_rng(5).integers(0, vocab_size, [rows, count * LENGTH + 1])
    ids = ids.astype("int32")
    for start in range(0, count * LENGTH, LENGTH):
        yield ids[:, start : start + LENGTH], ids[:, start + 1 : start + LENGTH + 1]


def test_served_scores_are_the_models(address, model, exported):
    """Over four segments, the memory of each answer in the next request, as JSON."""
    facts = json.loads((exported / "export.json").read_text())
    request = {"signature_name": "initial_memory", "inputs": {"batch_size": 2}}
    code, answer = post(address, request)
    memory = answer["outputs"]
    assert code == 200
    assert np.shape(memory["memory_hidden"]) == (2, 2, MEMORY, 16)
    assert memory["memory_valid"] == [MEMORY, MEMORY]  # zeros that are attended, as theirs
    ours = model.initial_memory(2, MEMORY)
    for tokens, targets in segments(facts["vocab_size"]):
        log_prob, ours = model.log_prob(tokens, ours, same_length=True, clamp_length=9)
        expected = np.take_along_axis(log_prob.numpy(), targets[..., None], -1)[..., 0]
        inputs = {"tokens": tokens.tolist(), "targets": targets.tolist(), **memory}
        code, answer = post(address, {"inputs": inputs})
        assert code == 200, answer
        memory = answer["outputs"]
        np.testing.assert_allclose(memory.pop("log_prob"), expected, rtol=0, atol=1e-5)
        # The same by rows.
        rows = [{key: value[i] for key, value in inputs.items()} for i in range(2)]
        code, answer = post(address, {"signature_name": "score", "instances": rows})
        assert code == 200, answer
        by_row = [row["log_prob"] for row in answer["predictions"]]
        np.testing.assert_allclose(by_row, expected, rtol=0, atol=1e-5)


def test_the_client_of_the_page(address, exported, model, monkeypatch):
    page = (ROOT / "docs" / "serving.md").read_text(encoding="utf-8")
    (code,) = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    monkeypatch.chdir(exported.parent)
    names = {}
    exec(code.replace("http://localhost:8501/v1/models/model", address), names)
    words = ["word1", "nonsense", "word2", "<eos>", "word3", "the", ","]
    ids = [names["IDS"].get(word, names["FACTS"]["unk_id"]) for word in words]
    tokens = [[names["FACTS"]["eos_id"], *ids[:-1]]]
    # Segments of 4: with same_length each token sees 13 before it, however the text is cut.
    nll, _ = model.nll(
        tf.constant(tokens),
        tf.constant([ids]),
        model.initial_memory(1, MEMORY),
        same_length=True,
        clamp_length=9,
    )
    np.testing.assert_allclose(names["log_probs"](words, 4), -nll[0], rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("request_", "message"),
    [
        (b"{", "Expecting"),
        ([], "JSON object"),
        ({}, "either 'inputs' or 'instances'"),
        ({"signature_name": "train", "inputs": {}}, "'train' not found"),
        ({"signature_name": ["score"], "inputs": {}}, "'score'] not found"),
        ({"signature_name": "initial_memory", "inputs": {"batch_size": 2**32 + 1}}, "-2147483648"),
        ({"inputs": {"tokens": [[1]]}}, "score|serving_default takes"),
        ({"signature_name": "initial_memory", "inputs": {"batch_size": "two"}}, "str|two"),
        ({"signature_name": "initial_memory", "inputs": {"batch_size": [1, 2]}}, "shape ()"),
        ({"instances": []}, "at least one"),
        ({"instances": [{"a": 1}, {"b": 1}]}, "same keys"),
    ],
)
def test_bad_requests_are_answered(address, request_, message):
    code, answer = post(address, request_)
    assert code == 400
    assert any(part in answer["error"] for part in message.split("|")), answer


def test_the_server_says_its_state(address):
    with urllib.request.urlopen(address, timeout=60) as answer:
        assert json.load(answer)["model_version_status"][0]["state"] == "AVAILABLE"
    with pytest.raises(urllib.error.HTTPError, match="404"):
        urllib.request.urlopen(f"{address}/nothing", timeout=60)


def test_tensors_are_named(signatures):
    memory = {"memory_hidden", "memory_valid"}
    drawing = {"seed", "temperature", "top_k", "top_p"}
    expected = {
        "initial_memory": ({"batch_size"}, memory),
        "score": ({"tokens", "targets"} | memory, {"log_prob"} | memory),
        "log_prob": ({"tokens"} | memory, {"log_prob"} | memory),
        "generate_step": ({"tokens"} | drawing | memory, {"token", "log_prob"} | memory),
    }
    for name, (inputs, outputs) in expected.items():
        signature = signatures[name]
        assert set(signature.structured_input_signature[1]) == inputs
        assert set(signature.structured_outputs) == outputs


@pytest.mark.parametrize(("rows", "length"), [(1, 1), (3, 20)])
def test_any_batch_and_length(signatures, model, rows, length):
    tokens = np.random.default_rng(2).integers(0, 40, [rows, length]).astype("int32")
    memory = signatures["initial_memory"](batch_size=tf.constant(rows))
    served = signatures["log_prob"](tokens=tf.constant(tokens), **memory)
    ours, after = model.log_prob(
        tokens, model.initial_memory(rows, MEMORY), same_length=True, clamp_length=9
    )
    np.testing.assert_allclose(served["log_prob"], ours, rtol=0, atol=1e-5)
    hidden = np.stack([layer.numpy() for layer in after.hidden], 1)
    np.testing.assert_allclose(served["memory_hidden"], hidden, rtol=0, atol=1e-5)
    assert np.isclose(np.exp(served["log_prob"].numpy()).sum(-1), 1, atol=1e-5).all()


def step(signatures, tokens, seed, temperature=1.0, top_k=0, top_p=1.0):
    """A step of generation with the same settings in all rows."""
    rows = len(tokens)
    return signatures["generate_step"](
        tokens=tf.constant(tokens, tf.int32),
        seed=tf.constant(seed, tf.int32),
        temperature=tf.fill([rows], float(temperature)),
        top_k=tf.fill([rows], top_k),
        top_p=tf.fill([rows], float(top_p)),
        **signatures["initial_memory"](batch_size=tf.constant(rows)),
    )


def test_steps_draw_from_the_distribution(signatures):
    """Frequencies of 4,000 draws against the renormalised probabilities, by chi-square."""
    tokens = [[3, 1, 4]]
    memory = signatures["initial_memory"](batch_size=tf.constant(1))
    log_prob = signatures["log_prob"](tokens=tf.constant(tokens), **memory)["log_prob"][0, -1]
    log_prob = log_prob.numpy().astype(float)
    best = np.argsort(-log_prob, kind="stable")
    greedy = step(signatures, tokens, [0], temperature=0)
    assert greedy["token"].numpy() == best[0]
    assert greedy["log_prob"].numpy()[0] == pytest.approx(log_prob[best[0]], abs=1e-5)
    draws = step(signatures, tokens * 4000, range(4000), temperature=0.8, top_k=6)["token"].numpy()
    assert set(draws) == set(best[:6])
    expected = np.exp(log_prob[best[:6]] / 0.8)
    expected *= 4000 / expected.sum()
    counts = np.array([(draws == i).sum() for i in best[:6]])
    # 20.5 is exceeded in one of 1,000 cases, with 5 degrees of freedom.
    assert ((counts - expected) ** 2 / expected).sum() < 20.5
    probabilities = np.exp(log_prob[best])
    kept = best[: 1 + np.searchsorted(np.cumsum(probabilities), 0.3)]
    draws = step(signatures, tokens * 500, range(500), top_p=0.3)["token"].numpy()
    assert set(draws) <= set(kept)
    assert len(kept) < 211


def test_a_rows_draw_depends_on_its_seed_only(signatures):
    together = step(signatures, [[3], [1], [4], [3]], [7, 8, 9, 7])["token"].numpy()
    assert together[0] == together[3]
    for row, (token, seed) in enumerate([(3, 7), (1, 8), (4, 9)]):
        assert step(signatures, [[token]], [seed])["token"].numpy()[0] == together[row]
    assert len(set(step(signatures, [[3]] * 20, range(20))["token"].numpy())) > 5


def test_what_lies_beside_the_saved_model(exported, weights, model):
    facts = json.loads((exported / "export.json").read_text())
    assert facts["memory_length"] == MEMORY
    assert (facts["same_length"], facts["clamp_length"]) == (True, 9)
    vocabulary = load_vocabulary(exported / "vocabulary")
    tokens = (weights / "vocab.txt").read_text("utf-8").split("\n")[:-1]
    assert list(vocabulary.tokens) == json.loads((exported / "tokens.json").read_text()) == tokens
    assert tokens[facts["eos_id"]] == "<eos>"
    again = keras.models.load_model(exported / "model.keras")
    ids = tf.constant([[1, 2, 3]])
    np.testing.assert_array_equal(again.log_prob(ids)[0], model.log_prob(ids)[0])


@pytest.mark.parametrize(
    "arguments, message",
    [({"format": "onnx"}, "tf_saved_model.*onnx"), ({"input_signature": []}, "input_signature")],
)
def test_what_no_export_takes_is_refused(model, tmp_path, arguments, message):
    with pytest.raises(ValueError, match=message):
        model.export(tmp_path / "served", **arguments)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("length, rule", [(-1, "at least 0"), (2.5, "an integer")])
def test_lengths_that_are_none_are_refused(model, tmp_path, length, rule):
    with pytest.raises(ValueError, match=f"memory_length must be {rule}. Received: {length}"):
        save_served(model, tmp_path / "served", length)
    assert not list(tmp_path.iterdir())


def test_nothing_is_written_over(exported, weights, capsys):
    assert run("--mode=export", f"--init_from={weights}", f"--output={exported}") == 2
    assert "new or empty" in capsys.readouterr().err
    assert run("--mode=export", f"--init_from={weights}") == 2
    assert "needs --output" in capsys.readouterr().err
    file = weights / "vocab.txt"
    assert run("--mode=export", f"--init_from={weights}", f"--output={file}/export") == 2
    assert f"--output={file}/export cannot be written to: " in capsys.readouterr().err
    model = TransformerXL(ModelConfig(vocab_size=9, num_layers=1, model_dim=4, num_heads=1))
    with pytest.raises(FileExistsError, match="not written over"):
        save_served(model, str(exported), 3)


@pytest.mark.parametrize("made_before", [True, False])
@pytest.mark.parametrize(
    ("error", "told"),
    [
        (OSError(28, "No space left on device"), OSError),
        (
            tf.errors.ResourceExhaustedError(None, None, "No space left on device\n at line 7"),
            OSError,
        ),
        (KeyboardInterrupt(), KeyboardInterrupt),
    ],
)
def test_an_export_that_does_not_end_leaves_nothing(tmp_path, error, told, made_before):
    folder = tmp_path / "export"
    if made_before:
        folder.mkdir()
    with pytest.raises(told) as found, exporting.whole_or_nothing(str(folder)):
        (folder / "saved_model" / "1.partial").mkdir(parents=True)
        (folder / "vocabulary").write_text("")
        raise error
    assert list(tmp_path.iterdir()) == [folder] * made_before
    assert not made_before or not list(folder.iterdir())
    if told is OSError:
        assert "No space left on device. What there was of it is removed" in str(found.value)
        assert "\n" not in str(found.value)
