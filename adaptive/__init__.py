"""Adaptive embedding and adaptive softmax: Keras layers for very large vocabularies.

>>> from adaptive import AdaptiveEmbedding, AdaptiveSoftmax, SoftmaxModel

Ids are sorted by falling frequency, id 0 the commonest, or come with an `id_order`.
"""

import keras

if keras.backend.backend() != "tensorflow":
    raise ImportError(
        "The adaptive layers are written for the TensorFlow backend of Keras. Received: "
        f"KERAS_BACKEND={keras.backend.backend()}. Set the environment variable "
        "KERAS_BACKEND=tensorflow before keras is first imported."
    )

from .clusters import Clusters
from .cross_entropy import linear_cross_entropy
from .cutoffs import (
    CostModel,
    compare_with_full_softmax,
    expected_cost,
    measure_cost_model,
    optimal_cutoffs,
)
from .embedding import AdaptiveEmbedding
from .id_order import id_order_from_counts
from .log_softmax_with_loss import AdaptiveLogSoftmaxWithLoss
from .metrics import Accuracy, TopKAccuracy
from .model import SoftmaxModel
from .sampled import SampledSoftmax
from .search import TopK
from .softmax import AdaptiveSoftmax

__all__ = [
    "Accuracy",
    "AdaptiveEmbedding",
    "AdaptiveLogSoftmaxWithLoss",
    "AdaptiveSoftmax",
    "Clusters",
    "CostModel",
    "SampledSoftmax",
    "SoftmaxModel",
    "TopK",
    "TopKAccuracy",
    "compare_with_full_softmax",
    "expected_cost",
    "id_order_from_counts",
    "linear_cross_entropy",
    "measure_cost_model",
    "optimal_cutoffs",
]
