"""Shapes that are static wherever they can be, since XLA and the layers after need them."""

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
    if isinstance(tokens, (np.ndarray, list)):
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
    """A number as it was before Keras made a tensor of it, as it does with NumPy's in calls.

    Returns:
      A number of Python, if `value` is a tensor that is known; else `value`.
    """
    static = tf.get_static_value(value) if tf.is_tensor(value) else None
    return value if static is None else static.item()
