"""Checkpoints inside golden files, written out again; see golden/README.md."""

import pathlib

import numpy as np

from tests.reference import golden


def unpack(name: str, directory: pathlib.Path) -> dict[str, np.ndarray]:
    """Writes the files inside `golden/<name>.npz` into a directory, and returns the other arrays.

    Args:
      name: of the golden file, without its ending.
      directory: made if need be.
    """
    directory.mkdir(parents=True, exist_ok=True)
    with np.load(golden.DIRECTORY / f"{name}.npz") as file:
        arrays = dict(file)
    for key in [key for key in arrays if key.startswith("file/")]:
        (directory / key.removeprefix("file/")).write_bytes(arrays.pop(key).tobytes())
    return arrays


def nll_of(model, tokens: np.ndarray, length: int) -> np.ndarray:
    """The losses of a model on segments, memory carried, `[B, number of segments * length]`."""
    tokens = tokens.astype("int32")
    memory, losses = model.initial_memory(len(tokens)), []
    for start in range(0, tokens.shape[1] - length, length):
        inputs = tokens[:, start : start + length]
        targets = tokens[:, start + 1 : start + length + 1]
        nll, memory = model.nll(inputs, targets, memory)
        losses.append(nll.numpy())
    assert len(losses) == 4
    return np.concatenate(losses, 1), memory
