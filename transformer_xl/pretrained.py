"""Weights of other implementations, mapped into the model; the one place that knows their names.

HuggingFace's TransfoXL keeps dense kernels as `[out, in]`, as PyTorch does, and projections as
`[D, E]`.
"""

from collections.abc import Mapping

import numpy as np

from transformer_xl.config import ModelConfig
from transformer_xl.model import TransformerXL


def config_from_huggingface(config: Mapping) -> ModelConfig:
    """The `ModelConfig` of a HuggingFace `TransfoXLConfig`, given as a dictionary.

    Raises:
      ValueError: if the model is of a kind that this project does not have.
    """
    if config["attn_type"] != 0 or config["sample_softmax"] > 0:
        raise ValueError(
            "Only relative attention (attn_type 0) with an adaptive softmax can be read. "
            f"Received: attn_type={config['attn_type']}, sample_softmax={config['sample_softmax']}."
        )
    num_clusters = len(config["cutoffs"]) + 1
    narrow = config["div_val"] > 1 or config["d_embed"] != config["d_model"]
    return ModelConfig(
        vocab_size=config["vocab_size"],
        num_layers=config["n_layer"],
        model_dim=config["d_model"],
        embedding_dim=config["d_embed"],
        num_heads=config["n_head"],
        head_dim=config["d_head"],
        feed_forward_dim=config["d_inner"],
        cutoffs=tuple(config["cutoffs"]),
        div_val=config["div_val"],
        force_projection=narrow,
        tie_tables=config["tie_word_embeddings"],
        tie_projections=tuple(config["tie_projs"][:num_clusters]) if narrow else False,
        untie_position_biases=config["untie_r"],
        layer_norm="pre" if config["pre_lnorm"] else "post",
        layer_norm_epsilon=config["layer_norm_epsilon"],
        dropout=config["dropout"],
        attention_dropout=config["dropatt"],
        memory_length=config["mem_len"],
        memory_start="zeros",
        clamp_length=config["clamp_len"] if config["clamp_len"] > 0 else -1,
        same_length=config["same_length"],
        init_stddev=config["init_std"],
        projection_init_stddev=config["proj_init_std"],
    )


def assign_huggingface_weights(model: TransformerXL, weights: Mapping[str, np.ndarray]):
    """Gives the model the weights of a HuggingFace `TransfoXLLMHeadModel`.

    Args:
      model: built from `config_from_huggingface`.
      weights: the state dict, as arrays.

    Raises:
      ValueError: if a weight is missing, is left over, or has another shape.
    """
    config = model.config
    left = {name: np.asarray(value) for name, value in weights.items()}
    left.pop("transformer.pos_emb.inv_freq", None)  # the sinusoids' frequencies, a constant

    def take(name):
        if name not in left:
            raise ValueError(f"The checkpoint has no weight {name!r}, which the model needs.")
        return left.pop(name)

    def assign(variable, value):
        if tuple(variable.shape) != value.shape:
            raise ValueError(
                f"Weight {variable.path} has shape {tuple(variable.shape)}. "
                f"Received: {value.shape} in the checkpoint."
            )
        variable.assign(value)

    _assign_adaptive(model, take, assign)
    layer = -1
    for block in model.blocks:
        if block.attends:
            layer += 1
            prefix = f"transformer.layers.{layer}.dec_attn"
            attention = block.inner
            query, key, value = np.split(take(f"{prefix}.qkv_net.weight"), 3)
            assign(attention.query_kernel, query.T)
            assign(attention.key_value_kernel, np.concatenate([key, value]).T)
            assign(attention.position_kernel, take(f"{prefix}.r_net.weight").T)
            assign(attention.output_kernel, take(f"{prefix}.o_net.weight").T)
            if config.untie_position_biases:
                assign(attention.biases.content, take(f"{prefix}.r_w_bias"))
                assign(attention.biases.position, take(f"{prefix}.r_r_bias"))
            else:
                # Shared ones stand once in the transformer and again under each layer.
                left.pop(f"{prefix}.r_w_bias", None), left.pop(f"{prefix}.r_r_bias", None)
        else:
            prefix = f"transformer.layers.{layer}.pos_ff"
            assign(block.inner.inner_kernel, take(f"{prefix}.CoreNet.0.weight").T)
            assign(block.inner.inner_bias, take(f"{prefix}.CoreNet.0.bias"))
            assign(block.inner.outer_kernel, take(f"{prefix}.CoreNet.3.weight").T)
            assign(block.inner.outer_bias, take(f"{prefix}.CoreNet.3.bias"))
        assign(block.norm.gamma, take(f"{prefix}.layer_norm.weight"))
        assign(block.norm.beta, take(f"{prefix}.layer_norm.bias"))
    if not config.untie_position_biases:
        shared = model.blocks[0].inner.biases
        assign(shared.content, take("transformer.r_w_bias"))
        assign(shared.position, take("transformer.r_r_bias"))
    if left:
        raise ValueError(f"The checkpoint has weights that the model lacks: {sorted(left)}.")


def _assign_adaptive(model, take, assign):
    """The tables, projections and biases of embedding and head."""
    config, clusters = model.config, model.head.clusters
    # At div_val 1 there is one table, and one embedding projection, for all clusters.
    single = config.div_val == 1

    def tables(name):
        if single:
            return np.split(take(name.format(0)), clusters.cutoffs)
        return [take(name.format(i)) for i in range(clusters.num_clusters)]

    table_name = "transformer.word_emb.emb_layers.{}.weight"
    for variable, value in zip(model.embedding.tables, tables(table_name)):
        assign(variable, value)
    head_tables = tables("crit.out_layers.{}.weight")
    for variable, value, tied in zip(model.head.tables, head_tables, model.head.bind_embeddings):
        _check_tie(variable, value) if tied else assign(variable, value)
    for variable, value in zip(model.head.biases, tables("crit.out_layers.{}.bias")):
        assign(variable, value)
    if clusters.num_tails:
        assign(model.head.cluster_kernel, take("crit.cluster_weight"))
        assign(model.head.cluster_bias, take("crit.cluster_bias"))
    if not any(model.embedding.projected):
        return
    projections = "transformer.word_emb.emb_projs.{}"
    shared = take(projections.format(0)) if single else None
    for i, variable in enumerate(model.embedding.projections):
        assign(variable, (shared if single else take(projections.format(i))).T)
    for i, variable in enumerate(model.head.projections):
        value = take(f"crit.out_projs.{i}").T
        _check_tie(variable, value) if model.head.bind_projections[i] else assign(variable, value)


def _check_tie(variable, value):
    if not np.array_equal(variable.numpy(), value):
        raise ValueError(
            f"Weight {variable.path} is tied, but its two copies in the checkpoint differ. "
            "Untie it in the configuration."
        )
