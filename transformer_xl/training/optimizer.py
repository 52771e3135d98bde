"""The optimizer of a run."""

import keras

from transformer_xl.config import TrainConfig
from transformer_xl.training.adafactor import Adafactor
from transformer_xl.training.adam import Adam, AdamW
from transformer_xl.training.lamb import Lamb
from transformer_xl.training.schedule import WarmupSchedule


def make_optimizer(config: TrainConfig) -> keras.Optimizer:
    """The configuration's optimizer with its schedule.

    Adam and AdamW with (0.9, 0.999, 1e-8), LAMB with (0.9, 0.999, 1e-6) as in its paper, Adafactor
    with Keras' own constants. Clipping is the training step's, which reports the norm.
    """
    schedule = WarmupSchedule(
        config.learning_rate,
        config.max_steps,
        schedule=config.schedule,
        warmup_steps=config.warmup_steps,
        cosine_from=config.cosine_from,
        min_ratio=config.min_learning_rate_ratio,
    )
    # A name of its own: checkpoints know variables by path.
    name = "optimizer"
    if config.optimizer == "adam":
        return Adam(schedule, beta_1=0.9, beta_2=0.999, epsilon=1e-8, name=name)
    decay = {"decay_rate": config.weight_decay, "name": name}
    if config.optimizer == "adamw":
        return AdamW(schedule, beta_1=0.9, beta_2=0.999, epsilon=1e-8, **decay)
    if config.optimizer == "lamb":
        return Lamb(schedule, beta_1=0.9, beta_2=0.999, epsilon=1e-6, **decay)
    return Adafactor(schedule, **decay)
