"""--dry_run: what a training run will cost, before it begins."""

import math
import statistics
import time

import numpy as np

from adaptive.clusters import Clusters
from modes.terminal import say
from transformer_xl.model_cost import (
    forward_flops,
    parameters_by_part,
    training_bytes,
    training_flops,
)
from transformer_xl.training.memory_use import memory_use

_WARM_UP, _MEASURED = 2, 10
_EVAL_STEPS = 4
# By optimizers, of the weights. Adafactor's averages over rows and columns are hardly any.
COPIES_KEPT = {"adam": 2, "adamw": 2, "lamb": 2, "adafactor": 0}


def report(model, config, data, segments, train_step, evaluator):
    """Prints what training with these settings costs; the model's weights change.

    Args:
      model: the `TransformerXL`.
      config: its `TrainConfig`.
      data: the `PreparedCorpus`.
      segments: its `TrainSegments`.
      train_step: of `steps.make_train_step`.
      evaluator: the `Evaluator`.
    """
    say("\nparameters")
    parts = parameters_by_part(model)
    for name, count in {**parts, "all": sum(parts.values())}.items():
        say(f"  {name:34}{count:16,}")

    shares = cluster_shares(data.counts, model.config)
    flops = forward_flops(model.config, config.segment_length, config.batch_size, shares)
    say("\nmillion operations per token, in matrix products")
    for name, count in {**flops, "forward": sum(flops.values())}.items():
        say(f"  {name:34}{count / 1e6:16,.3f}")
    per_token = training_flops(flops)
    say(f"  {'forward and backward':34}{per_token / 1e6:16,.3f}")

    accumulate = getattr(config, "accumulate_steps", 1)
    copies = 2 + COPIES_KEPT[config.optimizer] + (getattr(config, "ema_decay", 0) > 0)
    estimate = training_bytes(
        model.config,
        sum(parts.values()),
        config.batch_size // accumulate,
        config.segment_length,
        compute_bytes=4 if config.precision == "float32" else 2,
        weight_copies=copies,
    )
    say("\nmegabytes of memory in training, estimated")
    for name, count in {**estimate, "all": sum(estimate.values())}.items():
        say(f"  {name:34}{count / 1e6:16,.1f}")

    seconds = _seconds_per_step(model, config, segments, train_step)
    say("megabytes held after some steps, also by Python and TensorFlow")
    for name, gigabytes in memory_use().items():
        say(f"  {name.removesuffix('_gb').replace('_', ' '):34}{gigabytes * 1e3:16,.1f}")

    tokens = config.batch_size * config.segment_length
    epochs = config.max_steps / segments.steps_per_epoch
    say(f"\n{segments.steps_per_epoch:,} steps an epoch, {config.max_steps:,} are {epochs:,.2f}")
    say(
        f"a step takes {seconds * 1e3:,.1f} ms, the median of {_MEASURED}: "
        f"{tokens / seconds:,.0f} tokens/s, {per_token * tokens / seconds / 1e9:,.1f} GFLOP/s"
    )
    validation = _seconds_per_validation(evaluator, config, data)
    times = 1 + (config.max_steps - 1) // config.eval_every if config.eval_every else 1
    training = seconds * config.max_steps
    say(
        f"expected: {_duration(training)} of training and {_duration(validation * times)} of "
        f"{times:,} validations, {_duration(training + validation * times)} in all"
    )


def cluster_shares(counts, model_config) -> list[float]:
    """The part of the training split's tokens in each cluster."""
    clusters = Clusters(model_config.vocab_size, model_config.cutoffs)
    starts = np.asarray(clusters.starts)
    return (np.add.reduceat(counts, starts) / counts.sum()).tolist()


def _seconds_per_step(model, config, segments, train_step) -> float:
    memory = model.initial_memory(config.batch_size)
    times = []
    for batch in segments.dataset(0, _WARM_UP + _MEASURED):
        start = time.monotonic()
        memory, metrics = train_step(*batch, memory)
        metrics.loss.numpy()
        times.append(time.monotonic() - start)
    return statistics.median(times[-_MEASURED:])


def _seconds_per_validation(evaluator, config, data) -> float:
    sizes, at_once = evaluator.settings, evaluator.stretches.segments
    segments = -(-len(data.arrays["valid"]) // (sizes["batch_size"] * sizes["segment_length"]))
    segments = min(segments, config.eval_steps or segments)
    evaluator.result("valid", 1)  # compiles
    # Full steps where there are such, since filler takes less time than text.
    measured = min(segments, _EVAL_STEPS * at_once)
    start = time.monotonic()
    evaluator.result("valid", measured)
    each = (time.monotonic() - start) / math.ceil(measured / at_once)
    return each * math.ceil(segments / at_once)


def _duration(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    if days:
        return f"{days}d {hours}h"
    return f"{hours}h {minutes:02}m" if hours else f"{minutes}m {seconds:02}s"
