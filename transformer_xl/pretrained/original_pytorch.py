"""State dicts of the original PyTorch code, kimiyoung/transformer-xl/pytorch.

Memory starts empty, the head's columns for the tails are in falling order, and all layers share
their position biases.
"""

import itertools
import re
from collections.abc import Mapping

import numpy as np

from transformer_xl.config import ModelConfig
from transformer_xl.model import TransformerXL
from transformer_xl.pretrained.huggingface import arrays_in
from transformer_xl.pretrained.original_settings import complete, divisor
from transformer_xl.pretrained.state_dict import entries_of, without_constants
from transformer_xl.pretrained.torch_files import load_torch_file
from transformer_xl.pretrained.vocabulary_files import load_tokens_beside
from transformer_xl.pretrained.weight_map import fill

# What the data-parallel wrapper puts before every name.
_WRAPPER = "module."


def load_pytorch(
    path: str, config: ModelConfig | Mapping | None = None, **arguments
) -> tuple[TransformerXL, list[str] | None]:
    """A model whose state dict the original PyTorch code made.

    Names, shapes and which weights are equal tell the architecture, but for `cutoffs` at `div_val`
    1. These and `memory_length` must be given. Not told either: `clamp_length` (-1 if it is not
    given), `same_length` (False), `layer_norm` ("post"), the dropout rates.

    Args:
      path: of the file that `torch.save(model.state_dict(), path)` wrote. No pickled code is run.
      config: what the state dict does not tell: some fields of `ModelConfig` by name, or by the
        names of the original code's arguments (`mem_len`, ...), or a whole `ModelConfig`, which is
        then taken as it is.
      **arguments: of `TransformerXL`, as `dtype` and `seed`.

    Returns:
      The pair (model, its tokens in the order of ids or None). Tokens come from a vocabulary
      file beside the state dict, see `vocabulary_files`.

    Raises:
      ValueError: if the file is damaged, is a whole module, weights are missing or left over, or
        settings are missing.
    """
    arrays = arrays_in(load_torch_file(path), path)
    if arrays and all(name.startswith(_WRAPPER) for name in arrays):
        arrays = {name.removeprefix(_WRAPPER): array for name, array in arrays.items()}
    inferred = {
        **_architecture(arrays, path),
        "layer_norm_epsilon": 1e-5,
        "memory_start": "empty",
    }
    config = complete(inferred, config, path)
    tokens = load_tokens_beside(path, config.vocab_size)
    model = TransformerXL(config, **arguments)
    entries = entries_of(model, prefix="", reversed_tails=True)
    fill(entries, without_constants(arrays, "", config.model_dim), path, copies=True)
    return model, tokens


def _architecture(arrays: Mapping[str, np.ndarray], path: str) -> dict:
    """The fields of `ModelConfig` that a state dict tells; None for cutoffs that it does not."""

    def weight(name):
        if name not in arrays:
            raise ValueError(
                f"The weights in {path} do not fit the model. It lacks: {name}, by which the "
                "architecture is known."
            )
        return arrays[name]

    def count(pattern):
        matches = (re.match(pattern, name) for name in arrays)
        return max((int(match[1]) + 1 for match in matches if match), default=0)

    def tied(one, other):
        # A copy that is missing is asked for when the weights are read.
        return other not in arrays or np.array_equal(arrays.get(one), arrays[other])

    layer, table = "layers.0", "word_emb.emb_layers.{}.weight"
    out_table, projection, out_projection = (
        "crit.out_layers.{}.weight",
        "word_emb.emb_projs.{}",
        "crit.out_projs.{}",
    )
    model_dim, _ = weight(f"{layer}.dec_attn.o_net.weight").shape
    num_heads, head_dim = weight("r_w_bias").shape
    num_clusters = 1
    if {"crit.cluster_weight", "crit.cluster_bias"} & set(arrays):
        num_clusters += len(weight("crit.cluster_weight"))
    # One table for all clusters at div_val 1, else one for each.
    seconds = (table.format(1), out_table.format(1), "crit.out_layers.1.bias")
    tables = num_clusters if any(name in arrays for name in seconds) else 1
    sizes, widths = zip(*(weight(table.format(i)).shape for i in range(tables)))
    cutoffs = tuple(itertools.accumulate(sizes))[:-1]
    if tables == 1 and num_clusters > 1:
        cutoffs = None  # one table for all clusters
    projects = widths[0] != model_dim or tables > 1 or projection.format(0) in arrays
    div_val = divisor(widths, path)
    if tables == 1 and widths[0] == model_dim and projects:
        div_val = 2  # one cluster, whose width does not tell what it is divided by
    tie_projections = projects and tuple(
        tied(projection.format(0 if tables == 1 else i), out_projection.format(i))
        for i in range(num_clusters)
    )
    return {
        "vocab_size": sum(sizes),
        "num_layers": count(r"layers\.(\d+)\."),
        "model_dim": model_dim,
        "embedding_dim": widths[0],
        "num_heads": num_heads,
        "head_dim": head_dim,
        "feed_forward_dim": len(weight(f"{layer}.pos_ff.CoreNet.0.weight")),
        "cutoffs": cutoffs,
        "div_val": div_val,
        "tie_tables": all(tied(table.format(i), out_table.format(i)) for i in range(tables)),
        "tie_projections": tie_projections,
        "untie_position_biases": False,
    }
