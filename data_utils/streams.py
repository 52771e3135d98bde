"""The order in which training reads an array: B streams side by side, the same for every machine.

Shape letters: B batch, N tokens of the array.

Everything is a pure function of (array, B, seed, epoch, place), so that a run which resumes reads
what an uninterrupted one would have read.
"""

import numpy as np

from .id_arrays import ShardedArray


class Streams:
    """B contiguous streams of `N // B` tokens; with `roll`, each begins elsewhere in every epoch.

    Attributes:
        length: of a stream, in tokens.
    """

    def __init__(
        self,
        array: np.ndarray | ShardedArray,
        batch_size: int,
        documents: np.ndarray | None = None,
        roll: bool = False,
        seed: int = 0,
    ):
        """Takes ids `[N]`; int64 `documents`, rising, the places where documents begin."""
        self.length = array.shape[0] // batch_size
        self._array, self._batch_size = array, batch_size
        self._documents = documents
        self._roll, self._seed = roll, seed
        self._rolled: tuple[int, np.ndarray] = (-1, np.zeros(0, np.int64))
        self._table = None
        if isinstance(array, np.ndarray) and not roll:
            used = batch_size * self.length
            self._table = array[:used].reshape(batch_size, self.length)

    def read(self, epoch: int, place: int, length: int) -> np.ndarray:
        """The tokens from a place of all streams on, int32 `[B, length]`."""
        if self._table is not None:
            # Only the slice is read from the disk and widened.
            return self._table[:, place : place + length].astype(np.int32)
        tokens = np.empty((self._batch_size, length), np.int32)
        for b, first in enumerate(self._starts(epoch, place)):
            base = b * self.length
            until_end = base + self.length - first
            if until_end >= length:
                tokens[b] = self._array[first : first + length]
            else:
                # A stream that began in the middle goes on at its beginning.
                tokens[b, :until_end] = self._array[first : first + until_end]
                tokens[b, until_end:] = self._array[base : base + length - until_end]
        return tokens

    def in_document(self, epoch: int, place: int) -> np.ndarray:
        """How many tokens of each stream before a place are of the same document, int32 `[B]`.

        The beginning of a stream counts as that of a document.
        """
        firsts = self._starts(epoch, place)
        begins = np.arange(self._batch_size) * self.length
        if self._documents is not None:
            before = np.searchsorted(self._documents, firsts, "right") - 1
            begins = np.maximum(begins, self._documents[before])
        return np.minimum(firsts - begins, place).astype(np.int32)

    def _starts(self, epoch: int, place: int) -> np.ndarray:
        """The places in the array that streams have reached, int64 `[B]`."""
        rows = np.arange(self._batch_size) * self.length
        return rows + (self._offsets(epoch) + place) % self.length

    def _offsets(self, epoch: int) -> np.ndarray:
        if not self._roll:
            return np.zeros(self._batch_size, np.int64)
        known, offsets = self._rolled
        if known != epoch:
            generator = np.random.Generator(np.random.PCG64([self._seed, epoch]))
            offsets = generator.integers(0, self.length, self._batch_size)
            self._rolled = (epoch, offsets)
        return offsets


class ShuffledStreams:
    """B streams of sentences, which stand in another order in every epoch, one after the other.

    A permutation is drawn when an epoch begins, which takes about a second for 30 million
    sentences and 24 bytes for each; a place in it is then found by bisection.

    Attributes:
        length: of a stream, in tokens.
    """

    def __init__(
        self,
        array: np.ndarray | ShardedArray,
        batch_size: int,
        sentences: np.ndarray,
        seed: int = 0,
    ):
        """Takes ids `[N]` and int64 `sentences`, the places where sentences begin, rising from 0.

        Raises ValueError for places that are not that.
        """
        if not len(sentences) or sentences[0] or (np.diff(sentences) <= 0).any():
            raise ValueError("Sentences begin at rising places, the first at 0.")
        if sentences[-1] >= array.shape[0]:
            raise ValueError(
                f"Sentences begin in the {array.shape[0]} tokens. Received: {sentences[-1]}."
            )
        self.length = array.shape[0] // batch_size
        self._array, self._batch_size, self._seed = array, batch_size, seed
        self._starts = np.asarray(sentences, np.int64)
        self._order: tuple[int, np.ndarray, np.ndarray] | None = None

    def read(self, epoch: int, place: int, length: int) -> np.ndarray:
        """The tokens from a place of all streams on, int32 `[B, length]`."""
        order, begins = self._of_epoch(epoch)
        tokens = np.empty((self._batch_size, length), np.int32)
        firsts = np.arange(self._batch_size) * self.length + place
        sentences = np.searchsorted(begins, firsts, "right") - 1
        for b, (first, sentence) in enumerate(zip(firsts.tolist(), sentences.tolist())):
            done, skip = 0, first - int(begins[sentence])
            while done < length:
                start = int(self._starts[order[sentence]]) + skip
                size = min(int(begins[sentence + 1] - begins[sentence]) - skip, length - done)
                tokens[b, done : done + size] = self._array[start : start + size]
                done, skip, sentence = done + size, 0, sentence + 1
        return tokens

    def in_document(self, epoch: int, place: int) -> np.ndarray:
        """How many tokens of each stream before a place are of the same sentence, int32 `[B]`."""
        _, begins = self._of_epoch(epoch)
        firsts = np.arange(self._batch_size) * self.length + place
        sentences = np.searchsorted(begins, firsts, "right") - 1
        return np.minimum(firsts - begins[sentences], place).astype(np.int32)

    def _of_epoch(self, epoch: int) -> tuple[np.ndarray, np.ndarray]:
        """The order of the sentences, and where each begins in it, with the end."""
        if self._order is None or self._order[0] != epoch:
            generator = np.random.Generator(np.random.PCG64([self._seed, epoch]))
            order = generator.permutation(len(self._starts))
            lengths = np.diff(self._starts, append=self._array.shape[0])
            begins = np.concatenate([np.zeros(1, np.int64), np.cumsum(lengths[order])])
            self._order = (epoch, order, begins)
        return self._order[1:]
