"""Checkpoints: all that a run needs to go on, and the best weights so far.

A directory holds the last few states of training and, under `best/`, the weights with the lowest
validation loss and those that had it before. `state_store` tells whole ones from damaged ones.
"""

import math
import os
import sys
from collections.abc import Callable, Mapping

import numpy as np
import tensorflow as tf

from transformer_xl.memory import Memory
from transformer_xl.training.state_store import CheckpointError, StateStore, StoredState
from transformer_xl.training.tensorflow_states import TensorFlowState, newest_tensorflow_state

# One more of each than is needed, and of states another, should the last be damaged.
_STATES_KEPT, _BEST_KEPT = 3, 2
_SHOWN = 4  # differences that an error names


class Checkpoints:
    """The checkpoints of one run.

    A state holds the model's variables, the optimizer's (its count of updates is the position on
    the learning rate's schedule), memory, the step (the position in the data, whose order is a
    function of it and of the seed), the best loss and when it was, and `more`. The seed of dropout
    is a variable of the model.

    Args:
      directory: where they are kept.
      model: a `TransformerXL`.
      optimizer: a built Keras optimizer, or None where only the best weights are wanted.
      more: further variables of a state, `tf.Variable`s or Keras', by name.
      say: told of damaged checkpoints, in one line; None: standard error.

    Attributes:
      step: int64 variable, steps done.
      best_nll: float64 variable, the lowest validation loss, nats per token.
      best_step: int64 variable, when it was.
    """

    def __init__(
        self,
        directory: str,
        model,
        optimizer=None,
        more: Mapping | None = None,
        say: Callable[[str], None] | None = None,
    ):
        self._say = say = say or _warn
        self._model = _by_path("model", model.variables)
        self.step = tf.Variable(0, dtype=tf.int64)
        self.best_nll = tf.Variable(math.inf, dtype=tf.float64)
        self.best_step = tf.Variable(0, dtype=tf.int64)
        self._best_figures = {"best/nll": self.best_nll, "best/step": self.best_step}
        self._directory = directory
        self._best_directory = os.path.join(directory, "best")
        self._states = StateStore(directory, _STATES_KEPT, say)
        self._best = StateStore(self._best_directory, _BEST_KEPT, say)
        self._others = {"step": self.step, **self._best_figures}
        if optimizer is not None:
            self._others |= _by_path("optimizer", optimizer.variables)
        # States of earlier versions have them.
        paths = getattr(optimizer, "no_longer_kept", ())
        self._passed_over = {f"optimizer/{path}" for path in paths}
        self._others |= {f"more/{name}": variable for name, variable in (more or {}).items()}

    def last_step(self) -> int:
        """The step of the last state that is whole; 0 if none was written yet.

        Raises:
          CheckpointError: if there are states but none is whole.
        """
        state = self._newest(self._states, self._directory)
        return 0 if state is None else state.step

    def restore(self, memory: Memory, goes_back: bool = False) -> Memory | None:
        """Brings back the last state that is whole, if there is one.

        Args:
          memory: one of the shape that was saved.
          goes_back: whether this run was further. Then states are looked for again, since it is
            another process that writes them on several machines, and the best loss remains.

        Returns:
          The `Memory` before the next step; None if there is no checkpoint yet.

        Raises:
          CheckpointError: if there are states but none is whole, or it is of another model.
        """
        if goes_back:
            self._states.look_again()
        best = {name: variable.numpy() for name, variable in self._best_figures.items()}
        state = self._newest(self._states, self._directory)
        if state is None:
            return None
        remembered = _named(memory)
        targets = {**self._model, **self._others, **remembered}
        values = _assign(targets, state, self._passed_over)
        if not goes_back:
            best = self._best_there(state.step)
        for name, value in best.items():
            self._best_figures[name].assign(value)
        tensors = [
            tf.convert_to_tensor(values[name], like.dtype) for name, like in remembered.items()
        ]
        return tf.nest.pack_sequence_as(memory, tensors)

    def save(self, step: int, memory: Memory):
        """Writes the state after `step` steps.

        Raises:
          CheckpointError: if it cannot be written; the states before are as they were.
        """
        self.step.assign(step)
        self._states.write(step, {**self._model, **self._others, **_named(memory)})

    def save_if_best(self, step: int, nll: float) -> bool:
        """Writes the weights if their validation loss is the lowest so far; says whether."""
        if not nll < float(self.best_nll):
            return False
        self.save_best(step, nll)
        return True

    def save_best(self, step: int, nll: float):
        """Writes the weights as the best ones, those of `step`, with a loss of `nll`."""
        self.best_nll.assign(nll)
        self.best_step.assign(step)
        self._best.write(step, {**self._model, **self._best_figures})

    def save_candidate(self, step: int, nll: float):
        """Writes the weights beside the best ones, whose loss remains the one to be beaten."""
        best = float(self.best_nll), int(self.best_step)
        self.save_best(step, nll)
        self.best_nll.assign(best[0])
        self.best_step.assign(best[1])

    def restore_best(self):
        """Gives the model the best weights that are whole.

        Raises:
          FileNotFoundError: if there are none yet.
          CheckpointError: if there are some but none is whole, or they are of another model.
        """
        state = self._newest(self._best, self._best_directory)
        if state is None:
            raise FileNotFoundError(
                f"There is no best checkpoint in {self._best_directory}. Train first: one is "
                "written at each evaluation, and when training ends."
            )
        _assign({**self._model, **self._best_figures}, state)

    def best_candidates(self) -> list[int]:
        """The steps of the best weights and of those that were the best before, newest first."""
        return [state.step for state in self._best.all_whole()]

    def restore_candidate(self, step: int):
        """Gives the model the weights of one of `best_candidates`."""
        state = next(state for state in self._best.all_whole() if state.step == step)
        _assign({**self._model, **self._best_figures}, state)

    def _best_there(self, step: int) -> dict:
        """The figures of the best weights that there are, of those up to `step`.

        A state may tell others. A run that was stopped before an evaluation makes it when it goes
        on, and may be killed before it writes the next state; and weights may be damaged. Those
        after `step` will be written again.
        """
        whole = self._best.all_whole()
        figures = [{n: s.read()[n] for n in self._best_figures} for s in whole if s.step <= step]
        if figures:
            return min(figures, key=lambda one: float(one["best/nll"]))
        lost = math.isfinite(float(self.best_nll)) and not whole
        if lost and newest_tensorflow_state(self._best_directory) is None:
            self._best.begin_anew()
            self._say(
                f"warning: the best weights, those of step {int(self.best_step):,}, cannot be read "
                f"from {self._best_directory}: those of the next evaluation take their place"
            )
            return {"best/nll": math.inf, "best/step": 0}
        return {name: variable.numpy() for name, variable in self._best_figures.items()}

    def _newest(self, store: StateStore, directory: str) -> StoredState | TensorFlowState | None:
        return store.newest() or newest_tensorflow_state(directory)


