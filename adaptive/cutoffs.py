"""Cutoffs that make the adaptive softmax fast on a device; the only home of choosing them."""

import dataclasses
import numbers
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from .clusters import Clusters, projected
from .cross_entropy import CHUNK_BYTES, Rows, linear_loss, rows_per_chunk

_CHUNK_LOGITS = CHUNK_BYTES // 4
_PRODUCTS = 3  # the logits, the inputs' gradient, the table's gradient


@dataclasses.dataclass(frozen=True)
class CostModel:
    """What a softmax takes on a device, forward and backward: constant at first, then linear.

    `softmax_seconds + max(0, work - free_seconds)`, where work is the sum of the other terms, with
    the chunks of rows that `linear_loss` makes. After `max(c, c + lambda (k B - k_0 B_0))` in Grave
    et al. (2017), "Efficient softmax approximation for GPUs", section 4. The defaults are rounded
    from `measure_cost_model()`, float32, on two cores of a server's CPU: measure on your device.

    Args:
      softmax_seconds: seconds of a softmax however small.
      free_seconds: seconds of work that add nothing, since the device would have waited.
      product_seconds: seconds of each of the `3 * rows * columns * width` multiplications.
      logit_seconds: seconds of all else that is done to each of the `rows * columns` logits.
      table_seconds: seconds of each of the `columns * width` elements of the table's gradient,
        spent once to fill and scale it and once for every chunk that is added to it.
      chunk_seconds: seconds of each chunk however small.

    Raises ValueError: for a constant that is negative or not finite.

    Example:
      >>> CostModel().seconds([2_000, 9_000], 1024, 512).shape
      (2,)
    """

    softmax_seconds: float = 1e-3
    free_seconds: float = 1e-3
    product_seconds: float = 2e-11
    logit_seconds: float = 2e-8
    table_seconds: float = 3e-9
    chunk_seconds: float = 4e-4

    def __post_init__(self):
        if not all(0 <= value < np.inf for value in dataclasses.astuple(self)):
            raise ValueError(
                "The constants of a CostModel must be finite seconds, at least 0. "
                f"Received: {self}. measure_cost_model() measures them."
            )

    def seconds(self, columns, rows, width, batch_size=None):
        """The seconds, float64, that a softmax takes, forward and backward.

        Args:
          columns: logits of a row; an array, as all of these: shapes are broadcast.
          rows: rows that need the softmax; their mean, where it varies from step to step.
          width: of the rows and of the table.
          batch_size: tokens in a step, of which the rows are some; None where they are all.
        """
        return np.min([self._of(work) for work in _works(columns, rows, width, batch_size)], 0)

    def _of(self, work):
        seconds = sum(map(np.multiply, work, dataclasses.astuple(self)[2:]))
        return self.softmax_seconds + np.maximum(seconds - self.free_seconds, 0.0)


def _works(columns, rows, width, batch_size):
    """Products, logits, table elements and chunks of a softmax, twice: the lesser is meant.

    A chunk of some of the rows has `min(most, _CHUNK_LOGITS / columns)`; half a chunk is padding,
    and there is at least one. The first work supposes chunks of `most` rows, the second chunks of
    `_CHUNK_LOGITS` logits: see `_least` for why apart.
    """
    columns, rows, width = (np.asarray(one, np.float64) for one in (columns, rows, width))
    most, padding = np.maximum(rows, 1.0), 0.0
    if batch_size is not None:
        most, padding = rows_per_chunk(int(batch_size), num_columns=1, few=True), 0.5
    chunks = np.maximum(1.0, padding + rows * np.maximum(1 / most, columns / _CHUNK_LOGITS))
    table = columns * width * (1 + chunks)
    by_rows = columns * np.maximum(most, rows + padding * most)
    by_logits = np.maximum(_CHUNK_LOGITS, columns * rows + padding * _CHUNK_LOGITS)
    return [(_PRODUCTS * width * one, one, table, chunks) for one in (by_rows, by_logits)]


