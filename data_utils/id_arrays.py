"""Flat arrays of ids on disk: plain `.npy` files, written as a stream, read like one array."""

import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.lib import format as npy_format

# The same for any length.
_HEADER_BYTES = 128
SHARD_TOKENS = 1 << 30


def id_dtype(vocabulary_size: int) -> np.dtype:
    """The smallest of uint16 and int32 that holds the ids; little-endian on every machine."""
    return np.dtype("<u2") if vocabulary_size <= 1 << 16 else np.dtype("<i4")


class ShardWriter:
    """Writes a stream of ids, whose number is known, as one or more `.npy` files.

    A context manager; on a normal exit all ids must have been written.

    Args:
        paths: the files; all but the last get `tokens_in_shard()` ids.
        dtype: of the files.
        length: N, of all of them.
    """

    def __init__(self, paths: Sequence[Path], dtype: np.dtype, length: int):
        self._paths, self._dtype = list(paths), dtype
        self._left = [min(SHARD_TOKENS, length - i * SHARD_TOKENS) for i in range(len(paths))]
        self._file = None

    def __enter__(self):
        self._open()
        return self

    def __exit__(self, kind, *_):
        self._file.close()
        if kind is None and (self._paths or self._left[0]):
            raise RuntimeError(f"{self._left} ids are missing.")

    def write(self, ids: np.ndarray) -> None:
        """Writes integers `[n]`, which must fit the dtype."""
        while ids.size:
            if not self._left[0]:
                self._file.close()
                del self._left[0]
                self._open()
            part, ids = ids[: self._left[0]], ids[self._left[0] :]
            self._file.write(memoryview(part.astype(self._dtype, copy=False)).cast("B"))
            self._left[0] -= part.size

    def _open(self) -> None:
        self._file = open(self._paths.pop(0), "wb")  # noqa: SIM115, closed by the manager
        self._file.write(_header(self._dtype, self._left[0]))


class ShardedArray:
    """Several arrays one after the other, read like one array `[N]`; only slices and integers.

    Attributes:
        dtype, shape, ndim, size: as of an array.
    """

    ndim = 1

    def __init__(self, shards: Sequence[np.ndarray]):
        """Takes arrays `[n]` of one dtype, at least one."""
        # The same memory without the memmap class, whose slicing is slow.
        self._shards = [np.asarray(shard).view(np.ndarray) for shard in shards]
        self._starts = np.cumsum([0, *(shard.size for shard in shards)])
        self.dtype = self._shards[0].dtype
        self.size = int(self._starts[-1])
        self.shape = (self.size,)

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, place):
        if not isinstance(place, slice):
            i = range(self.size)[place]
            return self[i : i + 1][0]
        start, stop, step = place.indices(self.size)
        if step != 1:
            raise ValueError(f"Slices of a sharded array have step 1. Received: {step}.")
        first = int(np.searchsorted(self._starts, start, "right")) - 1
        parts = []
        for shard, begin in zip(self._shards[first:], self._starts[first:], strict=False):
            if begin >= stop:
                break
            parts.append(shard[max(start - begin, 0) : stop - begin])
        return parts[0] if len(parts) == 1 else np.concatenate([np.zeros(0, self.dtype), *parts])

    def __array__(self, dtype=None, copy=None):
        return np.asarray(self[:], dtype)


def num_shards(length: int) -> int:
    """Into how many files N ids go."""
    return max(1, -(-length // SHARD_TOKENS))


def open_ids(path: Path, dtype: str) -> np.ndarray:
    """Memory-maps an array. Raises ValueError where it is not one-dimensional of that dtype."""
    array = np.load(path, mmap_mode="r", allow_pickle=False)
    if array.dtype != np.dtype(dtype) or array.ndim != 1:
        raise ValueError(f"{path} has dtype {array.dtype}, shape {array.shape}, not {dtype} [N].")
    return array


def file_sha256(path: Path) -> str:
    """The sha256 of a file's bytes, in hexadecimal."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _header(dtype: np.dtype, length: int) -> bytes:
    """A version 1.0 header of fixed size; the format lets spaces fill it up, before a newline."""
    fields = f"{{'descr': '{dtype.str}', 'fortran_order': False, 'shape': ({length},), }}"
    prefix = npy_format.magic(1, 0)
    text_bytes = _HEADER_BYTES - len(prefix) - 2
    text = fields.ljust(text_bytes - 1) + "\n"
    return prefix + text_bytes.to_bytes(2, "little") + text.encode("latin1")
