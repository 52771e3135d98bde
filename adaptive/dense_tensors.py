"""Tensors whose rows are all of one length: what the layers and losses here compute on."""

import keras
import tensorflow as tf


def as_tensor(value, what: str):
    """The value as a tensor.

    Raises:
      ValueError: for a RaggedTensor or a SparseTensor.
    """
    refuse_uneven(value, what)
    return tf.convert_to_tensor(value)


def refuse_uneven(value, what: str):
    """Raises ValueError for a ragged or sparse tensor, of which TensorFlow's own errors say little.

    Args:
      value: anything; a symbolic tensor of Keras may be ragged or sparse as well.
      what: its name in the error.
    """
    symbolic = isinstance(value, keras.KerasTensor)
    for kind, is_it, advice in (
        (
            "RaggedTensor",
            isinstance(value, tf.RaggedTensor) or (symbolic and value.ragged),
            "Give the `flat_values` of all that is ragged, which are in the same order; what is "
            "made of them is ragged again by `with_flat_values`. Or pad by `to_tensor()`, and give "
            "padding a weight of 0.",
        ),
        (
            "SparseTensor",
            isinstance(value, tf.SparseTensor) or (symbolic and value.sparse),
            "Give tf.sparse.to_dense of it.",
        ),
    ):
        if is_it:
            raise ValueError(
                f"{what} must be dense. Received: a {kind} of shape {value.shape}. {advice}"
            )