def _warn(line: str):
    print(line, file=sys.stderr, flush=True)


def _by_path(part: str, variables) -> dict:
    named = {f"{part}/{variable.path}": variable for variable in variables}
    if len(named) != len(variables):
        raise ValueError(f"Two variables of the {part} have one path, so one would be lost.")
    return named


def _named(memory: Memory) -> dict:
    layers = {f"memory/hidden/{i}": layer for i, layer in enumerate(memory.hidden)}
    return {**layers, "memory/valid": memory.valid}


def _assign(
    targets: Mapping, state: StoredState | TensorFlowState, passed_over=frozenset()
) -> dict[str, np.ndarray]:
    """Gives variables a state's values, and returns these; nothing is assigned unless all fit."""
    values = state.read()
    differences = [f"it lacks {name}" for name in targets if name not in values]
    unknown = values.keys() - targets.keys() - passed_over
    differences += [f"{name} is not known here" for name in unknown]
    for name in targets.keys() & values.keys():
        here, there = _kind(targets[name]), _kind(values[name])
        if here != there:
            differences.append(f"{name} is {there} there, {here} here")
    if differences:
        differences.sort()
        more = len(differences) - _SHOWN
        raise CheckpointError(
            f"The checkpoint {state.path} is of another model or optimizer: "
            f"{'; '.join(differences[:_SHOWN])}{f'; and {more} more' if more > 0 else ''}. "
            "Choose another --workdir, or give the flags that it was made with."
        )
    for name, target in targets.items():
        if hasattr(target, "assign"):
            target.assign(values[name])
    return values


def _kind(value) -> str:
    return f"{tf.as_dtype(value.dtype).name} {list(value.shape)}"