def measure_cost_model(
    hidden_dim=512, batch_size=1024, columns=None, repeats=3, dtype="float32", jit_compile=False
) -> CostModel:
    """Times `linear_loss` on the present device, some seconds in all, and fits a `CostModel`.

    Args:
      hidden_dim: width of the widest softmax timed.
      batch_size: tokens in a step.
      columns: of the softmaxes timed; None means 4,096, or 65,536 where there is a GPU.
      repeats: how often each size is timed; the shortest time counts, as others may disturb.
      dtype, jit_compile: of the products; whether XLA compiles the loss.

    Returns: The `CostModel` with the least squared relative errors.

    Raises ValueError: if a size is not a positive integer.

    Example:
      >>> measure_cost_model(hidden_dim=16, batch_size=64, columns=64).chunk_seconds >= 0
      True
    """
    if columns is None:
        columns = 65536 if tf.config.list_logical_devices("GPU") else 4096
    _check_positive(hidden_dim=hidden_dim, batch_size=batch_size, columns=columns, repeats=repeats)
    how = repeats, dtype, jit_compile
    narrow, eighth = max(1, hidden_dim // 8), max(1, batch_size // 8)
    # Half a chunk more than whole ones: then there is as much padding as supposed.
    chunk = rows_per_chunk(int(batch_size), num_columns=1, few=True)
    few, many = (min(batch_size, chunk * halves // 2) for halves in (3, 15))
    k, d = columns, hidden_dim
    sizes = [
        *zip([k, k, k, 4 * k], [batch_size] * 2 + [eighth] * 2, [d, narrow] * 2, [None] * 4),
        *zip([k, k, 4 * k, 8], [few, many] * 2, [d, narrow, narrow, narrow], [batch_size] * 4),
    ]
    # What a softmax takes beyond what is free: a constant and its work, the lesser of the two.
    features = np.array([[1.0, *min(_works(*size))] for size in sizes])
    features /= np.array([_time_of_loss(*size, *how) for size in sizes])[:, None]
    # Each row's sum shall be near to 1. No coefficient can become negative by this descent.
    fit = 1 / features.max(0)
    for _ in range(10_000):
        fit *= features.sum(0) / (features.T @ (features @ fit))
    smallest = _time_of_loss(8, min(8, batch_size), min(8, hidden_dim), None, *how)
    constant, *constants = fit.tolist()
    return CostModel(smallest, max(0.0, smallest - constant), *constants)


def _time_of_loss(columns, rows, width, batch_size, repeats, dtype, jit_compile):
    tokens = batch_size or rows
    inputs = tf.cast(tf.random.stateless_normal([tokens, width], [0, 0]), dtype)
    table = 0.1 * tf.random.stateless_normal([columns, width], [0, 1])
    sources, targets = (inputs, table, tf.zeros([columns])), tf.range(tokens) % columns

    # The number of rows is an argument, since in training it is no constant either.
    @tf.function(autograph=False, jit_compile=jit_compile)
    def step(sources, count):
        wanted = Rows(tf.range(tokens), tf.constant(0), count) if batch_size else None
        with tf.GradientTape() as tape:
            tape.watch(sources)
            loss = linear_loss(*sources, targets, tf.ones([tokens]), wanted)
        return loss, tape.gradient(loss, sources)

    times = []
    for _ in range(1 + repeats):
        start = tf.timestamp()
        step(sources, tf.constant(rows))
        # A GPU's results are handed out before they are there.
        tf.test.experimental.sync_devices()
        times.append(float(tf.timestamp() - start))
    return min(times[1:])  # the first one compiles


def expected_cost(
    counts, cutoffs, hidden_dim, div_val=4, embed_dim=None, batch_size=1024, cost_model=None
) -> float:
    """The seconds that an adaptive softmax is expected to take of a step, forward and backward.

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

    Raises ValueError: for unusable counts, cutoffs, widths or batch size.

    Example:
      >>> expected_cost([9, 5, 3, 1], [2], 64) > 0
      True
    """
    _check_positive(hidden_dim=hidden_dim, batch_size=batch_size)
    below = _share_below(counts)
    clusters = Clusters(len(below) - 1, cutoffs)
    widths = clusters.widths(hidden_dim if embed_dim is None else embed_dim, div_val)
    model = cost_model or CostModel()
    has_projection = projected(widths, hidden_dim, None, div_val)
    projections = batch_size * hidden_dim * np.dot(has_projection, widths)
    head = model.seconds(clusters.shortlist + clusters.num_tails, batch_size, widths[0])
    rows = batch_size * np.diff(below[[*clusters.cutoffs, clusters.vocab_size]])
    tails = model.seconds(clusters.sizes[1:], rows, widths[1:], batch_size)
    return float(_PRODUCTS * projections * model.product_seconds + head + np.sum(tails))


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

    Returns: `num_clusters - 1` rising ids, for ids sorted by falling count.

    Raises ValueError: for unusable arguments, and where there is no room for as many clusters.

    Example:
      >>> optimal_cutoffs(1e6 / np.arange(1, 30), num_clusters=1, hidden_dim=64)
      ()
    """
    _check_positive(num_clusters=num_clusters, hidden_dim=hidden_dim, batch_size=batch_size)
    below = _share_below(counts)
    vocab_size = len(below) - 1
    allowed = _allowed_cutoffs(vocab_size, num_clusters, multiple_of)
    embed_dim = hidden_dim if embed_dim is None else embed_dim
    widths = Clusters(num_clusters, range(1, num_clusters)).widths(embed_dim, div_val)
    model = cost_model or CostModel()

    def tail(i, case, starts, ends):
        rows = batch_size * (below[ends] - below[starts])
        return model._of(_works(ends - starts, rows, widths[i], batch_size)[case])

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

    Args, Raises: as of `expected_cost`.

    Returns: A `Comparison`; print it for the answer.

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
        _check_positive(multiple_of=multiple)
        # The head has `num_clusters - 1` columns besides its words.
        allowed = np.arange(-(num_clusters - 1) % multiple or multiple, vocab_size, multiple)
        if len(allowed) >= num_clusters - 1:
            return allowed
    raise ValueError(
        f"There are not as many words, or multiples of {multiple}, as clusters. Received: "
        f"num_clusters={num_clusters} for {vocab_size} words. Use fewer clusters."
    )


def _check_positive(**values):
    for name, value in values.items():
        if not isinstance(value, numbers.Integral) or isinstance(value, bool) or value < 1:
            raise ValueError(f"{name} must be a positive integer. Received: {name}={value!r}.")
