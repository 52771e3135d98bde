"""HuggingFace's TransfoXL, in each of its formats; see golden/README.md.

The losses beside the files are HuggingFace's. With TRANSFO_XL_PEER, an interpreter that has
transformers 4.35.2 and torch, and TRANSFO_XL_KERAS_PEER, one that has it with TensorFlow 2.15,
random models are made anew, and what is written here is computed there.
"""

import json
import os
import subprocess

import numpy as np
import pytest

from tests.golden_files import nll_of, unpack
from tests.reference import golden, huggingface_cases
from transformer_xl import ModelConfig, TransformerXL
from transformer_xl.pretrained import (
    config_from_huggingface,
    load_from,
    load_huggingface,
    save_huggingface,
)
from transformer_xl.pretrained.torch_files import load_torch_file
from transformer_xl.safetensors_files import load_safetensors, save_safetensors

pytestmark = pytest.mark.usefixtures("graphs_as_written")

CASES = sorted(
    path.stem.removeprefix("huggingface_")
    for path in golden.DIRECTORY.glob("huggingface_*.npz")
    if "vocabulary" not in path.stem
)
LENGTH = huggingface_cases.LENGTH
PEER_SCRIPT = huggingface_cases.__file__.replace("huggingface_cases", "huggingface_peer")


def assert_loads(directory, expected):
    model, tokens = load_huggingface(str(directory))
    nll, _ = nll_of(model, expected["tokens"], LENGTH)
    np.testing.assert_allclose(nll, expected["nll"], rtol=0, atol=5e-5)
    return model, tokens


def test_every_format_and_every_case_is_there(tmp_path):
    assert set(CASES) == set(huggingface_cases.CASES)
    for case in CASES:
        unpack(f"huggingface_{case}", tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {
        "config.json",
        "model.safetensors",
        "pytorch_model.bin",
        "tf_model.h5",
    }


@pytest.mark.parametrize("case", CASES)
def test_four_segments(case, tmp_path):
    expected = unpack(f"huggingface_{case}", tmp_path)
    _, tokens = assert_loads(tmp_path, expected)
    assert tokens is None


@pytest.mark.parametrize("case", CASES)
def test_saved_and_loaded_again(case, tmp_path):
    expected = unpack(f"huggingface_{case}", tmp_path / "theirs")
    model, _ = load_huggingface(str(tmp_path / "theirs"))
    words = [f"word{i}" for i in range(52)] + ["<eos>"]
    save_huggingface(model, str(tmp_path / "ours"), words)
    again, tokens = assert_loads(tmp_path / "ours", expected)
    assert tokens == words
    assert again.config == model.config
    config = json.loads((tmp_path / "ours" / "config.json").read_text())
    assert config["eos_token_id"] == 52
    for ours, theirs in zip(again.trainable_variables, model.trainable_variables):
        np.testing.assert_array_equal(ours.numpy(), theirs.numpy())


@pytest.mark.parametrize("case", ["div1_tied", "div4_tied", "div1_untied"])
def test_saved_are_their_own_names_and_values(case, tmp_path):
    """Against the state dict that HuggingFace wrote, without this project's mapping."""
    unpack(f"huggingface_{case}", tmp_path / "theirs")
    theirs = load_torch_file(str(tmp_path / "theirs" / "pytorch_model.bin"))
    model, _ = load_huggingface(str(tmp_path / "theirs"))
    save_huggingface(model, str(tmp_path / "ours"))
    ours = load_safetensors(str(tmp_path / "ours" / "model.safetensors"))
    dropped = set(theirs) - set(ours)
    tied = ("crit.out_layers", "crit.out_projs")
    assert all(name.startswith(tied) for name in dropped), dropped
    # A constant, computed in float32 there.
    frequencies = "transformer.pos_emb.inv_freq"
    np.testing.assert_allclose(ours.pop(frequencies), theirs.pop(frequencies), rtol=3e-7)
    assert not set(ours) - set(theirs)
    for name in ours.keys() & theirs.keys():
        np.testing.assert_array_equal(ours[name], theirs[name])
    if case == "div1_untied":
        assert not {name for name in dropped if "projs" in name}


def settings_of(directory):
    return json.loads((directory / "config.json").read_text())


def test_absent_settings_have_their_defaults(tmp_path):
    unpack("huggingface_div4_tied", tmp_path)
    config = settings_of(tmp_path)
    old = {
        name: value
        for name, value in config.items()
        if name not in ("layer_norm_epsilon", "tie_word_embeddings", "tie_projs", "init_std")
    }
    old["n_token"] = old.pop("vocab_size")  # as in files of 2019
    assert config_from_huggingface(old) == config_from_huggingface(config)
    untied = config_from_huggingface({**old, "proj_share_all_but_first": False})
    assert untied.tie_projections == (False, False, False)
    with pytest.raises(ValueError, match="needs vocab_size"):
        config_from_huggingface({"d_model": 16})


def changed(directory, change):
    """Changes a state dict and writes it as safetensors."""
    weights = dict(load_safetensors(str(directory / "model.safetensors")))
    weights = {name: np.array(value) for name, value in weights.items()}
    change(weights)
    save_safetensors(weights, str(directory / "model.safetensors"), {})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda w: w.pop("crit.cluster_bias"), r"It lacks: crit\.cluster_bias\."),
        (
            lambda w: w.update({"transformer.layers.2.pos_ff.bias": np.ones(3)}),
            r"no place for: transformer\.layers\.2\.pos_ff\.bias\.",
        ),
        (
            lambda w: w.update({"crit.out_layers.1.bias": np.ones(3)}),
            r"crit\.out_layers\.1\.bias is \(3,\), must be \(18,\)",
        ),
        (lambda w: w["crit.cluster_bias"].fill(np.inf), r"not in: crit\.cluster_bias\. T"),
    ],
)
def test_weights_that_do_not_fit(change, message, tmp_path):
    unpack("huggingface_div2_tied", tmp_path)
    changed(tmp_path, change)
    with pytest.raises(ValueError, match=message) as caught:
        load_huggingface(str(tmp_path))
    assert "model.safetensors" in str(caught.value)


