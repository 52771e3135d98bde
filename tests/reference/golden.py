"""Golden files as arguments of the oracles.

The files hold a state dict in HuggingFace's names, which tests/golden/README.md explains. This
mapping is the oracles' own: it shares nothing with the one that loads such weights into the model,
so that one mistake cannot hide in both.
"""

import itertools
import json
from pathlib import Path
from typing import NamedTuple

import numpy as np

DIRECTORY = Path(__file__).resolve().parent.parent / "golden"


class GoldenModel(NamedTuple):
    """weights: of transformer_xl.forward; head: keyword arguments of adaptive.log_prob, nll and
    nll_gradients; settings: keyword arguments of transformer_xl.forward; memory_length: M.
    """

    weights: dict
    head: dict
    settings: dict
    memory_length: int


def oracle_weights(npz):
    """Maps an open golden file, or a dict of its arrays, into a GoldenModel."""
    config = json.loads(str(npz["config"]))
    edges = [0, *config["cutoffs"], config["vocab_size"]]

    def weight(name):
        return npz[f"weight/{name}"] if f"weight/{name}" in npz else None

    def transposed(name):
        kernel = weight(name)
        return None if kernel is None else kernel.T

    def clusters(name):
        """A per-cluster parameter; at div_val 1 the file has one for the whole vocabulary."""
        if config["div_val"] == 1:
            whole = weight(name.format(0))
            return [whole[start:end] for start, end in itertools.pairwise(edges)]
        return [weight(name.format(i)) for i in range(len(edges) - 1)]

    def embedding_projection(i):
        # At div_val 1 the file has at most one projection, which all clusters share.
        return transposed(f"transformer.word_emb.emb_projs.{0 if config['div_val'] == 1 else i}")

    blocks = []
    for layer in range(config["n_layer"]):
        blocks.append(_attention_block(weight, layer, config["untie_r"]))
        blocks.append(_feed_forward_block(weight, layer))
    num_clusters = len(edges) - 1
    return GoldenModel(
        weights={
            "tables": clusters("transformer.word_emb.emb_layers.{}.weight"),
            "projections": [embedding_projection(i) for i in range(num_clusters)],
            "blocks": blocks,
        },
        head={
            "tables": clusters("crit.out_layers.{}.weight"),
            "biases": clusters("crit.out_layers.{}.bias"),
            "projections": [transposed(f"crit.out_projs.{i}") for i in range(num_clusters)],
            "cluster_kernel": weight("crit.cluster_weight"),
            "cluster_bias": weight("crit.cluster_bias"),
        },
        settings={
            "num_heads": config["n_head"],
            "head_dim": config["d_head"],
            "clamp_length": config["clamp_len"],
            "same_length": config["same_length"],
            "layer_norm": "pre" if config["pre_lnorm"] else "post",
            "layer_norm_epsilon": config["layer_norm_epsilon"],
        },
        memory_length=config["mem_len"],
    )


def _attention_block(weight, layer, untied):
    name = f"transformer.layers.{layer}.dec_attn"
    # One matrix makes queries, keys and values, in this order; linear layers keep [out, in].
    query, key, value = np.split(weight(f"{name}.qkv_net.weight").T, 3, axis=1)
    # Shared biases belong to the model; the state dict repeats them under each layer.
    biases = name if untied else "transformer"
    return {
        "query": query,
        "key": key,
        "value": value,
        "position": weight(f"{name}.r_net.weight").T,
        "output": weight(f"{name}.o_net.weight").T,
        # Added to the query where it meets a word ("w") and where it meets a distance ("r").
        "content_bias": weight(f"{biases}.r_w_bias"),
        "position_bias": weight(f"{biases}.r_r_bias"),
        "gamma": weight(f"{name}.layer_norm.weight"),
        "beta": weight(f"{name}.layer_norm.bias"),
    }


def _feed_forward_block(weight, layer):
    name = f"transformer.layers.{layer}.pos_ff"
    return {
        "inner_kernel": weight(f"{name}.CoreNet.0.weight").T,
        "inner_bias": weight(f"{name}.CoreNet.0.bias"),
        "outer_kernel": weight(f"{name}.CoreNet.3.weight").T,
        "outer_bias": weight(f"{name}.CoreNet.3.bias"),
        "gamma": weight(f"{name}.layer_norm.weight"),
        "beta": weight(f"{name}.layer_norm.bias"),
    }
