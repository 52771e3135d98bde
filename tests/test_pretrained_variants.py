"""Variants of the original code's models that the golden checkpoints do not have.

The same random weights are laid out as the original code has them and as HuggingFace has them, by
this file; how HuggingFace's are read is tested against HuggingFace.
"""

import numpy as np
import pytest

from tests.golden_files import nll_of
from tests.test_pretrained_original import save_tensorflow
from transformer_xl import TransformerXL
from transformer_xl.pretrained import (
    assign_huggingface_weights,
    config_from_huggingface,
    load_pytorch,
    load_tf1,
    original_pytorch,
    original_tensorflow,
)

pytestmark = pytest.mark.usefixtures("graphs_as_written")

SIZES = dict(vocab_size=50, d_model=12, n_head=3, d_head=5, d_inner=10, n_layer=2, mem_len=6)
EDGES = [0, 10, 30, 50]
VARIANTS = {
    "no cutoffs": dict(cutoffs=[], div_val=1, d_embed=12),
    "no cutoffs, narrow": dict(cutoffs=[], div_val=1, d_embed=8, tie_projs=[True]),
    "narrow, shared": dict(cutoffs=[10, 30], div_val=1, d_embed=8, tie_projs=[False, True, True]),
    "narrow, own": dict(cutoffs=[10, 30], div_val=1, d_embed=8, tie_projs=[False] * 3),
    "all own": dict(cutoffs=[10, 30], div_val=2, d_embed=12, tie_projs=[False] * 3),
}


def settings_of(variant, **more):
    base = dict(clamp_len=-1, same_length=False, dropout=0.0, tie_projs=[False] * 3)
    return {**base, **SIZES, **VARIANTS[variant], **more}


