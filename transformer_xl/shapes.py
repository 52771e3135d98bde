"""Shapes that are static wherever they can be, since XLA and the layers after need them."""

import keras
import numpy as np
import tensorflow as tf


def shape_of(tensor) -> list:
    """The shape as a list of ints, with a scalar tensor where a size is known at run time only."""
    if tensor.shape.is_fully_defined():
        return tensor.shape.as_list()
    dynamic = tf.shape(tensor)
    return [dynamic[i] if size is None else size for i, size in enumerate(tensor.shape)]


def checked_tokens(tokens):
    """Tokens as a tensor, and their shape.

    Returns:
      The triple (tokens; B and L, ints or, where known at run time only, scalar tensors).

    Raises:
      ValueError: if they are not of the shape `[B, L]`.
    """
    if isinstance(tokens, (np.ndarray, list, tuple, keras.Variable)):
        tokens = tf.convert_to_tensor(tokens)
    shape = getattr(tokens, "shape", None)
    dense = isinstance(tokens, (tf.Tensor, tf.Variable))
    if not dense or shape.rank != 2:
        of_shape = "" if shape is None else f" of shape {shape}"
        raise ValueError(
            "Tokens must be a tensor of the shape [B, L]. Received: "
            f"{type(tokens).__name__}{of_shape}. Give one text as tokens[None], pad rows of "
            "different lengths, and where a graph does not know the axes, say so with "
            "tf.ensure_shape(tokens, [None, None])."
        )
    return tokens, *shape_of(tokens)


def known(value):
    """A number as it was before NumPy, TensorFlow or, in calls, Keras made an array of it.

    Returns:
      A number of Python, if `value` is one number that is known; else `value`.
    """
    static = value
    if tf.is_tensor(value):
        eager = isinstance(value, tf.Variable) and tf.executing_eagerly()
        static = value.numpy() if eager else tf.get_static_value(value)
    one = isinstance(static, (np.generic, np.ndarray)) and static.ndim == 0
    return static.item() if one else value
