"""Flat arrays of ids on disk: plain `.npy` files, written as a stream, checked when opened."""

import hashlib
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from numpy.lib import format as npy_format

# Room for any length, so that the header can be written over when the length is known.
_HEADER_BYTES = 128


def id_dtype(vocabulary_size: int) -> np.dtype:
    """The smallest of uint16 and int32 that holds the ids; little-endian on every machine."""
    return np.dtype("<u2") if vocabulary_size <= 1 << 16 else np.dtype("<i4")


def write_ids(path: Path, blocks: Iterable[np.ndarray], dtype: np.dtype) -> int:
    """Writes integer blocks `[n]`, whose ids must fit `dtype`, as one `.npy` array `[N]`.

    Returns N, which need not be known before.
    """
    length = 0
    with open(path, "wb") as file:
        file.write(_header(dtype, 0))
        for block in blocks:
            file.write(block.astype(dtype, copy=False).tobytes())
            length += block.size
        file.seek(0)
        file.write(_header(dtype, length))
    return length


def open_ids(path: Path, dtype: str, length: int) -> np.ndarray:
    """Memory-maps an array. Raises ValueError where dtype or length are not those given."""
    array = np.load(path, mmap_mode="r", allow_pickle=False)
    if array.dtype != np.dtype(dtype) or array.shape != (length,):
        raise ValueError(f"it has dtype {array.dtype}, shape {array.shape}")
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
