"""Cutoffs that make the adaptive softmax fast on a device; the only home of choosing them."""

from typing import NamedTuple

import numpy as np

from .clusters import Clusters, projected
from .cost_model import (
    PRODUCTS,
    CostModel,
    check_positive,
    checked_cost_model,
    measure_cost_model,
    works,
)

__all__ = [
    "Comparison",
    "CostModel",
    "compare_with_full_softmax",
    "expected_cost",
    "measure_cost_model",
    "optimal_cutoffs",
]


def expected_cost(
    counts, cutoffs, hidden_dim, div_val=4, embed_dim=None, batch_size=1024, cost_model=None
) -> float:
    """What an adaptive softmax is expected to take of a step, forward and backward.

    The head, which is the shortlist and a column for each tail, is computed for all tokens, a tail
    for its share of them, projections, where there are any, for all. The optimizer is left out.

    Args:
      counts: `[V]` real, at least 0: how often each word occurs. In any order: they are sorted
        here, as the ids must be (or `id_order` be given to the layers).
      cutoffs, div_val: as of `Clusters`.
      hidden_dim: width of the hidden states, `D`.
      embed_dim: width of the head's table; None means `hidden_dim`.
      batch_size: tokens in a training step: sequences times their length.
      cost_model: what the device takes; None means `CostModel()`.

    Returns:
      Seconds.

    Raises:
      ValueError: for unusable counts, cutoffs, widths or batch size.

    Example:
      >>> expected_cost([9, 5, 3, 1], [2], 64) > 0
      True
    """
    check_positive(hidden_dim=hidden_dim, batch_size=batch_size)
    below = _share_below(counts)
    clusters = Clusters(len(below) - 1, cutoffs)
    widths = clusters.widths(hidden_dim if embed_dim is None else embed_dim, div_val)
    model = checked_cost_model(cost_model)
    has_projection = projected(widths, hidden_dim, None, div_val)
    projections = batch_size * hidden_dim * np.dot(has_projection, widths)
    head = model.seconds(clusters.shortlist + clusters.num_tails, batch_size, widths[0])
    rows = batch_size * np.diff(below[[*clusters.cutoffs, clusters.vocab_size]])
    tails = model.seconds(clusters.sizes[1:], rows, widths[1:], batch_size)
    return float(PRODUCTS * projections * model.product_seconds + head + np.sum(tails))


def optimal_cutoffs(
    counts,
    num_clusters,
    hidden_dim,
    div_val=4,
    embed_dim=None,
    batch_size=1024,
    cost_model=None,
    multiple_of=None,
) -> tuple[int, ...]:
    """The cutoffs of least `expected_cost`, exactly; time is all that counts, not quality.

    By dynamic programming over the boundaries, as Grave et al. (2017); see `CostModel`.

    Args:
      counts, hidden_dim, div_val, embed_dim, batch_size, cost_model: as of `expected_cost`.
      num_clusters: the head and the tails together.
      multiple_of: of this are multiples the head's columns, one for each tail included, and the
        tails' sizes, but for the last tail, which takes the rest; tensor cores like 8. None means
        8 for vocabularies of 1,000 and more with room for it, otherwise 1.

    Returns:
      `num_clusters - 1` rising ids, for ids sorted by falling count.

    Raises:
      ValueError: for unusable arguments, and where there is no room for as many clusters.

    Example:
      >>> optimal_cutoffs(1e6 / np.arange(1, 30), num_clusters=1, hidden_dim=64)
      ()
    """
    check_positive(num_clusters=num_clusters, hidden_dim=hidden_dim, batch_size=batch_size)
    below = _share_below(counts)
    vocab_size = len(below) - 1
    allowed = _allowed_cutoffs(vocab_size, num_clusters, multiple_of)
    embed_dim = hidden_dim if embed_dim is None else embed_dim
    widths = Clusters(num_clusters, range(1, num_clusters)).widths(embed_dim, div_val)
    model = checked_cost_model(cost_model)

    def tail(i, case, starts, ends):
        rows = batch_size * (below[ends] - below[starts])
        return model.of_work(works(ends - starts, rows, widths[i], batch_size)[case])

    # least[i][j]: the least that all before cutoff `i` takes if that is `allowed[i + j]`.
    least = [model.seconds(allowed + num_clusters - 1, batch_size, widths[0])]
    for i in range(1, num_clusters - 1):
        least.append(np.minimum(*(_least(least[-1], tail, i, case, allowed) for case in (0, 1))))
    ends = [vocab_size]
    for i in reversed(range(1, num_clusters)):
        starts = allowed[i - 1 : np.searchsorted(allowed, ends[0])]
        lasts = np.minimum(*(tail(i, case, starts, ends[0]) for case in (0, 1)))
        ends.insert(0, int(starts[np.argmin(least[i - 1][: len(starts)] + lasts)]))
    return tuple(ends[:-1])


