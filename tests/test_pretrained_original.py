"""Checkpoints of the original code, kimiyoung/transformer-xl; see golden/README.md."""

import itertools
import json
import pathlib
import re

import numpy as np
import pytest
import tensorflow as tf

from tests.golden_files import nll_of, unpack
from transformer_xl import ModelConfig, TransformerXL
from transformer_xl.pretrained import (
    load_pytorch,
    load_tf1,
    original_pytorch,
    original_tensorflow,
)
from transformer_xl.pretrained.original_settings import divisor
from transformer_xl.pretrained.torch_files import load_torch_file

pytestmark = pytest.mark.usefixtures("graphs_as_written")

LENGTH = 7
TENSORFLOW = ("div4", "div1_shared_biases")
PYTORCH = ("div4", "div1")
# What the checkpoints do not tell: the memory's length and, of one table, where it is cut.
UNTOLD = {"div4": {}, "div1": {"cutoffs": (20, 60, 140)}, "div1_shared_biases": {}}


def given(case, arrays, way):
    """The configuration as a user would give it: as little as can be, or the original's."""
    if way == "least":
        return {"memory_length": 11, **UNTOLD[case]}
    return json.loads(str(arrays["config"]))


@pytest.mark.parametrize("way", ["least", "original names"])
@pytest.mark.parametrize("case", TENSORFLOW)
def test_tensorflow_checkpoints(case, way, tmp_path):
    arrays = unpack(f"original_tensorflow_{case}", tmp_path)
    config = given(case, arrays, way)
    model, tokens = load_tf1(str(tmp_path / "model.ckpt"), config)
    assert tokens is None
    nll, memory = nll_of(model, arrays["tokens"], LENGTH)
    for segment in range(4):
        mean = nll[:, segment * LENGTH : (segment + 1) * LENGTH].mean()
        assert mean == pytest.approx(float(arrays[f"mean_nll_{segment}"]), rel=0, abs=5e-5)
    for n, hidden in enumerate(memory.hidden):
        np.testing.assert_allclose(hidden, arrays[f"memory_{n}"], rtol=1e-5, atol=5e-5)


@pytest.mark.parametrize("way", ["least", "original names"])
@pytest.mark.parametrize("case", PYTORCH)
def test_pytorch_state_dicts(case, way, tmp_path):
    arrays = unpack(f"original_pytorch_{case}", tmp_path)
    config = given(case, arrays, way)
    model, tokens = load_pytorch(str(tmp_path / "model.pt"), config)
    assert tokens is None
    nll, _ = nll_of(model, arrays["tokens"], LENGTH)
    expected = np.concatenate([arrays[f"nll_{segment}"] for segment in range(4)], 1)
    np.testing.assert_allclose(nll, expected, rtol=0, atol=5e-5)


@pytest.fixture(scope="module", params=TENSORFLOW)
def tensorflow_weights(request, tmp_path_factory):
    directory = tmp_path_factory.mktemp(request.param)
    unpack(f"original_tensorflow_{request.param}", directory)
    reader = tf.train.load_checkpoint(str(directory / "model.ckpt"))
    return {name: reader.get_tensor(name) for name in reader.get_variable_to_shape_map()}


def save_tensorflow(weights, directory):
    """Writes variables under their names, as the original code's saver does."""
    with tf.Graph().as_default(), tf.compat.v1.Session() as session:
        variables = [tf.compat.v1.Variable(value, name=name) for name, value in weights.items()]
        session.run(tf.compat.v1.global_variables_initializer())
        saver = tf.compat.v1.train.Saver(variables)
        return saver.save(session, str(directory / "copy"), write_meta_graph=False)


def some(names):
    """Layer 1's and all that are no layer's."""
    return [name for name in names if not re.search(r"/layer_[02]|^layers\.[02]", name)]


@pytest.mark.slow
def test_tensorflow_weights_taken_away(tensorflow_weights, tmp_path, monkeypatch):
    """Each in turn; the untied projection too, without which the head would seem tied."""
    name = "transformer/layer_1/ff/layer_1/bias"
    rest = {other: w for other, w in tensorflow_weights.items() if other != name}
    with pytest.raises(ValueError, match=f"It lacks: {name}"):
        load_tf1(save_tensorflow(rest, tmp_path), {"memory_length": 11})
    # The others without the detour over a file.
    for name in some(tensorflow_weights):
        rest = {other: w for other, w in tensorflow_weights.items() if other != name}
        monkeypatch.setattr(original_tensorflow, "_load_arrays", lambda prefix, rest=rest: rest)
        with pytest.raises(ValueError, match="It lacks: ") as caught:
            load_tf1("copy", {"memory_length": 11})
        assert name in str(caught.value)


def test_tensorflow_weights_added(tensorflow_weights, tmp_path):
    more = {"transformer/layer_0/ff/layer_3/bias": np.ones(3, "float32")}
    prefix = save_tensorflow({**tensorflow_weights, **more}, tmp_path)
    with pytest.raises(ValueError, match="no place for: transformer/layer_0/ff/layer_3/bias"):
        load_tf1(prefix, {"memory_length": 11})