def test_all_that_is_wrong_is_named_at_once(tmp_path):
    unpack("huggingface_div2_tied", tmp_path)

    def change(weights):
        weights["more"] = weights.pop("crit.cluster_bias")
        weights["other"] = weights.pop("transformer.layers.1.dec_attn.r_net.weight")

    changed(tmp_path, change)
    with pytest.raises(ValueError) as caught:
        load_huggingface(str(tmp_path))
    for name in ("crit.cluster_bias", "layers.1.dec_attn.r_net.weight", "more, other"):
        assert name in str(caught.value)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("config.json", b"{", r"config\.json is not JSON"),
        ("config.json", b"[]", "must hold an object"),
        ("config.json", b'{"vocab_size": 53, "d_model": 16, "cutoffs": 5}', "no configuration"),
        ("config.json", b'{"vocab_size": 53, "d_model": 15}', "must be even"),
        ("model.safetensors", b"", "damaged, cut short"),
        ("model.safetensors", b"\xff" * 100, "its header says"),
        ("vocab.txt", b"a\nb\n", "a token for each of the model's 53 ids. Received: 2"),
    ],
)
def test_files_that_cannot_be_read(name, content, message, tmp_path):
    unpack("huggingface_div2_tied", tmp_path)
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=message):
        load_huggingface(str(tmp_path))


@pytest.mark.parametrize("case", ["div1_tied", "div1_untied", "div2_tied", "div2_untied"])
@pytest.mark.parametrize("part", [0.02, 0.5, 0.9, -1])
def test_files_that_are_cut_short(case, part, tmp_path):
    unpack(f"huggingface_{case}", tmp_path)
    (path,) = (path for path in tmp_path.iterdir() if path.name != "config.json")
    content = path.read_bytes()
    path.write_bytes(content[: int(part * len(content)) if part > 0 else part])
    with pytest.raises(ValueError, match=f"{path.name} cannot be read: it is damaged, cut short"):
        load_huggingface(str(tmp_path))


def test_what_is_missing_is_said(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"must hold a config\.json"):
        load_huggingface(str(tmp_path))
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(FileNotFoundError, match=r"needs weights: model\.safetensors, tf_model"):
        load_huggingface(str(tmp_path))


SMALL = dict(
    vocab_size=30,
    model_dim=8,
    num_heads=2,
    feed_forward_dim=8,
    num_layers=1,
    cutoffs=(10,),
    memory_start="zeros",
)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (dict(final_norm=True), "needs final_norm = False"),
        (dict(block_pattern="aff"), "needs block_pattern = af here. Received: aff"),
        (dict(force_projection=True), "needs projections in each cluster"),
        (dict(force_projection=False, div_val=2), "needs projections in each cluster"),
        (dict(div_val=1.5), "a whole div_val, like div_val = 2 here. Received: 1.5"),
    ],
)
def test_models_that_transfo_xl_does_not_have(settings, message, tmp_path):
    model = TransformerXL(ModelConfig(**{**SMALL, **settings}))
    with pytest.raises(ValueError, match=message):
        save_huggingface(model, str(tmp_path / "new"))
    assert not (tmp_path / "new").exists()


def test_one_projection_there_is_not_three_here(tmp_path):
    model = TransformerXL(ModelConfig(**SMALL, embedding_dim=4))
    message = "projection_0, .* cannot be written as transformer.word_emb.emb_projs.0"
    with pytest.raises(ValueError, match=message):
        save_huggingface(model, str(tmp_path / "new"))
    assert not (tmp_path / "new").exists()