def _least(before, tail, i, case, allowed):
    """What all before each cutoff after tail `i` takes, from the same for the cutoff before it."""
    # Exact, by divide and conquer: the best start never falls as the end rises. That is so where
    # tails over `a .. d` and, inside it, `b .. c` take no less than over `a .. c` and `b .. d`.
    # Columns and rows are sums over a tail: they take the same. Sums, products and convex rising
    # functions (`max(constant, .)`) of such quantities, not negative and growing with the tail, do
    # too. Costs are made of that and a minimum, which does not: hence cases, the best of either.
    allowed, size = allowed[i - 1 :], len(before)
    least, best = np.empty(size), np.full(2 * size, size)
    best[0] = 0
    for stride in 2 ** np.arange((size - 1).bit_length())[::-1]:
        # Ends half-way between those done: the best starts lie between the best of theirs.
        ends = np.arange(stride, size, 2 * stride)
        lowest = best[ends - stride]
        lengths = np.minimum(best[ends + stride], ends - 1) - lowest + 1
        first = np.cumsum(lengths) - lengths
        starts = np.arange(lengths.sum()) - np.repeat(first - lowest, lengths)
        total = before[starts] + tail(i, case, allowed[starts], allowed[np.repeat(ends, lengths)])
        least[ends] = np.minimum.reduceat(total, first)
        hits = np.flatnonzero(total == np.repeat(least[ends], lengths))
        best[ends] = starts[hits[np.searchsorted(hits, first)]]
    return least[1:]


class Comparison(NamedTuple):
    """An adaptive softmax beside a full one; as a string, the answer in plain words."""

    adaptive_seconds: float  # of a training step
    full_seconds: float
    speedup: float  # full / adaptive
    sizes: tuple[int, ...]  # words of each cluster
    shares: tuple[float, ...]  # of the targets, of each cluster

    def __str__(self):
        adaptive, full = (f"{1e3 * one:,.2f} ms" for one in self[:2])
        ours = f"expected to take 1/{self.speedup:.1f} of the time of a full softmax"
        answer = f"The adaptive softmax is {ours}: {adaptive} instead of {full}."
        if self.speedup <= 1:
            answer = f"A full softmax would be faster here: {full} instead of {adaptive}."
        sizes = " / ".join(f"{size:,}" for size in self.sizes)
        shares = " / ".join(f"{share:.1%}" for share in self.shares)
        return f"{answer} Clusters of {sizes} words have {shares} of the targets."


def compare_with_full_softmax(
    counts, cutoffs, hidden_dim, div_val=4, embed_dim=None, batch_size=1024, cost_model=None
) -> Comparison:
    """Whether a full softmax would be faster: an `AdaptiveSoftmax` of one cluster, `div_val=1`.

    Args:
      counts, cutoffs, hidden_dim, div_val, embed_dim, batch_size, cost_model: as of
        `expected_cost`.

    Returns:
      A `Comparison`; print it for the answer.

    Raises:
      ValueError: as `expected_cost`.

    Example:
      >>> compare_with_full_softmax(1e6 / np.arange(1, 100_001), [8_000], 256).speedup > 2
      True
    """
    rest = embed_dim, batch_size, cost_model
    adaptive = expected_cost(counts, cutoffs, hidden_dim, div_val, *rest)
    full = expected_cost(counts, (), hidden_dim, 1, *rest)
    below = _share_below(counts)
    clusters = Clusters(len(below) - 1, cutoffs)
    shares = tuple(np.diff(below[[*clusters.starts, clusters.vocab_size]]).tolist())
    return Comparison(adaptive, full, full / adaptive if adaptive else 1.0, clusters.sizes, shares)


def _share_below(counts):
    """`[V + 1]`: which share of the targets each number of commonest words has."""
    counts = np.asarray(counts)
    if counts.ndim != 1 or not counts.size or counts.dtype.kind not in "iuf":
        raise ValueError(
            "Counts must be one number for each word, shape [V]. "
            f"Received: shape {counts.shape}, dtype {counts.dtype}."
        )
    if not np.isfinite(counts).all() or counts.min() < 0 or not counts.any():
        raise ValueError(
            "Counts must be finite, at least 0 and not all 0. "
            f"Received: counts from {counts.min()} to {counts.max()}. Count the training text."
        )
    total = np.cumsum(np.sort(counts.astype(np.float64))[::-1])
    return np.concatenate([[0.0], total / total[-1]])


def _allowed_cutoffs(vocab_size, num_clusters, multiple_of):
    usual = [8, 1] if vocab_size >= 1000 else [1]
    for multiple in usual if multiple_of is None else [multiple_of]:
        check_positive(multiple_of=multiple)
        # The head has `num_clusters - 1` columns besides its words.
        allowed = np.arange(-(num_clusters - 1) % multiple or multiple, vocab_size, multiple)
        if len(allowed) >= num_clusters - 1:
            return allowed
    raise ValueError(
        f"There are not as many words, or multiples of {multiple}, as clusters. Received: "
        f"num_clusters={num_clusters} for {vocab_size} words. Use fewer clusters."
    )
