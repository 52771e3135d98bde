"""What "auto" means on the present device."""

import contextlib
import dataclasses
import os
from typing import NamedTuple

import tensorflow as tf

from transformer_xl.config import TrainConfig

# Products of fewer rows than these take longer for each; with more of them attention reads more
# keys that it does not see. The first is for stretches of which several are computed at a time.
_ROWS_TOGETHER, _ROWS_ALONE = 128, 256
# So many rows keep two cores busy.
_ROWS_IN_A_STEP = 512
_STRETCHES_FOR_ALL_CORES = 4


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


class Stretches(NamedTuple):
    """How many segments that follow one another an evaluation step reads, and in which way.

    Attributes:
      as_one: so many segments make a stretch, which is read as one (`TransformerXL`'s argument
        `segment_length`).
      in_turn: so many stretches are read one after another (`steps.nll_in_turn`).
    """

    as_one: int
    in_turn: int

    @property
    def segments(self) -> int:
        """In a step."""
        return self.as_one * self.in_turn


def stretches(jit_compile: bool, batch_size: int, segment_length: int) -> Stretches:
    """How evaluation reads segments fast; what it computes does not depend on it.

    A stretch is so long that products have rows enough. On CPUs of several cores TensorFlow
    computes layers of the next stretch while it still computes the one before; elsewhere a step is
    one stretch (docs/speed.md).

    Args:
      jit_compile: whether XLA compiles the step, which computes one thing after another.
      batch_size: B.
      segment_length: L.
    """
    alone = jit_compile or _num_cores() == 1 or tf.config.list_physical_devices("GPU")
    rows = batch_size * segment_length
    as_one = max(1, (_ROWS_ALONE if alone else _ROWS_TOGETHER) // rows)
    return Stretches(as_one, 1 if alone else max(2, _ROWS_IN_A_STEP // (as_one * rows)))


def use_threads_for_evaluation(jit_compile: bool, batch_size: int, segment_length: int):
    """Of two cores gives an operation one, in a process that evaluates and does nothing else.

    Where four stretches are computed at a time (`stretches`) the cores need not share an operation,
    and wait less for one another; with two stretches they would wait longer (docs/speed.md).
    Nothing is changed with more cores, which was not measured, where the environment names
    TF_NUM_INTRAOP_THREADS, and where TensorFlow has computed something in this process already,
    after which it takes no such number.

    Args:
      jit_compile, batch_size, segment_length: of `stretches`.
    """
    several = stretches(jit_compile, batch_size, segment_length).in_turn >= _STRETCHES_FOR_ALL_CORES
    if several and _num_cores() == 2 and "TF_NUM_INTRAOP_THREADS" not in os.environ:
        with contextlib.suppress(RuntimeError):
            tf.config.threading.set_intra_op_parallelism_threads(1)


def _num_cores():
    # In a container, or under taskset, not all of the machine's.
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count()
