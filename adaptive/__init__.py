"""Adaptive embedding and adaptive softmax: Keras layers for very large vocabularies.

>>> from adaptive import AdaptiveEmbedding, AdaptiveSoftmax

Ids must be sorted by falling frequency: id 0 is the commonest.
"""

import keras

if keras.backend.backend() != "tensorflow":
    raise ImportError(
        "The adaptive layers are written for the TensorFlow backend of Keras. Received: "
        f"KERAS_BACKEND={keras.backend.backend()}. Set the environment variable "
        "KERAS_BACKEND=tensorflow before keras is first imported."
    )

from .clusters import Clusters
from .embedding import AdaptiveEmbedding
from .softmax import AdaptiveSoftmax

__all__ = ["AdaptiveEmbedding", "AdaptiveSoftmax", "Clusters"]
