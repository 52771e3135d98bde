"""The best weights of a run whose validations saw only a part of the split."""

import math
from collections.abc import Callable


def choose_best(
    checkpoints,
    evaluate: Callable[[], float],
    say: Callable[[str], None],
) -> dict[int, float]:
    """Compares the last weights with those that bounded validations preferred, on the whole split.

    The model is given the better ones, which become the best checkpoint. A run saves the last
    weights among the candidates, see `Checkpoints.save_candidate`.

    Args:
      checkpoints: the run's `Checkpoints`.
      evaluate: the model's loss on the whole split, nats per token.
      say: told the outcome, in one line.

    Returns:
      The losses on the whole split by step; that of `checkpoints.best_step` is the lowest.

    Raises:
      FileNotFoundError: if there are no best weights.
    """
    if not checkpoints.best_candidates():
        # An earlier version's, or none, which is an error.
        checkpoints.restore_best()
        return {int(checkpoints.best_step): evaluate()}
    losses = {}
    for step in checkpoints.best_candidates():
        checkpoints.restore_candidate(step)
        losses[step] = evaluate()
    best = min(losses, key=lambda step: (math.isnan(losses[step]), losses[step]))
    checkpoints.restore_candidate(best)
    if best != next(iter(losses)):  # the newest is what will be read as the best
        checkpoints.save_best(best, float(checkpoints.best_nll))
    compared = ", ".join(f"{losses[step]:.4f} with those of step {step:,}" for step in losses)
    say(f"loss on the whole validation split: {compared}; step {best:,} is the best")
    return losses