def test_tensorflow_training_checkpoints(tensorflow_weights, tmp_path):
    """Adam's moments and counters are no weights; moments of a weight that is missing are odd."""
    slots = {
        f"{name}/{slot}": np.zeros_like(value)
        for name, value in tensorflow_weights.items()
        for slot in ("Adam", "Adam_1")
    }
    counters = {"global_step": np.int64(3), "beta1_power": np.float32(0.9)}
    prefix = save_tensorflow({**tensorflow_weights, **slots, **counters}, tmp_path)
    model, _ = load_tf1(prefix, {"memory_length": 11})
    np.testing.assert_array_equal(
        model.blocks[0].inner.position_kernel.numpy(),
        tensorflow_weights["transformer/layer_0/rel_attn/r/kernel"],
    )
    prefix = save_tensorflow({**tensorflow_weights, "other/Adam": np.float32(0)}, tmp_path)
    with pytest.raises(ValueError, match="no place for: other/Adam"):
        load_tf1(prefix, {"memory_length": 11})


@pytest.mark.parametrize("case", [pytest.param("div4", marks=pytest.mark.slow), "div1"])
def test_pytorch_weights_taken_away_and_added(case, tmp_path, monkeypatch):
    unpack(f"original_pytorch_{case}", tmp_path)
    weights = load_torch_file(str(tmp_path / "model.pt"))
    config = {"memory_length": 11, **UNTOLD[case]}

    def load(changed):
        monkeypatch.setattr(original_pytorch, "load_torch_file", lambda path: changed)
        return load_pytorch("copy.pt", config)

    for name in some(weights):
        rest = {other: w for other, w in weights.items() if other != name}
        if name == "pos_emb.inv_freq":
            load(rest)  # a constant and no weight
            continue
        with pytest.raises(ValueError, match=r"copy\.pt do.*It lacks: ") as caught:
            load(rest)
        assert name in str(caught.value)
    for name in ("crit.out_layers.7.bias", "pos_emb.other"):
        with pytest.raises(ValueError, match=f"no place for: {name}"):
            load({**weights, name: np.ones(3, "float32")})
    with pytest.raises(ValueError, match=r"no place for: pos_emb\.inv_freq"):
        load({**weights, "pos_emb.inv_freq": 2 * weights["pos_emb.inv_freq"]})
    wrapped, _ = load({f"module.{name}": weight for name, weight in weights.items()})
    assert wrapped.config == load(weights)[0].config


def test_pytorch_ties_are_seen(tmp_path, monkeypatch):
    unpack("original_pytorch_div4", tmp_path)
    weights = dict(load_torch_file(str(tmp_path / "model.pt")))
    for name in ("crit.out_layers.2.weight", "crit.out_projs.1"):
        weights[name] = weights[name] + 1
    monkeypatch.setattr(original_pytorch, "load_torch_file", lambda path: weights)
    model, _ = load_pytorch("copy.pt", {"memory_length": 11})
    assert not model.config.tie_tables
    assert model.config.tie_projections == (False, False, True, True)
    np.testing.assert_array_equal(model.head.tables[2], weights["crit.out_layers.2.weight"])
    np.testing.assert_array_equal(model.head.projections[1], weights["crit.out_projs.1"].T)
    np.testing.assert_array_equal(model.embedding.projections[1], weights["word_emb.emb_projs.1"].T)


def test_what_is_not_told_is_asked_for(tmp_path):
    unpack("original_pytorch_div1", tmp_path)
    path = str(tmp_path / "model.pt")
    with pytest.raises(ValueError, match="does not tell cutoffs, memory_length. Give them"):
        load_pytorch(path)
    with pytest.raises(ValueError, match="does not tell cutoffs. Give"):
        load_pytorch(path, {"mem_len": 11})
    unpack("original_tensorflow_div4", tmp_path)
    with pytest.raises(ValueError, match="does not tell memory_length. Give"):
        load_tf1(str(tmp_path / "model.ckpt"), {"clamp_len": 5})


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"model_width": 3}, "fields of ModelConfig: .*Received: model_width"),
        ({"num_layers": 4}, r"has num_layers=2 \(received: 4\)\. Leave out"),
        (
            {"num_heads": 2, "mem_len": 3, "d_head": 32},
            r"num_heads=4 .*: 2\), head_dim=16 .*: 32\)",
        ),
        ({"cutoffs": (20, 60)}, r"cluster_weight is \(3, 64\), must be \(2, 64\)"),
        ({"cutoffs": (20, 60, 999)}, "between 1 and vocabulary size"),
        ({"tie_tables": False, "div_val": 2}, r"It lacks: word_emb\.emb_layers\.1"),
    ],
)
def test_a_configuration_that_does_not_fit(config, message, tmp_path):
    unpack("original_pytorch_div1", tmp_path)
    with pytest.raises(ValueError, match=message):
        load_pytorch(
            str(tmp_path / "model.pt"),
            {"memory_length": 11, "cutoffs": (20, 60, 140), **config},
        )


