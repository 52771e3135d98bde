"""The safetensors format: a JSON header that says where each array lies, then the arrays.

https://huggingface.co/docs/safetensors. Eight bytes give the header's length (little-endian);
`data_offsets` count from the header's end.
"""

import json
import math
import os
import struct
from collections.abc import Mapping

import numpy as np
import tensorflow as tf

_DTYPES = {
    "F64": np.dtype("<f8"),
    "F32": np.dtype("<f4"),
    "F16": np.dtype("<f2"),
    "BF16": np.dtype(tf.bfloat16.as_numpy_dtype),
    "I64": np.dtype("<i8"),
    "I32": np.dtype("<i4"),
    "I16": np.dtype("<i2"),
    "I8": np.dtype("i1"),
    "U64": np.dtype("<u8"),
    "U32": np.dtype("<u4"),
    "U16": np.dtype("<u2"),
    "U8": np.dtype("u1"),
    "BOOL": np.dtype("?"),
}
_NAMES = {dtype: name for name, dtype in _DTYPES.items()}
_MAX_HEADER = 100_000_000  # bytes; the format's own bound


def load_safetensors(path: str) -> dict[str, np.ndarray]:
    """The arrays of a file, mapped from it.

    Raises:
      ValueError: if it is damaged, cut short or no such file.
    """
    try:
        return _load(path)
    except (ValueError, KeyError, TypeError, AttributeError, struct.error) as error:
        raise ValueError(
            f"{path} cannot be read: it is damaged, cut short or no safetensors file "
            f"({type(error).__name__}: {error})."
        ) from error


def _load(path):
    size = os.path.getsize(path)
    with open(path, "rb") as file:
        (length,) = struct.unpack("<Q", file.read(8))
        if length > min(size - 8, _MAX_HEADER):
            raise ValueError(f"its header says it has {length:,} bytes")
        header = json.loads(file.read(length))
    start = 8 + length
    if size == start:
        data = np.empty(0, np.uint8)
    else:
        data = np.memmap(path, np.uint8, mode="r", offset=start)
    arrays, end = {}, 0
    rows = [(name, row) for name, row in header.items() if name != "__metadata__"]
    for name, row in sorted(rows, key=lambda pair: pair[1]["data_offsets"]):
        first, last = row["data_offsets"]
        dtype, shape = _DTYPES[row["dtype"]], tuple(row["shape"])
        if first != end or last > len(data) or last - first != math.prod(shape) * dtype.itemsize:
            raise ValueError(f"{name} does not lie where the header says")
        arrays[name] = np.frombuffer(data[first:last], dtype).reshape(shape)
        end = last
    if end != len(data):
        raise ValueError("bytes are left over at its end")
    return arrays


def save_safetensors(arrays: Mapping[str, np.ndarray], path: str, metadata: Mapping[str, str]):
    """Writes arrays; the file appears whole or not at all.

    Args:
      arrays: by name; see `write_safetensors`.
      path: of the file.
      metadata: strings, kept in the header.
    """
    temporary = f"{path}.tmp"
    with open(temporary, "wb") as file:
        write_safetensors(arrays, file, metadata)
    os.replace(temporary, path)


def write_safetensors(values: Mapping, file, metadata: Mapping[str, str]):
    """Writes arrays to an open file, one after the other, so that one at a time is in memory.

    Args:
      values: by name, NumPy arrays, or tensors or variables of TensorFlow, in the order of the
        file.
      file: anything with `write`.
      metadata: strings, kept in the header.

    Raises:
      ValueError: for a dtype that the format lacks.
    """
    header, end = {"__metadata__": dict(metadata)}, 0
    for name, value in values.items():
        dtype = _dtype(value)
        if dtype not in _NAMES:
            raise ValueError(f"safetensors files have no dtype for {name}. Received: {dtype}.")
        size = math.prod(value.shape) * dtype.itemsize
        header[name] = {
            "dtype": _NAMES[dtype],
            "shape": list(value.shape),
            "data_offsets": [end, end + size],
        }
        end += size
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    file.write(struct.pack("<Q", len(text)) + text)
    for value in values.values():
        array = np.ascontiguousarray(value, _dtype(value))
        file.write(memoryview(array.reshape(-1).view(np.uint8)))


def _dtype(value) -> np.dtype:
    """NumPy's dtype of an array, a tensor or a variable, in the file's byte order."""
    return np.dtype(tf.as_dtype(value.dtype).as_numpy_dtype).newbyteorder("<")
