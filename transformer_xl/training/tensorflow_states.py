"""States of runs begun before 0.2, which are checkpoints of TensorFlow, without checksums."""

from typing import NamedTuple

import numpy as np
import tensorflow as tf

_SUFFIX = "/.ATTRIBUTES/VARIABLE_VALUE"


class TensorFlowState(NamedTuple):
    """A checkpoint of TensorFlow.

    Attributes:
      step: after which it was written.
      path: its prefix.
    """

    step: int
    path: str

    def read(self) -> dict[str, np.ndarray]:
        """The tensors by the names of today."""
        reader = tf.train.load_checkpoint(self.path)
        keys = [key for key in reader.get_variable_to_shape_map() if key.endswith(_SUFFIX)]
        return {
            _name(key): reader.get_tensor(key) for key in keys if key != f"save_counter{_SUFFIX}"
        }


def newest_tensorflow_state(directory: str) -> TensorFlowState | None:
    """The last state of such a run, if a directory has one."""
    path = tf.train.latest_checkpoint(directory)
    return path and TensorFlowState(int(path.rpartition("-")[2]), path)


def _name(key: str) -> str:
    # In keys, a dot stands before what is not literal: ".S" is a slash inside a name.
    return key.removesuffix(_SUFFIX).replace(".S", "/").replace("..", ".")
