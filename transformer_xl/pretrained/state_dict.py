"""The names and layouts of PyTorch's state dicts, HuggingFace's and the original code's.

Both keep dense kernels `[out, in]`, projections `[D, E]`, and queries, keys and values in one
matrix. At `div_val` 1 there is one table, one bias and one embedding projection for all clusters,
but a projection of the head for each.
"""

import numpy as np

from transformer_xl.pretrained.weight_map import (
    COLUMNS,
    REPEATED,
    REVERSED_ROWS,
    ROWS,
    SAME,
    TRANSPOSED,
    Entry,
    transposed,
)


def entries_of(
    model, prefix: str, reversed_tails: bool = False, repeated_biases: bool = False
) -> list[Entry]:
    """The entries of a state dict.

    Args:
      model: a `TransformerXL` of attention and feed-forward layers in turn.
      prefix: before every name but those of the softmax ("crit").
      reversed_tails: whether the head's columns for the tails are in falling order.
      repeated_biases: whether position biases that all layers share stand under each layer, too.
    """
    entries = []

    def add(names, variables, layout=SAME):
        names = (names,) if isinstance(names, str) else tuple(names)
        variables = variables if isinstance(variables, (list, tuple)) else (variables,)
        entries.append(Entry(names, tuple(variables), layout))

    _add_adaptive(model, prefix, reversed_tails, add)
    layers = [f"{prefix}layers.{n}" for n in range(model.config.num_layers)]
    for n, layer in enumerate(layers):
        attention, feed_forward = model.blocks[2 * n : 2 * n + 2]
        inner, name = attention.inner, f"{layer}.dec_attn"
        add(
            f"{name}.qkv_net.weight",
            (inner.query_kernel, inner.key_value_kernel),
            transposed(COLUMNS),
        )
        add(f"{name}.r_net.weight", inner.position_kernel, TRANSPOSED)
        add(f"{name}.o_net.weight", inner.output_kernel, TRANSPOSED)
        if model.config.untie_position_biases:
            add(f"{name}.r_w_bias", inner.biases.content)
            add(f"{name}.r_r_bias", inner.biases.position)
        _add_norm(attention, name, add)
        inner, name = feed_forward.inner, f"{layer}.pos_ff"
        add(f"{name}.CoreNet.0.weight", inner.inner_kernel, TRANSPOSED)
        add(f"{name}.CoreNet.0.bias", inner.inner_bias)
        add(f"{name}.CoreNet.3.weight", inner.outer_kernel, TRANSPOSED)
        add(f"{name}.CoreNet.3.bias", inner.outer_bias)
        _add_norm(feed_forward, name, add)
    if not model.config.untie_position_biases:
        shared = model.blocks[0].inner.biases
        for name, variable in (("r_w_bias", shared.content), ("r_r_bias", shared.position)):
            copies = [f"{layer}.dec_attn.{name}" for layer in layers] if repeated_biases else []
            add([f"{prefix}{name}", *copies], variable)
    return entries


def without_constants(arrays, prefix: str, model_dim: int) -> dict:
    """The arrays without what is no weight, and is not always there.

    A value of another kind of position is left in, so that it is refused as left over.
    """
    kept = dict(arrays)
    for name, expected in constants(prefix, model_dim).items():
        value = kept.get(name)
        if value is None or value.shape != expected.shape:
            continue
        if np.allclose(np.asarray(value, np.float32), expected, rtol=1e-2):  # bfloat16's digits
            del kept[name]
    return kept


def constants(prefix: str, model_dim: int) -> dict[str, np.ndarray]:
    """The arrays of a state dict that are no weights: the sinusoids' frequencies, `[D / 2]`."""
    frequencies = 10000 ** -(np.arange(0, model_dim, 2) / model_dim)
    return {f"{prefix}pos_emb.inv_freq": frequencies.astype("float32")}


def _add_norm(block, name, add):
    add(f"{name}.layer_norm.weight", block.norm.gamma)
    add(f"{name}.layer_norm.bias", block.norm.beta)


def _add_adaptive(model, prefix, reversed_tails, add):
    """The tables, projections and biases of embedding and head."""
    embedding, head = model.embedding, model.head
    tables, outputs = f"{prefix}word_emb.emb_layers.{{}}.weight", "crit.out_layers.{}.weight"
    projections, out_projections = f"{prefix}word_emb.emb_projs.{{}}", "crit.out_projs.{}"
    tied, tied_projections = head.bind_embeddings, head.bind_projections
    clusters = range(head.clusters.num_clusters)
    if model.config.div_val == 1:
        copies = [outputs.format(0)] if tied[0] else []
        add([tables.format(0), *copies], embedding.tables, ROWS)
        if not tied[0]:
            add(outputs.format(0), head.tables, ROWS)
        add("crit.out_layers.0.bias", head.biases, ROWS)
    else:
        for i in clusters:
            copies = [outputs.format(i)] if tied[i] else []
            add([tables.format(i), *copies], embedding.tables[i])
            if not tied[i]:
                add(outputs.format(i), head.tables[i])
            add(f"crit.out_layers.{i}.bias", head.biases[i])
    if head.clusters.num_tails:
        layout = REVERSED_ROWS if reversed_tails else SAME
        add("crit.cluster_weight", head.cluster_kernel, layout)
        add("crit.cluster_bias", head.cluster_bias, layout)
    if not any(embedding.projected):
        return
    if model.config.div_val == 1:
        copies = [out_projections.format(i) for i in clusters if tied_projections[i]]
        add([projections.format(0), *copies], embedding.projections, transposed(REPEATED))
    for i in clusters:
        if model.config.div_val > 1:
            copies = [out_projections.format(i)] if tied_projections[i] else []
            add([projections.format(i), *copies], embedding.projections[i], TRANSPOSED)
        if not tied_projections[i]:
            add(out_projections.format(i), head.projections[i], TRANSPOSED)
