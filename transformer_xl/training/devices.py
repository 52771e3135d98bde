"""What "auto" means on the present device."""

import dataclasses

import tensorflow as tf

from transformer_xl.config import TrainConfig


def resolve_auto(config: TrainConfig, recorded: TrainConfig | None = None) -> TrainConfig:
    """The configuration with no "auto" left.

    `precision` becomes "bfloat16" where every GPU computes in it (compute capability 8 and up)
    and "float32" elsewhere. `jit_compile` becomes "true" on GPUs; on CPUs XLA takes longer for a
    training step with dropout (docs/decisions/0003).

    Args:
      config: what was asked for.
      recorded: what was chosen when the run began, which a run that goes on keeps.
    """
    if recorded is None:
        gpus = tf.config.list_physical_devices("GPU")
        details = [tf.config.experimental.get_device_details(gpu) for gpu in gpus]
        capable = [d.get("compute_capability", (0, 0)) >= (8, 0) for d in details]
        auto = {
            "precision": "bfloat16" if gpus and all(capable) else "float32",
            "jit_compile": "true" if gpus else "false",
        }
    else:
        auto = {name: getattr(recorded, name) for name in ("precision", "jit_compile")}
    chosen = {name: value for name, value in auto.items() if getattr(config, name) == "auto"}
    return dataclasses.replace(config, **chosen)
