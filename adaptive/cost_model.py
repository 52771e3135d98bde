"""What a softmax takes on a device: a model of it, and its measurement."""

import dataclasses
import numbers

import numpy as np
import tensorflow as tf

from .cross_entropy import CHUNK_BYTES, Rows, linear_loss, rows_per_chunk

_CHUNK_LOGITS = CHUNK_BYTES // 4
PRODUCTS = 3  # the logits, the inputs' gradient, the table's gradient


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

    Raises:
      ValueError: for a constant that is negative or not finite.

    Example:
      >>> CostModel().seconds([2_000, 9_000], 1024, 512).shape
      (2,)
    """

    softmax_seconds: float = 1.5e-3
    free_seconds: float = 1e-3
    product_seconds: float = 1.4e-11
    logit_seconds: float = 3e-9
    table_seconds: float = 1.5e-9
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
        return np.min([self.of_work(work) for work in works(columns, rows, width, batch_size)], 0)

    def of_work(self, work):
        """Seconds of what `works` gives."""
        seconds = sum(map(np.multiply, work, dataclasses.astuple(self)[2:]))
        return self.softmax_seconds + np.maximum(seconds - self.free_seconds, 0.0)


def works(columns, rows, width, batch_size):
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
    return [(PRODUCTS * width * one, one, table, chunks) for one in (by_rows, by_logits)]


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

    Returns:
      The `CostModel` with the least squared relative errors.

    Raises:
      ValueError: if a size is not a positive integer.

    Example:
      >>> measure_cost_model(hidden_dim=16, batch_size=64, columns=64).chunk_seconds >= 0
      True
    """
    if columns is None:
        columns = 65536 if tf.config.list_logical_devices("GPU") else 4096
    check_positive(hidden_dim=hidden_dim, batch_size=batch_size, columns=columns, repeats=repeats)
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
    features = np.array([[1.0, *min(works(*size))] for size in sizes])
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


def checked_cost_model(value) -> CostModel:
    """The cost model, or the default for None; raises ValueError for anything else."""
    if value is not None and not isinstance(value, CostModel):
        raise ValueError(
            f"cost_model must be a CostModel or None. Received: {value!r}. "
            "measure_cost_model() makes one."
        )
    return value or CostModel()


def check_positive(**values):
    """Raises ValueError for a setting that is not a positive integer."""
    for name, value in values.items():
        if not isinstance(value, numbers.Integral) or isinstance(value, bool) or value < 1:
            raise ValueError(f"{name} must be a positive integer. Received: {name}={value!r}.")
