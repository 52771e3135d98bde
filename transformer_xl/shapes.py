"""Shapes that are static wherever they can be, since XLA and the layers after need them."""

import tensorflow as tf


def shape_of(tensor) -> list:
    """The shape as a list of ints, with a scalar tensor where a size is known at run time only."""
    if tensor.shape.is_fully_defined():
        return tensor.shape.as_list()
    dynamic = tf.shape(tensor)
    return [dynamic[i] if size is None else size for i, size in enumerate(tensor.shape)]
