"""What "auto" means on the present device."""

import dataclasses
import os

import tensorflow as tf

from transformer_xl.config import TrainConfig


def device_name() -> str:
    """What computes, for people to read."""
    gpus = tf.config.list_physical_devices("GPU")
    if not gpus:
        return "CPU"
    names = [tf.config.experimental.get_device_details(gpu).get("device_name") for gpu in gpus]
    return ", ".join(name or "GPU" for name in names)


def resolve_precision(config: TrainConfig, recorded: TrainConfig | None = None) -> TrainConfig:
    """The configuration with `precision` decided where it is "auto".

    It becomes "bfloat16" where every GPU computes in it (compute capability 8 and up), "float32"
    elsewhere.

    Args:
      config: what was asked for.
      recorded: what was chosen when the run began, which a run that goes on keeps.
    """
    if config.precision != "auto":
        return config
    if recorded is not None:
        return dataclasses.replace(config, precision=recorded.precision)
    gpus = tf.config.list_physical_devices("GPU")
    details = [tf.config.experimental.get_device_details(gpu) for gpu in gpus]
    capable = [d.get("compute_capability", (0, 0)) >= (8, 0) for d in details]
    precision = "bfloat16" if gpus and all(capable) else "float32"
    return dataclasses.replace(config, precision=precision)


def compiles_with_xla(jit_compile: str, trains_without_dropout: bool = False) -> bool:
    """Whether XLA compiles a step.

    Args:
      jit_compile: "true", "false", or "auto": everything on GPUs; on CPUs only training without
        dropout, whose random numbers are slow there (docs/decisions/0003). Evaluation is no slower
        without XLA, and faster with a `Cache` (docs/speed.md).
      trains_without_dropout: whether the step is such a one.
    """
    if jit_compile == "auto":
        return bool(tf.config.list_physical_devices("GPU")) or trains_without_dropout
    return jit_compile == "true"


def segments_at_once(jit_compile: bool) -> int:
    """How many segments an evaluation step reads, one after another.

    Two on CPUs of several cores, where TensorFlow computes layers of the second while it still
    computes the first (docs/speed.md); one where one segment keeps the device busy.

    Args:
      jit_compile: whether XLA compiles the step, which computes one thing after another.
    """
    alone = jit_compile or _num_cores() == 1 or tf.config.list_physical_devices("GPU")
    return 1 if alone else 2


def _num_cores():
    # In a container, or under taskset, not all of the machine's.
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count()
