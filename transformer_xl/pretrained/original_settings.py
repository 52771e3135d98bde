"""The settings of the original code, kimiyoung/transformer-xl, that a checkpoint does not tell."""

import dataclasses
from collections.abc import Mapping

from transformer_xl.config import ModelConfig

_FIELDS = {field.name for field in dataclasses.fields(ModelConfig)}
# The arguments of the original code, and what they are called here.
_ORIGINAL = {
    "n_token": "vocab_size",
    "n_layer": "num_layers",
    "d_model": "model_dim",
    "d_embed": "embedding_dim",
    "n_head": "num_heads",
    "d_head": "head_dim",
    "d_inner": "feed_forward_dim",
    "mem_len": "memory_length",
    "clamp_len": "clamp_length",
    "tie_projs": "tie_projections",
    "untie_r": "untie_position_biases",
    "dropatt": "attention_dropout",
}
# What names and shapes tell for sure, where they tell it.
_TOLD = (
    "vocab_size",
    "num_layers",
    "model_dim",
    "embedding_dim",
    "num_heads",
    "head_dim",
    "feed_forward_dim",
    "cutoffs",
    "untie_position_biases",
)


def complete(inferred: Mapping, given: ModelConfig | Mapping | None, path: str) -> ModelConfig:
    """The configuration of a checkpoint: what it tells, and what is given.

    What is given goes first where both say something of ties and projections; weights that do not
    fit are refused when they are read.

    Args:
      inferred: fields of `ModelConfig`; None where the checkpoint does not tell.
      given: a `ModelConfig`; or some of its fields by name, also by the names of the original
        code's arguments (`mem_len`, `clamp_len`, ...); or None.
      path: of the checkpoint, for messages.

    Raises:
      ValueError: if something is still missing, is not known, or contradicts the checkpoint.
    """
    given = fields_of(given)
    contradicted = [
        f"{name}={inferred[name]} (received: {given[name]})"
        for name in _TOLD
        if inferred[name] is not None and name in given and not _equal(given[name], inferred[name])
    ]
    if contradicted:
        raise ValueError(
            f"By its weights, {path} has {', '.join(contradicted)}. Leave out of the configuration "
            "what the checkpoint tells."
        )
    values = {**inferred, **given}
    missing = [name for name in (*inferred, "memory_length") if values.get(name) is None]
    missing = [name for name in dict.fromkeys(missing) if name != "force_projection"]
    if missing:
        raise ValueError(
            f"{path} does not tell {', '.join(missing)}. Give them, as in "
            f"config={{{missing[0]!r}: ...}}."
        )
    try:
        return ModelConfig(**values)
    except TypeError as error:
        raise ValueError(f"The configuration given is of no model: {error}.") from error


def fields_of(given: ModelConfig | Mapping | None) -> dict:
    """Fields of `ModelConfig` by its own names.

    Raises:
      ValueError: if one is not known.
    """
    if given is None:
        return {}
    if isinstance(given, ModelConfig):
        return dataclasses.asdict(given)
    fields = {}
    for name, value in given.items():
        if name == "pre_lnorm":
            fields["layer_norm"] = "pre" if value else "post"
        elif name == "proj_same_dim":
            fields["force_projection"] = None if value else False
        elif _ORIGINAL.get(name, name) in _FIELDS:
            fields[_ORIGINAL.get(name, name)] = value
        else:
            raise ValueError(
                f"config has the fields of ModelConfig: {', '.join(sorted(_FIELDS))}. "
                f"Received: {name}."
            )
    clamp_length = fields.get("clamp_length")
    if clamp_length is not None and clamp_length <= 0:
        fields["clamp_length"] = -1
    return fields


def _equal(one, other) -> bool:
    return list(one) == list(other) if isinstance(other, tuple) else one == other


def divisor(widths, path: str) -> int:
    """The `div_val` of the clusters' widths.

    Raises:
      ValueError: if there is none.
    """
    for value in range(1, widths[0] + 1):
        if all(width == widths[0] // value**i for i, width in enumerate(widths)):
            return value
    raise ValueError(
        f"The tables in {path} have widths {', '.join(map(str, widths))}; each must be the first "
        "divided by a power of one number."
    )
