"""A warning where ids do not look sorted by frequency."""

import warnings

# Fewer targets than this say nothing.
ENOUGH_TARGETS = 2000


class TailShare:
    """Counts a head's targets, and warns once if more of them are in tails than in the head.

    Heads count where that makes no device wait: in eager calls; `SoftmaxModel` once an epoch.

    Args:
      name: of the head.
    """

    def __init__(self, name: str):
        self.name = name
        self.targets = self.in_tails = 0
        self.warned = False

    def add(self, targets: int, in_tails: int):
        """Counts more targets.

        Args:
          targets: how many.
          in_tails: how many of them were in tails.
        """
        self.targets += targets
        self.in_tails += in_tails
        if self.warned or self.targets < ENOUGH_TARGETS or 2 * self.in_tails <= self.targets:
            return
        self.warned = True
        warnings.warn(
            f"{self.name}: {self.in_tails / self.targets:.0%} of {self.targets:,} targets are in "
            "the tails, so that the adaptive softmax saves little. Are the ids sorted by falling "
            "frequency? If not, pass id_order=id_order_from_counts(counts); if they are, choose "
            "other cutoffs: optimal_cutoffs(counts, ...).",
            stacklevel=4,
        )
