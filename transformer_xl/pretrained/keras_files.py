"""`tf_model.h5`, what HuggingFace's TFTransfoXLLMHeadModel saves, in a state dict's names."""

import re

import h5py
import numpy as np

_ENDINGS = {"kernel": "weight", "gamma": "weight", "beta": "bias", "embeddings": "weight"}


def load_keras_weights(path: str) -> dict[str, np.ndarray]:
    """The arrays of a weights file, named and laid out as HuggingFace's state dict has them.

    Kernels and projections are `[in, out]` there. Names are those of nested layers, where `_._`
    stands for a dot: `.../transformer/layers_._0/dec_attn/qkv_net/kernel:0`.

    Raises:
      ValueError: if it is damaged, cut short or no HDF5 file.
    """
    found = {}

    def visit(name, node):
        if isinstance(node, h5py.Dataset):
            found[name] = node[()]

    try:
        with h5py.File(path, "r") as file:
            file.visititems(visit)
    except (OSError, RuntimeError, KeyError, ValueError) as error:
        raise ValueError(
            f"{path} cannot be read: it is damaged, cut short or no HDF5 file ({error})."
        ) from error
    return dict(_named(name, array) for name, array in found.items())


def _named(path: str, array: np.ndarray) -> tuple[str, np.ndarray]:
    # The group and the model have names of their own, before the layers'.
    name = re.sub(r"^[^/]+/[^/]+/", "", path.removesuffix(":0")).replace("_._", "/")
    *parts, last = name.split("/")
    if last == "kernel" or {"emb_projs", "out_projs"} & set(parts):
        array = array.T
    return ".".join([*parts, _ENDINGS.get(last, last)]), array
