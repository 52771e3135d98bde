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
    "U8": np.dtype("u1"),
    "BOOL": np.dtype("?"),
}
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
      arrays: float32, by name.
      path: of the file.
      metadata: strings, kept in the header.
    """
    header, end = {"__metadata__": dict(metadata)}, 0
    for name, array in arrays.items():
        header[name] = {
            "dtype": "F32",
            "shape": list(array.shape),
            "data_offsets": [end, end + array.size * 4],
        }
        end += array.size * 4
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    temporary = f"{path}.tmp"
    with open(temporary, "wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for array in arrays.values():
            file.write(np.ascontiguousarray(array, "<f4"))
    os.replace(temporary, path)
