"""How much memory the process and its devices hold."""

import os
import resource
import sys

import tensorflow as tf


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
