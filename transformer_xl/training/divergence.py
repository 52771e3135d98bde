"""When a run has diverged."""

import math
import statistics
from collections.abc import Sequence

import numpy as np

from transformer_xl.config import TrainConfig

# The loss of a report is compared with those of so many before, once there are some.
_WINDOW, _FEWEST = 20, 5
_ADVICE = "Try a lower --learning_rate, more --warmup_steps or a larger --batch_size."


class DivergedError(Exception):
    """Training makes nothing better any more."""


class DivergenceWatch:
    """Looks at the losses of a run.

    Args:
      config: with `max_bad_steps` and `max_loss_rise`.
      losses: of the reports before, for a run that goes on.
    """

    def __init__(self, config: TrainConfig, losses: Sequence[float] = ()):
        self._config = config
        self._losses = list(losses)[-_WINDOW:]

    def check_run(self, bad_run: int, step: int):
        """Refuses a run of steps whose loss or gradients are not finite.

        Raises:
          DivergedError: if it is as long as `max_bad_steps`.
        """
        if bad_run >= self._config.max_bad_steps:
            raise DivergedError(
                f"The loss or its gradients are no longer finite: {bad_run} steps in a row up to "
                f"step {step} or before it were left out. The last checkpoint is loadable. "
                f"{_ADVICE}"
            )

    def mean(
        self, losses: np.ndarray, step: int, tokens: Sequence[int] | None = None
    ) -> float | None:
        """The mean of the losses that are finite, nats per token, float64; None if none is.

        Args:
          losses: of the steps since the last report.
          step: the last of them.
          tokens: how many each step had, which its loss is the mean of; None: equally many.

        Raises:
          DivergedError: if it is more than `max_loss_rise` above the median of the reports before.
        """
        finite = np.isfinite(losses)
        if not finite.any():
            return None
        weights = None if tokens is None else np.asarray(tokens)[finite]
        loss = float(np.average(losses[finite], weights=weights))
        if len(self._losses) >= _FEWEST and self._config.max_loss_rise:
            median = statistics.median(self._losses)
            if loss > median + self._config.max_loss_rise:
                raise DivergedError(
                    f"The loss of step {step} and those before it is {loss:.2f}, far above the "
                    f"median of the last reports, {median:.2f}. The last checkpoint is from "
                    f"before. {_ADVICE} (--max_loss_rise={self._config.max_loss_rise:g})"
                )
        return loss

    def reported(self, loss: float):
        """Takes the loss of a report among those to compare with."""
        if math.isfinite(loss):
            self._losses = [*self._losses, loss][-_WINDOW:]
