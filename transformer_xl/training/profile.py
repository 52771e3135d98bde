"""A trace of some training steps, for TensorBoard's profiler."""

from collections.abc import Callable

import tensorflow as tf


def profile_range(text: list[str] | None) -> tuple[int, int] | None:
    """The first and last step that --profile_steps asks for.

    Raises:
      ValueError: if they are not two rising numbers of steps.
    """
    if not text:
        return None
    try:
        first, last = (int(number) for number in text)
    except ValueError:
        first, last = 0, 0
    if not 1 <= first <= last:
        raise ValueError(
            "profile_steps must be two steps a,b with 1 <= a <= b, the first and the last of the "
            f"trace. Received: {','.join(text)}."
        )
    return first, last


class Profiled:
    """A training step that traces those of a range into a directory.

    Tracing begins before step `first` and ends when step `last` is computed, or with `close`. It
    costs time, and memory for each step: a few are enough.

    Args:
      train_step: the function of a step.
      steps: the pair (first, last), counted from 1.
      done: how many steps were done before.
      directory: of the traces.
    """

    def __init__(self, train_step: Callable, steps: tuple[int, int], done: int, directory: str):
        self._train_step, self._step, self._directory = train_step, done, directory
        self._first, self._last = steps
        self._tracing = False

    def __call__(self, *arguments):
        self._step += 1
        if self._first <= self._step <= self._last and not self._tracing:
            tf.profiler.experimental.start(self._directory)
            self._tracing = True
        if not self._tracing:
            return self._train_step(*arguments)
        with tf.profiler.experimental.Trace("train", step_num=self._step, _r=1):
            result = self._train_step(*arguments)
        if self._step >= self._last:
            # Steps run on after the call returns: this one's loss is there when it is done.
            tf.nest.map_structure(lambda value: value.numpy(), result[1])
            self.close()
        return result

    def close(self):
        """Writes the trace, if one is under way."""
        if self._tracing:
            tf.profiler.experimental.stop()
            self._tracing = False
