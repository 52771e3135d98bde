"""PyTorch's files and pickles, read without running anything that they ask for.

A pickle is a program: it may call any function by name. Here the names it may use are on a list,
and stand for functions of this file; every other name is refused before anything is called.
"""

import collections
import io
import math
import os
import pickle
import struct
import zipfile

import numpy as np
import tensorflow as tf

_ZIP_START = b"PK\x03\x04"
# The first of the pickles that make a file from before PyTorch 1.6, and what follows it.
_LEGACY_MAGIC, _LEGACY_VERSION = 0x1950A86A20F9469CFC6C, 1001

_STORAGES = {
    "FloatStorage": np.dtype("<f4"),
    "DoubleStorage": np.dtype("<f8"),
    "HalfStorage": np.dtype("<f2"),
    "BFloat16Storage": np.dtype(tf.bfloat16.as_numpy_dtype),
    "LongStorage": np.dtype("<i8"),
    "IntStorage": np.dtype("<i4"),
    "ShortStorage": np.dtype("<i2"),
    "CharStorage": np.dtype("i1"),
    "ByteStorage": np.dtype("u1"),
    "BoolStorage": np.dtype("?"),
}
# What a saved tokenizer holds besides its vocabulary: passed over, not made.
_PASSED_OVER = {"sacremoses", "tokenizers", "transformers", "re"}


class UnsafePickleError(ValueError):
    """A pickle asks for something that is not on the list."""


def load_torch_file(path: str):
    """What `torch.save` wrote, with tensors as arrays.

    Both of its formats are read: the zip archive, and the row of pickles from before PyTorch 1.6.

    Args:
      path: of the file.

    Returns:
      Dictionaries, lists, strings and numbers as they were saved; arrays for tensors.

    Raises:
      ValueError: if the file is not one of `torch.save`, is damaged, or holds anything else than
        tensors and plain values, as a whole module does. Nothing in it is run.
    """
    with open(path, "rb") as file:
        start = file.read(len(_ZIP_START))
    try:
        return _load_zip(path) if start == _ZIP_START else _load_pickles(path)
    except UnsafePickleError as error:
        raise ValueError(f"{path}: {error}") from error
    except Exception as error:  # bytes that are no pickle raise nearly anything
        raise ValueError(
            f"{path} cannot be read: it is damaged, cut short or no file of torch.save "
            f"({type(error).__name__}: {error})."
        ) from error


def _load_zip(path: str):
    with zipfile.ZipFile(path) as archive:
        names = {name.partition("/")[2]: name for name in archive.namelist()}
        if any(info.compress_type != zipfile.ZIP_STORED for info in archive.infolist()):
            raise ValueError("torch.save does not compress, this archive is compressed")
        if "byteorder" in names and archive.read(names["byteorder"]) != b"little":
            raise ValueError("it was written on a big-endian machine")
        storages = {}

        def storage(dtype, key, size):
            if key not in storages:
                storages[key] = np.frombuffer(archive.read(names[f"data/{key}"]), dtype)
            if len(storages[key]) < size:
                raise ValueError(f"storage {key} is shorter than it says")
            return storages[key]

        return _TensorUnpickler(io.BytesIO(archive.read(names["data.pkl"])), storage).load()


def _load_pickles(path: str):
    with open(path, "rb") as file:
        size_of_file = os.fstat(file.fileno()).st_size
        storages = {}

        def storage(dtype, key, size):
            if size * dtype.itemsize > size_of_file:
                raise ValueError(f"storage {key} says it is longer than the file")
            # Its values come after the pickles.
            return storages.setdefault(key, np.empty(size, dtype))

        first = _TensorUnpickler(file, storage).load()
        if first != _LEGACY_MAGIC:
            return first  # one plain pickle
        if _TensorUnpickler(file, storage).load() != _LEGACY_VERSION:
            raise ValueError("it has another version")
        system = _TensorUnpickler(file, storage).load()
        if not system["little_endian"]:
            raise ValueError("it was written on a big-endian machine")
        result = _TensorUnpickler(file, storage).load()
        for key in _TensorUnpickler(file, storage).load():
            (size,) = struct.unpack("<q", file.read(8))
            array = storages[key]
            if size != len(array):
                raise ValueError(f"storage {key} has another length than it says")
            if file.readinto(array.view(np.uint8)) != array.nbytes:
                raise ValueError("it ends too early")
        return result


class _TensorUnpickler(pickle._Unpickler):
    # The one written in Python, since that in C sets aside as much memory as a damaged file says.

    def __init__(self, file, storage):
        super().__init__(file, encoding="utf-8")
        self._storage = storage

    def find_class(self, module, name):
        if module == "torch" and name in _STORAGES:
            return _Constant(_STORAGES[name])
        if (module, name) in _ALLOWED:
            return _Allowed(_ALLOWED[module, name])
        if module.partition(".")[0] in _PASSED_OVER:
            return _PassedOver
        raise UnsafePickleError(
            f"it holds {module}.{name}, and only tensors and plain values are read; nothing in it "
            "was run. If it is a whole module, save its state dict where its code is and where "
            'you trust the file: torch.save(torch.load("model.pt", weights_only=False)'
            '.state_dict(), "state.pt").'
        )

    def persistent_load(self, pid):
        if pid[0] == "module":
            raise UnsafePickleError(
                "it holds a whole module. Save its state dict where its code is: "
                'torch.save(torch.load("model.pt", weights_only=False).state_dict(), "state.pt").'
            )
        kind, storage_type, key, _, size, *view = pid
        if kind != "storage" or any(part is not None for part in view):
            raise ValueError("a tensor's values are stored in an unknown way")
        return self._storage(storage_type.value, str(key), size)


class _Constant:
    """A name that stands for a value."""

    __slots__ = ("value",)

    def __init__(self, value):
        self.value = value

    def __setstate__(self, state):
        raise UnsafePickleError("it changes what a name stands for")


class _Allowed:
    """A name that may be called; nothing else can be done with it."""

    __slots__ = ("_function",)

    def __init__(self, function):
        self._function = function

    def __call__(self, *arguments):
        return self._function(*arguments)

    def __setstate__(self, state):
        raise UnsafePickleError("it changes what a name stands for")


class _PassedOver:
    """Takes the place of an object that is not needed, and does nothing."""

    def __new__(cls, *arguments, **keywords):
        return object.__new__(cls)

    def __init__(self, *arguments, **keywords):
        pass

    def __setstate__(self, state):
        pass


class _Dictionary(dict):
    """A dictionary whose attributes, as those of PyTorch's state dicts, are dropped."""

    def __setstate__(self, state):
        pass


def _tensor(storage, offset, shape, stride, *unused):
    """A view of a storage, checked to stay inside it."""
    last = offset + sum((size - 1) * step for size, step in zip(shape, stride))
    if not isinstance(storage, np.ndarray) or len(shape) != len(stride):
        raise ValueError("a tensor has no values")
    if min((offset, *shape, *stride)) < 0 or (math.prod(shape) and last >= len(storage)):
        raise ValueError("a tensor reaches outside its values")
    strides = [step * storage.itemsize for step in stride]
    return np.lib.stride_tricks.as_strided(storage[offset:], shape, strides, writeable=False)


def _counter(counts=()):
    return collections.Counter(dict(counts))


_ALLOWED = {
    ("collections", "OrderedDict"): _Dictionary,
    ("collections", "Counter"): _counter,
    ("torch._utils", "_rebuild_tensor"): _tensor,
    ("torch._utils", "_rebuild_tensor_v2"): _tensor,
    ("torch._utils", "_rebuild_parameter"): lambda data, *unused: data,
}
