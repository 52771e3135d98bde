"""A Transformer-XL language model in TensorFlow and Keras 3."""

from transformer_xl.config import ModelConfig, TrainConfig
from transformer_xl.memory import Memory
from transformer_xl.model import TransformerXL

__all__ = ["Memory", "ModelConfig", "TrainConfig", "TransformerXL"]
