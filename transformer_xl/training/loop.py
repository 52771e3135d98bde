"""The training loop."""

import math
import time
from collections.abc import Callable, Iterable

import tensorflow as tf

from transformer_xl.config import TrainConfig
from transformer_xl.memory import Memory
from transformer_xl.training.checkpoints import Checkpoints
from transformer_xl.training.evaluate import EvalResult
from transformer_xl.training.report import Reporter


class DivergedError(Exception):
    """The loss is no longer a number."""


def train(
    config: TrainConfig,
    train_step: Callable,
    batches_from: Callable[[int], Iterable],
    starts_epoch: Callable[[int], bool],
    evaluate: Callable[[], EvalResult],
    initial_memory: Memory,
    checkpoints: Checkpoints,
    reporter: Reporter,
    stop_requested: Callable[[], bool] = lambda: False,
    in_document: Callable | None = None,
) -> bool:
    """Trains up to `config.max_steps`, from where the last checkpoint stands.

    Args:
      config: when to report, evaluate, save and end.
      train_step: of `steps.make_train_step`.
      batches_from: the batches (tokens, targets, weights) from a step on.
      starts_epoch: whether a step reads the beginning of the streams, so that memory of what
        went before has nothing to do with it.
      evaluate: scores the validation split.
      initial_memory: the memory before the first segment.
      checkpoints: where the state is kept.
      reporter: what is told.
      stop_requested: asked after every step; if True, the state is saved and training left.
      in_document: how many tokens before a step belong to the document of each row's first, int32
        `[B]`: what is older is not remembered. None: everything is.

    Returns:
      True if training is done, False if it was stopped before.

    Raises:
      DivergedError: if the loss is not finite. The checkpoint before is left as it is.
    """
    memory = checkpoints.restore(initial_memory)
    if memory is None:
        memory = initial_memory
    step = int(checkpoints.step)

    def validate():
        before = time.monotonic()
        result = evaluate()
        is_best = checkpoints.save_if_best(step, result.nll)
        reporter.valid(step, result.nll, is_best, time.monotonic() - before)

    if _due(config.eval_every, step, config) and not reporter.has_validated(step):
        validate()  # the run was stopped between this step and its evaluation
    pending, started, tokens = [], time.monotonic(), 0
    for batch in batches_from(step) if step < config.max_steps else ():
        if starts_epoch(step):
            memory = initial_memory
        if in_document is not None:
            memory = memory._replace(valid=tf.minimum(memory.valid, in_document(step)))
        memory, metrics = train_step(*batch, memory)
        step += 1
        pending.append(metrics)
        tokens += math.prod(batch[0].shape)
        stopping = stop_requested()
        report = _due(config.report_every, step, config) or stopping
        if report:
            # The only place that waits for the device, but for evaluations and checkpoints.
            losses = tf.stack([metrics.loss for metrics in pending]).numpy().astype("float64")
            seconds = time.monotonic() - started
            _check_finite(losses, step)
            reporter.train(
                step,
                loss=float(losses.mean()),
                learning_rate=float(metrics.learning_rate),
                gradient_norm=float(metrics.gradient_norm),
                tokens_per_second=tokens / seconds,
                seconds=seconds,
            )
        paused = time.monotonic()
        if _due(config.eval_every, step, config) and not stopping:
            _check_finite([float(metrics.loss)], step)
            validate()
        if _due(config.checkpoint_every, step, config) or stopping:
            _check_finite([float(metrics.loss)], step)
            checkpoints.save(step, memory)
        if report:
            pending, started, tokens = [], time.monotonic(), 0
        else:
            started += time.monotonic() - paused
        if stopping:
            return False
        if step >= config.max_steps:
            break
    return True


def _due(every: int, step: int, config: TrainConfig) -> bool:
    """Whether something is to be done after `step`: at intervals, and at the end."""
    return step >= config.max_steps or (every > 0 and step > 0 and step % every == 0)


def _check_finite(losses, step: int):
    if not all(math.isfinite(loss) for loss in losses):
        raise DivergedError(
            f"The loss is no longer finite at step {step}. The last checkpoint is from before. "
            "Try a lower --learning_rate, more --warmup_steps or a larger --batch_size."
        )
