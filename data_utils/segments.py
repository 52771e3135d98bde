"""A flat array of ids as batches of segments: B contiguous streams of L tokens a step.

Shape letters: B batch, L segment length, N tokens of the array.

Everything is a pure function of (array, settings, step), so a run that resumes at step n reads what
an uninterrupted one would have read, and seeking costs nothing. A batch is `(inputs int32 [B, L],
targets int32 [B, L], weights float32 [B, L])`: a target is the token after its input, and its
weight is 1.0, or 0.0 where there is none. Row b of one batch goes on in row b of the next, so that
memory can be carried from step to step.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from .id_arrays import ShardedArray
from .streams import ShuffledStreams, Streams

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
        steps_per_epoch: the number of batches in an epoch, the same in all: `(N // B - 1) // L`
            unless lengths vary.
    """

    def __init__(
        self,
        array: np.ndarray | ShardedArray,
        batch_size: int,
        segment_length: int,
        *,
        documents: np.ndarray | None = None,
        shuffle_documents: bool = False,
        roll: bool = False,
        variable_length: bool = False,
        seed: int = 0,
    ):
        """Lays out the streams; no token is read.

        Args:
            array: integers `[N]`, memory-mapped or not.
            batch_size: B.
            segment_length: L, or the largest one.
            documents: int64, the places where documents begin, rising from 0.
            shuffle_documents: whether documents, sentences for instance, stand in another order in
                every epoch.
            roll: whether each stream begins at another place in every epoch, and goes on at its
                beginning when it comes to its end.
            variable_length: whether segments have lengths of a quarter, a half, three quarters and
                all of L, equally often, in another order in every epoch.
            seed: of all these orders.

        Raises:
            ValueError: sizes below 1, an array that is too short for one step, or settings that
                contradict each other.
        """
        self._array = _check_sizes(array, batch_size, segment_length)
        num_tokens = self._array.shape[0]
        stream_length = num_tokens // batch_size
        if stream_length < segment_length + 1:
            raise ValueError(_too_short(num_tokens, batch_size, segment_length))
        if shuffle_documents and (roll or documents is None):
            raise ValueError(
                "Documents that are shuffled must be known, and their streams cannot be rolled. "
                f"Received documents={'None' if documents is None else 'known'}, roll={roll}."
            )
        self.batch_size = batch_size
        self.segment_length = segment_length
        self._seed = seed
        if shuffle_documents:
            self._streams = ShuffledStreams(self._array, batch_size, documents, seed)
        else:
            self._streams = Streams(self._array, batch_size, documents, roll, seed)
        self._lengths = None
        self.steps_per_epoch = (stream_length - 1) // segment_length
        if variable_length:
            lengths = [-(-segment_length * quarters // 4) for quarters in (4, 1, 3, 2)]
            most = (stream_length - 1) // lengths[1] + 1
            pattern = np.resize(np.array(lengths, np.int64), most)
            # The same lengths in every epoch, so that epochs have equally many steps.
            self.steps_per_epoch = int(np.searchsorted(np.cumsum(pattern), stream_length, "left"))
            self._lengths = pattern[: self.steps_per_epoch]
        self._places: tuple[int, np.ndarray] | None = None

    def starts_epoch(self, step: int) -> bool:
        """Whether `step` reads the beginning of the streams, so that memory must be empty."""
        return step % self.steps_per_epoch == 0

    def in_document(self, step: int) -> np.ndarray:
        """How many tokens before a step's batch belong to the document of each row's first input.

        int32 `[B]`: more memory than that is of other documents. The beginning of a stream counts
        as that of a document.
        """
        epoch, place, _ = self._segment(step)
        return self._streams.in_document(epoch, place)

    def batch(self, step: int) -> Batch:
        """The batch of any step >= 0; after the last comes the first. ValueError below 0."""
        epoch, place, length = self._segment(step)
        tokens = self._streams.read(epoch, place, length + 1)
        return Batch(tokens[:, :-1], tokens[:, 1:], np.ones_like(tokens[:, 1:], np.float32))

    def dataset(self, start_step: int = 0, num_steps: int | None = None) -> "tf.data.Dataset":
        """Batches of the steps from `start_step` on: `num_steps` of them, or without end.

        Elements are `Batch`es of tensors with static shapes, but for a length that varies.
        Beginning at any step takes as long as at step 0. Raises ValueError for numbers below 0.
        """
        if start_step < 0 or (num_steps is not None and num_steps < 0):
            raise ValueError(
                f"Steps are at least 0. Received start_step={start_step}, num_steps={num_steps}."
            )
        stop = np.iinfo(np.int64).max if num_steps is None else start_step + num_steps
        length = self.segment_length if self._lengths is None else None
        return _dataset(self.batch, start_step, stop, self.batch_size, length)

    def _segment(self, step: int) -> tuple[int, int, int]:
        """Epoch, place in the streams, and length, of a step."""
        if step < 0:
            raise ValueError(f"A step is at least 0. Received: {step}.")
        epoch, index = divmod(int(step), self.steps_per_epoch)
        if self._lengths is None:
            return epoch, index * self.segment_length, self.segment_length
        if self._places is None or self._places[0] != epoch:
            generator = np.random.Generator(np.random.PCG64([self._seed, epoch, 1]))
            lengths = generator.permutation(self._lengths)
            self._places = (epoch, np.concatenate([np.zeros(1, np.int64), np.cumsum(lengths)]))
        places = self._places[1]
        return epoch, int(places[index]), int(places[index + 1] - places[index])


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


def _check_sizes(
    array: np.ndarray | ShardedArray, batch_size: int, segment_length: int
) -> np.ndarray | ShardedArray:
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
    return array.view(np.ndarray) if isinstance(array, np.ndarray) else array


def _too_short(num_tokens: int, batch_size: int, segment_length: int) -> str:
    largest_batch = num_tokens // (segment_length + 1)
    largest_segment = num_tokens // batch_size - 1
    fix = " or ".join(
        [f"batch_size at most {largest_batch}"] * (largest_batch > 0)
        + [f"segment_length at most {largest_segment}"] * (largest_segment > 0)
    )
    return (
        "Each of batch_size streams needs segment_length + 1 tokens. Received batch_size="
        f"{batch_size}, segment_length={segment_length} for {num_tokens} tokens: use "
        f"{fix or 'more text'}."
    )


def _ceil_div(numerator: int, denominator: int) -> int:
    return -(-numerator // denominator)


def _dataset(
    batch: Callable[[int], Batch],
    start: int,
    stop: int,
    batch_size: int,
    segment_length: int | None,
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
