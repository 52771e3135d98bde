"""Checkpoints: all that a run needs to go on, and the best weights so far.

A directory holds the last few states of training and, under `best/`, the weights with the lowest
validation loss. Both are TensorFlow checkpoints, which appear under their name only when they
are complete.
"""

import math
import os

import tensorflow as tf

from transformer_xl.memory import Memory

# How many states are kept: one more than needed, should the last be damaged.
_KEPT = 2


class Checkpoints:
    """The checkpoints of one run.

    Args:
      directory: where they are kept.
      model: a `TransformerXL`.
      optimizer: a built Keras optimizer, or None where only the best weights are wanted.
    """

    def __init__(self, directory: str, model, optimizer=None):
        self._model = {variable.path: variable.value for variable in model.variables}
        if len(self._model) != len(model.variables):
            raise ValueError("Two variables of the model have one path, so one would be lost.")
        self.step = tf.Variable(0, dtype=tf.int64)
        self.best_nll = tf.Variable(math.inf, dtype=tf.float64)
        self.best_step = tf.Variable(0, dtype=tf.int64)
        best = {"step": self.best_step, "nll": self.best_nll}
        self._best = tf.train.CheckpointManager(
            tf.train.Checkpoint(model=self._model, best=best),
            os.path.join(directory, "best"),
            max_to_keep=1,
        )
        self._directory = directory
        self._memory = self._states = None  # made when memory's shape is known
        if optimizer is not None:
            self._state = {
                "model": self._model,
                "optimizer": {variable.path: variable.value for variable in optimizer.variables},
                "step": self.step,
                "best": best,
            }

    def last_step(self) -> int:
        """The step of the last state; 0 if there is none."""
        latest = tf.train.latest_checkpoint(self._directory)
        return 0 if latest is None else int(latest.rpartition("-")[2])

    def restore(self, memory: Memory) -> Memory | None:
        """Brings back the last state, if there is one.

        Args:
          memory: one of the shape that was saved.

        Returns:
          The `Memory` before the next step; None if there is no checkpoint yet.
        """
        manager = self._manager(memory)
        if manager.latest_checkpoint is None:
            return None
        manager.checkpoint.restore(manager.latest_checkpoint).assert_consumed()
        return tf.nest.map_structure(tf.identity, self._memory)

    def save(self, step: int, memory: Memory):
        """Writes the state after `step` steps."""
        manager = self._manager(memory)
        for variable, value in zip(tf.nest.flatten(self._memory), tf.nest.flatten(memory)):
            variable.assign(value)
        self.step.assign(step)
        manager.save(checkpoint_number=step)

    def save_if_best(self, step: int, nll: float) -> bool:
        """Writes the weights if their validation loss is the lowest so far; says whether."""
        if not nll < float(self.best_nll):
            return False
        self.best_nll.assign(nll)
        self.best_step.assign(step)
        self._best.save(checkpoint_number=step)
        return True

    def restore_best(self):
        """Gives the model the best weights.

        Raises:
          FileNotFoundError: if there are none yet.
        """
        if self._best.latest_checkpoint is None:
            raise FileNotFoundError(
                f"There is no best checkpoint in {self._best.directory}. Train first: one is "
                "written at each evaluation, and when training ends."
            )
        self._best.checkpoint.restore(self._best.latest_checkpoint).assert_consumed()

    def _manager(self, memory: Memory):
        """The manager of the states, for memory of this shape."""
        if self._states is None:
            self._memory = tf.nest.map_structure(
                lambda value: tf.Variable(value, dtype=value.dtype), memory
            )
            checkpoint = tf.train.Checkpoint(
                memory={"hidden": list(self._memory.hidden), "valid": self._memory.valid},
                **self._state,
            )
            self._states = tf.train.CheckpointManager(
                checkpoint, self._directory, max_to_keep=_KEPT
            )
        return self._states