def test_a_whole_configuration_is_taken_as_it_is(tmp_path):
    unpack("original_pytorch_div4", tmp_path)
    model, _ = load_pytorch(str(tmp_path / "model.pt"), {"memory_length": 11})
    config = ModelConfig(
        211,
        num_layers=3,
        model_dim=64,
        feed_forward_dim=128,
        cutoffs=(20, 60, 140),
        div_val=4,
        untie_position_biases=False,
        memory_length=5,
        memory_start="zeros",
        clamp_length=9,
        layer_norm_epsilon=1e-6,
    )
    again, _ = load_pytorch(str(tmp_path / "model.pt"), config)
    assert again.config == config
    for one, other in zip(again.trainable_variables, model.trainable_variables):
        np.testing.assert_array_equal(one.numpy(), other.numpy())


def test_tensorflow_sees_one_key_more_with_same_length(tmp_path):
    """Its mask: query i of a segment does not see the i oldest keys of M + L."""
    unpack("original_tensorflow_div4", tmp_path)
    prefix = str(tmp_path / "model.ckpt")
    model, _ = load_tf1(prefix, {"mem_len": 11, "same_length": True})
    assert (model.config.memory_length, model.config.same_length) == (12, True)
    # The first of 12 remembered positions is out of every query's sight, the second is in that
    # of the first query only.
    plain, _ = load_tf1(prefix, {"mem_len": 12})
    draw = np.random.default_rng(1)
    tokens = draw.integers(0, 211, [1, 5]).astype("int32")
    remembered = draw.standard_normal([1, 12, 64]).astype("float32")

    def sees(position):
        """Which queries depend on a position of the lowest layer's memory."""
        losses = []
        for scale in (0.0, 5.0):
            memory = plain.initial_memory(1)
            hidden = remembered.copy()
            hidden[:, position] *= scale
            memory = memory._replace(hidden=(tf.constant(hidden), *memory.hidden[1:]))
            hidden, _ = model(tokens, memory)
            losses.append(hidden.numpy()[0])
        return np.abs(losses[0] - losses[1]).max(-1) > 1e-6

    assert not sees(0).any()
    assert sees(1)[0]
    single = ModelConfig(**{**vars(model.config), "num_layers": 1, "block_pattern": None})
    assert TransformerXL(single).config.memory_length == 12


def test_checkpoints_that_cannot_be_read(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"nothing\.index is missing"):
        load_tf1(str(tmp_path / "nothing"))
    unpack("original_tensorflow_div4", tmp_path)
    data = tmp_path / "model.ckpt.data-00000-of-00001"
    index = tmp_path / "model.ckpt.index"
    for path, size in itertools.product((data, index), (0, 100)):
        unpack("original_tensorflow_div4", tmp_path)
        path.write_bytes(path.read_bytes()[:size])
        with pytest.raises(ValueError, match=r"model\.ckpt cannot be read: it is damaged"):
            load_tf1(str(tmp_path / "model.ckpt"), {"memory_length": 11})
    data.unlink()
    with pytest.raises(ValueError, match=r"model\.ckpt cannot be read"):
        load_tf1(str(tmp_path / "model.ckpt"), {"memory_length": 11})


def test_the_vocabulary_beside_it(tmp_path):
    unpack("original_pytorch_div4", tmp_path)
    words = [f"word{i}" for i in range(211)]
    (tmp_path / "vocab.txt").write_text("".join(f"{word} 7\n" for word in words))
    _, tokens = load_pytorch(str(tmp_path / "model.pt"), {"memory_length": 11})
    assert tokens == words


def test_the_page_runs(tmp_path, monkeypatch):
    """With small files under the names of docs/pretrained.md."""
    unpack("huggingface_div4_tied", tmp_path / "transfo-xl-wt103")
    unpack("original_pytorch_div1", tmp_path)
    unpack("original_tensorflow_div4", tmp_path)
    page = pathlib.Path(__file__).parent.parent / "docs" / "pretrained.md"
    (block,) = re.findall(r"```python\n(.*?)```", page.read_text(), re.DOTALL)
    monkeypatch.chdir(tmp_path)
    names = {}
    exec(block, names)
    assert names["model"].config.vocab_size == 211
    assert (tmp_path / "saved" / "model.safetensors").exists()


def test_widths_have_a_divisor():
    assert divisor((64, 16, 4, 1), "x") == 4
    assert divisor((64,), "x") == 1
    assert divisor((24, 12, 6), "x") == 2
    assert divisor((10, 3, 1), "x") == 3
    with pytest.raises(ValueError, match="widths 64, 16, 8"):
        divisor((64, 16, 8), "x")