def random_weights(variant, untied_biases):
    """HuggingFace's state dict, made by hand."""
    c = settings_of(variant)
    draw = np.random.default_rng(1)
    inner, width = c["n_head"] * c["d_head"], c["d_model"]
    weights = {}

    def add(name, *shape, centre=0.0):
        weights[name] = (centre + 0.3 * draw.standard_normal(shape)).astype("float32")

    clusters = len(c["cutoffs"]) + 1
    widths = [c["d_embed"] // c["div_val"] ** i for i in range(clusters)]
    for i in range(1 if c["div_val"] == 1 else clusters):
        size = 50 if c["div_val"] == 1 else EDGES[i + 1] - EDGES[i]
        add(f"transformer.word_emb.emb_layers.{i}.weight", size, widths[i])
        weights[f"crit.out_layers.{i}.weight"] = weights[
            f"transformer.word_emb.emb_layers.{i}.weight"
        ]
        add(f"crit.out_layers.{i}.bias", size)
        if c["div_val"] > 1 or c["d_embed"] != width:
            add(f"transformer.word_emb.emb_projs.{i}", width, widths[i])
    for i in range(clusters):
        shared = weights.get(f"transformer.word_emb.emb_projs.{0 if c['div_val'] == 1 else i}")
        if shared is not None:
            add(f"crit.out_projs.{i}", width, widths[i])
            if c["tie_projs"][i]:
                weights[f"crit.out_projs.{i}"] = shared
    if clusters > 1:
        add("crit.cluster_weight", clusters - 1, c["d_embed"])
        add("crit.cluster_bias", clusters - 1)
    for n in range(c["n_layer"]):
        attention, feed_forward = (
            f"transformer.layers.{n}.dec_attn",
            f"transformer.layers.{n}.pos_ff",
        )
        add(f"{attention}.qkv_net.weight", 3 * inner, width)
        add(f"{attention}.r_net.weight", inner, width)
        add(f"{attention}.o_net.weight", width, inner)
        add(f"{feed_forward}.CoreNet.0.weight", c["d_inner"], width)
        add(f"{feed_forward}.CoreNet.0.bias", c["d_inner"])
        add(f"{feed_forward}.CoreNet.3.weight", width, c["d_inner"])
        add(f"{feed_forward}.CoreNet.3.bias", width)
        for block in (attention, feed_forward):
            add(f"{block}.layer_norm.weight", width, centre=1.0)
            add(f"{block}.layer_norm.bias", width)
        if untied_biases:
            for name in ("r_w_bias", "r_r_bias"):
                add(f"{attention}.{name}", c["n_head"], c["d_head"])
    if not untied_biases:
        for name in ("r_w_bias", "r_r_bias"):
            add(f"transformer.{name}", c["n_head"], c["d_head"])
    return weights


def losses(variant, weights, **more):
    """By way of HuggingFace's layout."""
    model = TransformerXL(config_from_huggingface(settings_of(variant, **more)))
    assign_huggingface_weights(model, weights)
    return nll_of(model, tokens(), 5)[0], model


def tokens():
    return np.random.default_rng(2).integers(0, 50, [2, 21])


def as_tensorflow(variant, weights):
    c = settings_of(variant)
    layers, result = range(c["n_layer"]), {}
    embedding, softmax = "transformer/adaptive_embed", "transformer/adaptive_softmax"
    for name, value in weights.items():
        *_, parent, last = name.split(".")
        if "emb_layers" in name:
            scope = embedding if c["div_val"] == 1 else f"{embedding}/cutoff_{parent}"
            result[f"{scope}/lookup_table"] = value
        elif "emb_projs" in name:
            scope = embedding if c["div_val"] == 1 else f"{embedding}/cutoff_{last}"
            result[f"{scope}/proj_W"] = value.T
        elif "out_projs" in name and not c["tie_projs"][int(last)]:
            result[f"{softmax}/cutoff_{last}/proj"] = value.T
        elif "out_layers" in name and last == "bias":
            if not c["cutoffs"]:
                result[f"{softmax}/bias"] = value
            elif c["div_val"] == 1:
                for i in range(3):
                    result[f"{softmax}/cutoff_{i}/b"] = value[EDGES[i] : EDGES[i + 1]]
            else:
                result[f"{softmax}/cutoff_{parent}/b"] = value
    if c["cutoffs"]:
        result[f"{softmax}/cutoff_0/cluster_W"] = weights["crit.cluster_weight"]
        result[f"{softmax}/cutoff_0/cluster_b"] = weights["crit.cluster_bias"]
    for name in ("r_w_bias", "r_r_bias"):
        each = [weights[f"transformer.layers.{n}.dec_attn.{name}"] for n in layers]
        result[f"transformer/{name}"] = np.stack(each)
    for n in layers:
        theirs, ours = f"transformer.layers.{n}", f"transformer/layer_{n}"
        for part, kernel in (("qkv", "qkv_net"), ("r", "r_net"), ("o", "o_net")):
            value = weights[f"{theirs}.dec_attn.{kernel}.weight"]
            result[f"{ours}/rel_attn/{part}/kernel"] = value.T
        for part, core in (("layer_1", 0), ("layer_2", 3)):
            value = weights[f"{theirs}.pos_ff.CoreNet.{core}.weight"]
            result[f"{ours}/ff/{part}/kernel"] = value.T
            result[f"{ours}/ff/{part}/bias"] = weights[f"{theirs}.pos_ff.CoreNet.{core}.bias"]
        for block, their_block in (("rel_attn", "dec_attn"), ("ff", "pos_ff")):
            for part, last in (("gamma", "weight"), ("beta", "bias")):
                value = weights[f"{theirs}.{their_block}.layer_norm.{last}"]
                result[f"{ours}/{block}/LayerNorm/{part}"] = value
    return result


@pytest.mark.parametrize("variant", VARIANTS)
def test_tensorflow(variant, tmp_path, monkeypatch):
    weights = random_weights(variant, untied_biases=True)
    expected, model = losses(variant, weights, layer_norm_epsilon=1e-12)
    saved = as_tensorflow(variant, weights)
    loaded, _ = load_tf1(save_tensorflow(saved, tmp_path), {"memory_length": 6})
    assert loaded.config.cutoffs == model.config.cutoffs
    assert loaded.count_params() == model.count_params()
    np.testing.assert_allclose(nll_of(loaded, tokens(), 5)[0], expected, atol=1e-5)
    for name in saved:
        if name.startswith(("transformer/adaptive", "transformer/r_")):
            rest = {other: value for other, value in saved.items() if other != name}
            monkeypatch.setattr(original_tensorflow, "_load_arrays", lambda _, rest=rest: rest)
            with pytest.raises(ValueError, match="It lacks") as caught:
                load_tf1("copy", {"memory_length": 6})
            assert name in str(caught.value)


def test_tensorflow_without_a_projection_of_wide_tables(tmp_path):
    """`proj_same_dim` False: with div_val above 1 the head's table is used as it is."""
    weights = as_tensorflow("all own", random_weights("all own", untied_biases=True))
    for name in ("adaptive_embed/cutoff_0/proj_W", "adaptive_softmax/cutoff_0/proj"):
        del weights[f"transformer/{name}"]
    model, _ = load_tf1(save_tensorflow(weights, tmp_path), {"memory_length": 6})
    assert model.embedding.projected == model.head.projected == (False, True, True)
    np.testing.assert_array_equal(
        model.head.projections[2], weights["transformer/adaptive_softmax/cutoff_2/proj"]
    )


@pytest.mark.parametrize("variant", VARIANTS)
def test_pytorch(variant, monkeypatch):
    weights = random_weights(variant, untied_biases=False)
    expected, model = losses(variant, weights, untie_r=False)
    saved = {name.removeprefix("transformer."): value for name, value in weights.items()}
    for name in ("crit.cluster_weight", "crit.cluster_bias"):
        if name in saved:
            saved[name] = saved[name][::-1]
    monkeypatch.setattr(original_pytorch, "load_torch_file", lambda path: saved)
    config = {"memory_length": 6, "memory_start": "zeros"}
    if model.config.div_val == 1:
        config["cutoffs"] = model.config.cutoffs
    loaded, _ = load_pytorch("x.pt", config)
    assert loaded.count_params() == model.count_params()
    np.testing.assert_allclose(nll_of(loaded, tokens(), 5)[0], expected, atol=1e-5)
