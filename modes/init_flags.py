"""The model's flags beside weights of --init_from, which bring an architecture."""

import dataclasses

from absl import flags as absl_flags

import flags
from transformer_xl import ModelConfig


def given_model_values() -> dict:
    """The fields of `ModelConfig` whose flags were given, with their values.

    Raises:
      ValueError: if cutoffs are to be chosen, since given weights have theirs.
    """
    if flags.cutoffs_are_automatic():
        raise ValueError(
            "--cutoffs must be those of the weights in --init_from. Received: auto. Leave it out, "
            "or give the numbers, where the weights do not say them."
        )
    values = flags.model_values()
    return {name: value for name, value in values.items() if absl_flags.FLAGS[name].present}


def set_model(config: ModelConfig):
    """Sets the model's flags to a configuration that came with weights.

    Raises:
      ValueError: if the flags cannot say it.
    """
    for holder in flags.MODEL_FLAGS:
        value = getattr(config, holder.name)
        if holder.name == "cutoffs":
            value = [str(cutoff) for cutoff in value]
        if holder.name == "tie_projections":
            value = _tie_projections(config)
        absl_flags.FLAGS[holder.name].value = value


def _tie_projections(config: ModelConfig) -> str:
    """The shorthand that means the configuration's bools."""
    for shorthand in ("all_but_head", "all", "none"):
        if dataclasses.replace(config, tie_projections=shorthand) == config:
            return shorthand
    raise ValueError(
        "The command line can tie the projections of all clusters, of all but the head, or none. "
        f"Received weights with tie_projections={config.tie_projections}: use the library."
    )
