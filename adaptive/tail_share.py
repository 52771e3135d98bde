"""A warning where ids do not look sorted by frequency."""

import warnings

# Fewer targets than this say nothing.
ENOUGH_TARGETS = 2000


class TailShare:
    """Counts a head's targets, and warns once if more of them are in tails than in the head.

    Heads count where that makes no device wait: in eager calls; `SoftmaxModel` once an epoch.

    Args:
      name: of the head.
      ordered: whether it has an `id_order`.
    """

    def __init__(self, name: str, ordered: bool):
        self.name = name
        self.ordered = ordered
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
        sort = "" if self.ordered else "or pass id_order=id_order_from_counts(counts), "
        warnings.warn(
            f"{self.name}: {self.in_tails / self.targets:.0%} of {self.targets:,} targets are in "
            "the tails, so that the adaptive softmax saves little. Ids must be sorted by falling "
            f"frequency: sort them, {sort}or choose other cutoffs: optimal_cutoffs(counts, ...).",
            stacklevel=4,
        )
