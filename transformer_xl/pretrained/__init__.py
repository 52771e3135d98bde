"""Checkpoints of other implementations, read and written; the one place that knows their names."""

from transformer_xl.pretrained.huggingface import (
    assign_huggingface_weights,
    config_from_huggingface,
    is_huggingface,
    load_huggingface,
    save_huggingface,
)
from transformer_xl.pretrained.original_pytorch import load_pytorch
from transformer_xl.pretrained.original_tensorflow import load_tf1
from transformer_xl.pretrained.source import load_from

__all__ = [
    "assign_huggingface_weights",
    "config_from_huggingface",
    "is_huggingface",
    "load_from",
    "load_huggingface",
    "load_pytorch",
    "load_tf1",
    "save_huggingface",
]
