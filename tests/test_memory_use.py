"""What building a model leaves is forgotten, and what is free goes back to the system."""

import ctypes
import threading
import time

import keras
import pytest
import tensorflow as tf

from transformer_xl.training import memory_use


@pytest.fixture
def trims(monkeypatch):
    """The arguments of each trim; one takes place every 10 ms."""
    found = []
    monkeypatch.setattr(memory_use, "_trim", found.append)
    monkeypatch.setattr(memory_use, "_PAUSE", 0.01)
    return found


def test_only_the_first_call_gives_memory_back(trims):
    def add(*numbers):
        time.sleep(0.3)
        return sum(numbers)

    threads = threading.active_count()
    call = memory_use.lean_first_call(add)
    assert call(1, 2) == 3
    first = len(trims)
    assert first > 3 and set(trims) == {0}
    assert threading.active_count() == threads
    assert call(3, 4) == 7
    assert len(trims) == first


def test_an_error_ends_it(trims):
    def fail():
        time.sleep(0.1)
        raise KeyError("broken")

    threads = threading.active_count()
    with pytest.raises(KeyError, match="broken"):
        memory_use.lean_first_call(fail)()
    assert trims and threading.active_count() == threads


def test_without_glibc_the_function_is_called_as_it_is(monkeypatch):
    monkeypatch.setattr(memory_use, "_trim", None)
    call = memory_use.lean_first_call(lambda *numbers: (threading.active_count(), numbers))
    threads = threading.active_count()
    assert call(5) == (threads, (5,)) and call(6) == (threads, (6,))


@pytest.mark.skipif(memory_use._trim is None, reason="glibc's malloc_trim")
def test_memory_that_was_free_is_the_systems():
    library = ctypes.CDLL(None)
    library.malloc.restype, library.free.argtypes = ctypes.c_void_p, [ctypes.c_void_p]
    # Small enough for the heap, every other kept, so that its end does not shrink.
    blocks = [library.malloc(60_000) for _ in range(5000)]
    for block in blocks:
        ctypes.memset(block, 1, 60_000)
    for block in blocks[::2]:
        library.free(block)
    held = memory_use.memory_use()["memory_gb"]
    memory_use.lean_first_call(time.sleep)(0.5)
    left = memory_use.memory_use()["memory_gb"]
    for block in blocks[1::2]:
        library.free(block)
    # 0.15 GB are free; all pages go back but those that blocks share.
    assert left < held - 0.1


class _Malloc(ctypes.Structure):
    """glibc's `struct mallinfo2`: ten sizes, of which the eighth is what is in use."""

    _fields_ = [(f"size_{number}", ctypes.c_size_t) for number in range(10)]


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "mallinfo2"), reason="glibc's mallinfo2")
def test_kernels_of_building_are_forgotten():
    library = ctypes.CDLL(None)
    library.mallinfo2.restype = _Malloc
    before = library.mallinfo2().size_7
    variables = [keras.Variable(tf.zeros([3])) for _ in range(200)]
    held = library.mallinfo2().size_7
    memory_use.forget_kernels(2)
    left = library.mallinfo2().size_7
    # 38 kB each, of which 36 are the kernel that made it.
    assert held - before > len(variables) * 20_000
    assert left < held - len(variables) * 20_000
    assert tf.compat.v1.get_seed(0)[0] == 2
    assert float(variables[-1][0]) == 0.0