def test_a_whole_divisor_is_written_as_an_integer(tmp_path):
    """TransfoXL makes widths of it, which must be integers."""
    save_huggingface(TransformerXL(ModelConfig(**SMALL, div_val=2.0)), str(tmp_path))
    assert '"div_val": 2,' in (tmp_path / "config.json").read_text()


def test_another_start_of_memory_is_warned_of(tmp_path):
    model = TransformerXL(ModelConfig(**{**SMALL, "memory_start": "empty"}))
    with pytest.warns(UserWarning, match="memory of zeros"):
        save_huggingface(model, str(tmp_path / "new"))
    with pytest.raises(ValueError, match="one for each of the 30 ids. Received: 2"):
        save_huggingface(model, str(tmp_path / "other"), ["a", "b"])


def test_tokens_that_a_file_cannot_hold(tmp_path):
    model = TransformerXL(ModelConfig(**SMALL))
    words = [f"w{i}" for i in range(30)]
    for tokens, message in (
        ([*words[:-1], "a b"], "no white space. Received: 'a b'"),
        ([*words[:-1], b"w29"], "is a str .* Received: b'w29'"),
        ([*words[:-1], "w3"], "Received twice: 'w3'"),
    ):
        with pytest.raises(ValueError, match=message):
            save_huggingface(model, str(tmp_path / "new"), tokens)
        assert not (tmp_path / "new").exists()
    save_huggingface(model, str(tmp_path / "new"), np.array(words))
    assert load_huggingface(str(tmp_path / "new"))[1] == words


def test_a_model_is_not_saved_among_files_of_another(tmp_path):
    """Which would be read with it: an old vocabulary, for instance, by `load_huggingface`."""
    model = TransformerXL(ModelConfig(**SMALL))
    words = [f"w{i}" for i in range(30)]
    others = {
        "vocab.txt": "\n".join(reversed(words)) + "\n",
        "vocab.json": json.dumps(words[::-1]),
        "pytorch_model.bin": "weights",
        "model.safetensors": "weights",
        "config.json": '{"model": {}, "train": {}}',  # a run's
    }
    gpt2 = ("config.json", '{"model_type": "gpt2", "n_layer": 12}')
    for name, content in (*others.items(), gpt2):
        (tmp_path / name).write_text(content)
        for tokens in (None, words):
            with pytest.raises(FileExistsError, match=f"which has {name}. Remove them, or name"):
                save_huggingface(model, str(tmp_path), tokens)
            assert os.listdir(tmp_path) == [name]
            assert (tmp_path / name).read_text() == content
        (tmp_path / name).unlink()
    # Its own files are replaced, and the same tokens in another file are no others.
    for times in range(2):
        (tmp_path / "vocab.json").write_text(json.dumps(words))
        if times:
            (tmp_path / "vocab.txt").write_text(others["vocab.txt"])
        save_huggingface(model, str(tmp_path), words)
        assert load_huggingface(str(tmp_path))[1] == words
        assert (tmp_path / "vocab.txt").read_text().split() == words


def test_fields_that_there_are_not(tmp_path):
    save_huggingface(TransformerXL(ModelConfig(**SMALL)), str(tmp_path))
    with pytest.raises(ValueError, match="must be fields of ModelConfig: .* Received: layers"):
        load_from(str(tmp_path), {"layers": 3})


def peer(variable, *arguments):
    """The last line that a peer prints."""
    interpreter = os.environ.get(variable)
    if not interpreter:
        pytest.skip(f"{variable} names no interpreter")
    command = [interpreter, "-W", "ignore", PEER_SCRIPT, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


@pytest.fixture(scope="module")
def peer_models(tmp_path_factory):
    directory = tmp_path_factory.mktemp("torch")
    peer("TRANSFO_XL_PEER", "torch", directory)
    return directory


@pytest.fixture(scope="module")
def keras_peer_models(tmp_path_factory):
    directory = tmp_path_factory.mktemp("keras")
    peer("TRANSFO_XL_KERAS_PEER", "keras", directory)
    return directory


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["pytorch_model.bin", "model.safetensors", "legacy"])
def test_random_models_load_and_are_saved_back(peer_models, kind, tmp_path):
    for case in huggingface_cases.CASES:
        expected = dict(np.load(peer_models / case / "expected.npz"))
        model, _ = assert_loads(peer_models / case / kind, expected)
        save_huggingface(model, str(tmp_path / case))
    for line in peer("TRANSFO_XL_PEER", "score", peer_models, tmp_path).splitlines():
        result = json.loads(line)
        expected = np.load(peer_models / result["case"] / "expected.npz")["nll"]
        np.testing.assert_allclose(result["nll"], expected, rtol=0, atol=5e-5)
        assert not result["missing"]
        assert not result["unexpected"]


@pytest.mark.slow
def test_random_keras_models_load(keras_peer_models):
    for case in huggingface_cases.KERAS_CASES:
        expected = dict(np.load(keras_peer_models / case / "expected.npz"))
        assert_loads(keras_peer_models / case / "tf_model.h5", expected)
