"""How much memory the process and its devices hold; what is free goes back to the system."""

import contextlib
import ctypes
import os
import resource
import sys
import threading

import tensorflow as tf

# Of glibc; other C libraries have none.
_trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
_PAUSE = 0.1  # seconds


def memory_use() -> dict[str, float]:
    """Gigabytes (1e9 bytes) by name: `memory_gb`, resident in the process; with GPUs also
    `device_memory_gb` and `peak_device_memory_gb`, TensorFlow's on the fullest of them.
    """
    found = {"memory_gb": _resident() / 1e9}
    gpus = tf.config.list_logical_devices("GPU")
    if gpus:
        infos = [
            tf.config.experimental.get_memory_info(gpu.name.partition("device:")[2]) for gpu in gpus
        ]
        found["device_memory_gb"] = max(info["current"] for info in infos) / 1e9
        found["peak_device_memory_gb"] = max(info["peak"] for info in infos) / 1e9
    return found


def _resident() -> int:
    """Bytes; where the system does not say what is resident, the most that ever was."""
    try:
        with open("/proc/self/statm", encoding="ascii") as file:
            return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        unit = 1 if sys.platform == "darwin" else 1024
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def forget_kernels(seed: int):
    """Lets go of what TensorFlow keeps of all operations called so far.

    For each operation called eagerly it keeps a kernel, and each Keras variable is made by one that
    knows its name: 28 MB for the weights and moments of 16 layers. That ends when its global seed
    is set, also to what it was. To be called once all is built, and before a step is called:
    functions called before are optimised anew.

    Args:
      seed: TensorFlow's global seed from here on.
    """
    tf.random.set_seed(seed)


def lean_first_call(function):
    """The function, whose first call returns memory to the system as soon as it is free.

    When a step is called first TensorFlow optimises its graph, and frees what that took before the
    step begins: a hundred megabytes for 16 layers. The C library keeps that for small blocks, while
    the step takes large ones (docs/decisions/0014).

    Args:
      function: any, such as one of `steps.make_train_step`.
    """
    first = iter([True])

    def call(*arguments):
        with _returning() if next(first, False) else contextlib.nullcontext():
            return function(*arguments)

    return call


@contextlib.contextmanager
def _returning():
    """Gives free memory back all the time, where the C library can."""
    if _trim is None:
        yield
        return
    ended = threading.Event()

    def work():
        while not ended.wait(_PAUSE):
            _trim(0)

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
