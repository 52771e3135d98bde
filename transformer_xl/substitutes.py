"""Tensors in the place of a layer's weights, so that these can be a function's arguments."""

import keras
import tensorflow as tf


def tensors_of(layer) -> list:
    """The layer's weights as they are read here, in the compute dtype within a call."""
    return [tf.convert_to_tensor(variable) for variable in layer.weights]


def in_place_of(layer, tensors) -> keras.StatelessScope:
    """A scope in which the layer computes with these tensors.

    Gradients flow into them, and not into the weights.

    Args:
      layer: built.
      tensors: as `tensors_of` gives them, of this layer or of one that is alike.

    Raises:
      ValueError: if they are not as many as the layer's weights.
    """
    scope = keras.StatelessScope()
    for variable, tensor in zip(layer.weights, tensors, strict=True):
        # One by one: what is given when the scope is made becomes the variable's dtype again.
        scope.add_update((variable, tensor))
    return scope
