"""Rules that fields of configurations share; each refuses with the field's name and value."""

import dataclasses
import math
import numbers
import types
from collections.abc import Mapping

import numpy as np

# What a model computes with, at the most. Beyond it a number becomes infinite.
LARGEST_FLOAT = 3.4e38
# The random numbers of Keras and NumPy take no larger seed.
LARGEST_SEED = 2**32 - 1


def of_kind(config):
    """Makes numbers Python's own and of their kind, and refuses what is no bool, integer or number.

    Each field may be what its annotation says; text is left to its own rules. A string for a bool
    would else count as True, and NumPy's numbers are no JSON.

    Args:
      config: a dataclass.
    """
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        one = isinstance(value, (np.generic, np.ndarray)) and value.ndim == 0
        value = value.item() if one else value
        union = isinstance(field.type, types.UnionType)
        kinds = set(field.type.__args__) if union else {field.type}
        if value is None and type(None) in kinds:
            continue
        kinds -= {type(None)}
        if kinds == {bool}:
            fine, name = isinstance(value, int) and value in (0, 1), "True or False"
            value = bool(value) if fine else value
        elif kinds == {int}:
            # 1e5 is a number of steps.
            value = int(value) if isinstance(value, float) and value.is_integer() else value
            fine, name = is_whole(value), "an integer"
        elif kinds <= {int, float}:
            fine, name = isinstance(value, numbers.Real) and not isinstance(value, bool), "a number"
        else:
            fine, name = True, ""
        if not fine:
            raise ValueError(f"{field.name} must be {name}. Received: {value!r}.")
        object.__setattr__(config, field.name, value)


def instance_of(config, kind: type):
    """The configuration, where it is one of its class; else an error, also for its fields alone."""
    if isinstance(config, kind):
        return config
    fields = "**config" if isinstance(config, Mapping) else "..."
    raise ValueError(
        f"A configuration must be a {kind.__name__}. Received: {type(config).__name__}. Try: "
        f"{kind.__name__}({fields})."
    )


def at_least(config, name: str, bound):
    """Refuses a field below its bound."""
    value = getattr(config, name)
    if value < bound:
        raise ValueError(f"{name} must be at least {bound}. Received: {value}.")


def one_of(config, name: str, choices):
    """Refuses a field that is none of the choices."""
    value = getattr(config, name)
    if value not in choices:
        raise ValueError(f"{name} must be one of {', '.join(choices)}. Received: {value!r}.")


def is_whole(value) -> bool:
    """Whether it is an integer, of Python or NumPy."""
    return isinstance(value, numbers.Integral) and not isinstance(value, bool)


def whole(config, name: str, bound):
    """Refuses a field that is not an integer, or below its bound."""
    value = getattr(config, name)
    if not is_whole(value) or value < bound:
        raise ValueError(f"{name} must be an integer of at least {bound}. Received: {value!r}.")


def finite(config, but: tuple[str, ...] = ()):
    """Refuses fields that are no number, infinite, or so in float32.

    Args:
      config: a dataclass.
      but: names of bounds, which may be infinite: those of runs before were.
    """
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if field.name in but and value == math.inf:
            continue
        if isinstance(value, float) and not (math.isfinite(value) and abs(value) <= LARGEST_FLOAT):
            raise ValueError(
                f"{field.name} must be finite, and at most {LARGEST_FLOAT:g}. Received: {value}."
            )


def check_lengths(memory_length: int, clamp_length: int, same_length: bool):
    """The rules on what attention reaches, in training and in evaluation.

    Raises:
      ValueError: if one is broken.
    """
    for name, length in (("memory_length", memory_length), ("clamp_length", clamp_length)):
        if not is_whole(length):
            raise ValueError(f"{name} must be an integer. Received: {length!r}.")
    if memory_length < 0:
        raise ValueError(f"memory_length must be at least 0. Received: {memory_length}.")
    if clamp_length != -1 and clamp_length < 1:
        raise ValueError(
            f"clamp_length must be at least 1, or -1 for no bound. Received: {clamp_length}."
        )
    if same_length and memory_length < 1:
        raise ValueError(
            "same_length lets every query see memory_length keys, itself included, so it needs a "
            f"memory_length of at least 1. Received: memory_length={memory_length}."
        )
