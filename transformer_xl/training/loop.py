"""The training loop."""

import math
import time
from collections.abc import Callable, Iterable

import numpy as np
import tensorflow as tf

from transformer_xl.config import TrainConfig
from transformer_xl.memory import Memory
from transformer_xl.training.checkpoints import Checkpoints
from transformer_xl.training.cluster_losses import cluster_report
from transformer_xl.training.distribute import Replicas
from transformer_xl.training.divergence import DivergedError, DivergenceWatch
from transformer_xl.training.evaluate import EvalResult
from transformer_xl.training.memory_use import lean_first_call
from transformer_xl.training.report import Reporter
from transformer_xl.training.stop import StoppedError
from transformer_xl.training.train_state import TrainState

_MOST_RETURNS = 3  # to a checkpoint, before a run that diverges stops after all
# Between two questions to other processes whether to stop, which cost a message.
_STEPS_TO_ASK = 10


def train(
    config: TrainConfig,
    train_step: Callable,
    batches_from: Callable[[int], Iterable],
    starts_epoch: Callable[[int], bool],
    evaluate: Callable[[], EvalResult],
    initial_memory: Memory,
    checkpoints: Checkpoints,
    reporter: Reporter,
    state: TrainState,
    stop_requested: Callable[[], bool] = lambda: False,
    in_document: Callable | None = None,
    replicas: Replicas | None = None,
) -> bool:
    """Trains up to `config.max_steps`, from where the last checkpoint stands.

    Args:
      config: when to report, evaluate, save and end.
      train_step: of `steps.make_train_step`.
      batches_from: the batches (tokens, targets, weights) from a place in their order on.
      starts_epoch: whether a batch reads the beginning of the streams, so that memory of what
        went before has nothing to do with it.
      evaluate: scores the validation split; may raise `StoppedError`.
      initial_memory: the memory before the first segment, of all rows.
      checkpoints: where the state is kept.
      reporter: what is told.
      state: the step's.
      stop_requested: asked after every step; if True, the state is saved and training left.
      in_document: how many tokens before a batch belong to the document of each row's first, int32
        `[B]`: what is older is not remembered. None: everything is.
      replicas: that compute a step; only the chief among processes evaluates and writes.

    Returns:
      True if training is done, False if it was stopped before.

    Raises:
      DivergedError: if losses are not finite, or far above those before; see
        `divergence.DivergenceWatch`. The checkpoint before is left as it is.
    """
    replicas = replicas or Replicas()
    train_step = lean_first_call(train_step)
    start = replicas.split(initial_memory)

    def restored(goes_back=False):
        memory = checkpoints.restore(initial_memory, goes_back)
        return int(checkpoints.step), start if memory is None else replicas.split(memory)

    def watched():
        # With several processes only the chief knows of reports, and all must decide alike.
        return DivergenceWatch(config, () if replicas.multi_worker else reporter.losses())

    def validate(step) -> bool:
        """Whether it was done: a signal may end it."""
        if not replicas.chief:
            return True
        before = time.monotonic()
        with state.averaged():
            try:
                result = evaluate()
            except StoppedError:
                return False
            is_best = checkpoints.save_if_best(step, result.nll)
            if config.eval_steps and step >= config.max_steps and not is_best:
                checkpoints.save_candidate(step, result.nll)  # see best_choice
        reporter.valid(step, result.nll, is_best, time.monotonic() - before)
        return True

    def save(step, memory):
        if not state.finite():
            raise DivergedError(f"The weights after step {step} are not finite; nothing is saved.")
        everywhere = replicas.gather(memory)
        if replicas.chief:
            checkpoints.save(step, everywhere)

    def steps_from(step, memory) -> bool:
        # The run was stopped before this step's evaluation, or the best weights were lost.
        validated = reporter.has_validated(step) and math.isfinite(float(checkpoints.best_nll))
        if _due(config.eval_every, step, config) and not validated and not validate(step):
            return False
        left_out = int(state.batches_left_out.numpy())
        pending, started, tokens = [], time.monotonic(), []
        for batch in batches_from(step + left_out) if step < config.max_steps else ():
            if starts_epoch(step + left_out):
                memory = start
            if in_document is not None:
                memory = replicas.cut(memory, in_document(step + left_out))
            read[0] = step + left_out + 1
            memory, metrics = train_step(*replicas.split(tuple(batch)), memory)
            step += 1
            pending.append(metrics)
            tokens.append(math.prod(batch[0].shape))  # segments may vary in length
            if step % config.max_bad_steps == 0 and len(pending) > 1:
                watch.check_run(int(pending[-2].bad_run), step)  # of a step that is computed
            stopping = _stops(replicas, stop_requested, step)
            report = _due(config.report_every, step, config) or stopping
            evaluation = _due(config.eval_every, step, config) and not stopping
            checkpoint = _due(config.checkpoint_every, step, config) or stopping
            if report or evaluation or checkpoint:
                # The only place that waits for the device, but for evaluations and checkpoints.
                bad_runs = tf.stack([metrics.bad_run for metrics in pending]).numpy()
                losses = tf.stack([metrics.loss for metrics in pending]).numpy()
                watch.check_run(int(bad_runs.max()), step)
                loss = watch.mean(losses.astype(np.float64), step, tokens)
            report = report and loss is not None
            if report:
                seconds = time.monotonic() - started
                watch.reported(loss)
                reporter.train(
                    step,
                    loss=loss,
                    learning_rate=float(metrics.learning_rate),
                    gradient_norm=_last_finite([one.gradient_norm for one in pending]),
                    tokens_per_second=sum(tokens) / seconds,
                    seconds=seconds,
                    **_troubles(metrics, state),
                    **cluster_report([one.cluster_sums for one in pending], tokens),
                )
            paused = time.monotonic()
            if evaluation and not validate(step):
                stopping = True
            if checkpoint or stopping:
                save(step, memory)
            if report:
                pending, started, tokens = [], time.monotonic(), []
            else:
                started += time.monotonic() - paused
            if stopping:
                return False
            if step >= config.max_steps:
                break
        return True

    step, memory = restored()
    read, returns, watch = [0], 0, watched()
    while True:
        try:
            return steps_from(step, memory)
        except DivergedError as error:
            step, memory = restored(goes_back=True)
            returns += 1
            if config.on_divergence == "stop" or returns > _MOST_RETURNS or step == 0:
                raise
            # What was read on the way is not read again; the count in the checkpoint is from
            # before, also before what was left out when the run went back there the last time.
            state.batches_left_out.assign(read[0] - step)
            state.restart_counts()
            reporter.go_back(step)
            watch = watched()
            reporter.say(f"{error} Going back to step {step:,}, and on with later batches.")


def _due(every: int, step: int, config: TrainConfig) -> bool:
    """Whether something is to be done after `step`: at intervals, and at the end."""
    return step >= config.max_steps or (every > 0 and step > 0 and step % every == 0)


def _stops(replicas: Replicas, stop_requested: Callable[[], bool], step: int) -> bool:
    """Whether any process was asked to stop; the answer is the same in all."""
    if not replicas.multi_worker:
        return stop_requested()
    return step % _STEPS_TO_ASK == 0 and replicas.any(stop_requested())


def _last_finite(norms: list) -> float:
    """The last norm that is a number; 0 if there is none."""
    finite = [norm for norm in tf.stack(norms).numpy() if np.isfinite(norm)]
    return float(finite[-1]) if finite else 0.0


def _troubles(metrics, state: TrainState) -> dict:
    """What a report says besides, where there is something to say."""
    more = {"bad_steps": int(metrics.bad_steps)} if int(metrics.bad_steps) else {}
    return more | ({"loss_scale": float(metrics.loss_scale)} if state.scales else {})
