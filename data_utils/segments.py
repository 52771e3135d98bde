"""A flat array of ids as batches of segments: B contiguous streams of L tokens a step.

Shape letters: B batch, L segment length, N tokens of the array.

Everything is a pure function of (array, B, L, step), so a run that resumes at step n reads what
an uninterrupted one would have read, and seeking costs nothing. A batch is `(inputs int32 [B, L],
targets int32 [B, L], weights float32 [B, L])`: a target is the token after its input, and its
weight is 1.0, or 0.0 where there is none. Row b of one batch goes on in row b of the next, so that
memory can be carried from step to step.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

if TYPE_CHECKING:
    import tensorflow as tf


class Batch(NamedTuple):
    """What a model reads in one step; arrays, or tensors in a dataset."""

    inputs: np.ndarray  # int32 [B, L]
    targets: np.ndarray  # int32 [B, L]
    weights: np.ndarray  # float32 [B, L]


class TrainSegments:
    """Training batches of an array: the tokens left over at the end of a stream are not used.

    Attributes:
        steps_per_epoch: `(N // B - 1) // L`, the number of different batches.
    """

    def __init__(self, array: np.ndarray, batch_size: int, segment_length: int):
        """Takes `array`, integers `[N]`, memory-mapped or not, and B and L.

        Raises ValueError for sizes below 1, and where the array is too short for one step.
        """
        array = _check_sizes(array, batch_size, segment_length)
        num_tokens = array.shape[0]
        stream_length = num_tokens // batch_size
        if stream_length < segment_length + 1:
            largest_batch = num_tokens // (segment_length + 1)
            largest_segment = stream_length - 1
            fix = " or ".join(
                [f"batch_size at most {largest_batch}"] * (largest_batch > 0)
                + [f"segment_length at most {largest_segment}"] * (largest_segment > 0)
            )
            raise ValueError(
                "Each of batch_size streams needs segment_length + 1 tokens. Received batch_size="
                f"{batch_size}, segment_length={segment_length} for {num_tokens} tokens: use "
                f"{fix or 'more text'}."
            )
        self.batch_size = batch_size
        self.segment_length = segment_length
        self.steps_per_epoch = (stream_length - 1) // segment_length
        self._streams = array[: batch_size * stream_length].reshape(batch_size, stream_length)

    def starts_epoch(self, step: int) -> bool:
        """Whether `step` reads the beginning of the streams, so that memory must be empty."""
        return step % self.steps_per_epoch == 0

    def batch(self, step: int) -> Batch:
        """The batch of any step >= 0; after the last comes the first. ValueError below 0."""
        if step < 0:
            raise ValueError(f"A step is at least 0. Received: {step}.")
        start = step % self.steps_per_epoch * self.segment_length
        # Only the slice is read from the disk and widened.
        tokens = self._streams[:, start : start + self.segment_length + 1].astype(np.int32)
        return Batch(tokens[:, :-1], tokens[:, 1:], np.ones_like(tokens[:, 1:], np.float32))

    def dataset(self, start_step: int = 0, num_steps: int | None = None) -> "tf.data.Dataset":
        """Batches of the steps from `start_step` on: `num_steps` of them, or without end.

        Elements are `Batch`es of tensors with static shapes. Beginning at any step takes as long
        as at step 0. Raises ValueError for numbers below 0.
        """
        if start_step < 0 or (num_steps is not None and num_steps < 0):
            raise ValueError(
                f"Steps are at least 0. Received start_step={start_step}, num_steps={num_steps}."
            )
        stop = np.iinfo(np.int64).max if num_steps is None else start_step + num_steps
        return _dataset(self.batch, start_step, stop, self.batch_size, self.segment_length)


class EvalSegments:
    """Evaluation batches: every token of an array is a target exactly once.

    The array is cut into B streams of `ceil(N / B)` tokens; the last ones may be shorter, or
    empty. The first token of all is predicted from `<eos>`; the first of every other stream from
    the token before it, with empty memory. Streams are padded to whole segments: inputs and
    targets there are `<eos>`, with weight 0, so that the sum of all weights is N.

    Example: tokens a b c d e with B = 2, L = 2 make the inputs `[[eos, a], [c, d]]` and
    `[[b, eos], [eos, eos]]`, for the targets `[[a, b], [d, e]]` and `[[c, eos], [eos, eos]]`.

    Attributes:
        num_tokens: N.
        num_steps: number of batches, `ceil(ceil(N / B) / L)`.
    """

    def __init__(self, array: np.ndarray, eos_id: int, batch_size: int, segment_length: int):
        """Takes `array`, integers `[N]`, memory-mapped or not, the id of `<eos>`, and B and L.

        Raises ValueError for sizes below 1, a negative `eos_id` and an array without tokens.
        """
        self._array = _check_sizes(array, batch_size, segment_length)
        if eos_id < 0:
            raise ValueError(f"eos_id must be an id of the vocabulary. Received: {eos_id}.")
        self.eos_id = eos_id
        self.batch_size = batch_size
        self.segment_length = segment_length
        self.num_tokens = self._array.shape[0]
        self._stream_length = _ceil_div(self.num_tokens, batch_size)
        self.num_steps = _ceil_div(self._stream_length, segment_length)

    def batch(self, step: int) -> Batch:
        """The batch of a step. Raises ValueError outside 0 to `num_steps - 1`."""
        if not 0 <= step < self.num_steps:
            raise ValueError(f"A step must be in 0 to {self.num_steps - 1}. Received: {step}.")
        shape = (self.batch_size, self.segment_length)
        inputs = np.full(shape, self.eos_id, np.int32)
        targets = np.full(shape, self.eos_id, np.int32)
        weights = np.zeros(shape, np.float32)
        for b in range(self.batch_size):
            first = b * self._stream_length + step * self.segment_length
            end_of_stream = min((b + 1) * self._stream_length, self.num_tokens)
            length = min(self.segment_length, end_of_stream - first)
            if length <= 0:
                continue
            targets[b, :length] = self._array[first : first + length]
            weights[b, :length] = 1.0
            # Token 0 has none before it: its input stays <eos>.
            skip = 1 if first == 0 else 0
            inputs[b, skip:length] = self._array[first + skip - 1 : first + length - 1]
        return Batch(inputs, targets, weights)

    def dataset(self) -> "tf.data.Dataset":
        """All batches in order, as `Batch`es of tensors with static shapes."""
        return _dataset(self.batch, 0, self.num_steps, self.batch_size, self.segment_length)


def _check_sizes(array: np.ndarray, batch_size: int, segment_length: int) -> np.ndarray:
    if batch_size < 1 or segment_length < 1:
        raise ValueError(
            "batch_size and segment_length must be at least 1. Received batch_size="
            f"{batch_size}, segment_length={segment_length}."
        )
    if array.ndim != 1 or array.size == 0 or not np.issubdtype(array.dtype, np.integer):
        raise ValueError(
            f"A split must be [N] ids, N > 0, of an integer dtype. Received shape {array.shape}, "
            f"dtype {array.dtype}."
        )
    # The same memory without the memmap class, whose slicing is slow.
    return array.view(np.ndarray)


def _ceil_div(numerator: int, denominator: int) -> int:
    return -(-numerator // denominator)


def _dataset(
    batch: Callable[[int], Batch], start: int, stop: int, batch_size: int, segment_length: int
) -> "tf.data.Dataset":
    # Here, and not above: the processes of a preparation import this package without it.
    import tensorflow as tf

    shape = (batch_size, segment_length)

    def load(step: tf.Tensor) -> Batch:
        # A function, and not a tensor: a constant would copy the whole array into the graph.
        parts = tf.numpy_function(batch, [step], (tf.int32, tf.int32, tf.float32), stateful=False)
        return Batch(*(tf.ensure_shape(part, shape) for part in parts))

    steps = tf.data.Dataset.range(start, stop)
    return steps.map(load).prefetch(tf.data.AUTOTUNE)
