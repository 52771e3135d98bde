"""For functions that form their gradients themselves, before these are asked for."""

import tensorflow as tf


def unwatched(*tensors):
    """The tensors, as constants.

    A tape would record the operations on them too, and in eager calls keep the logits of every
    chunk.
    """
    return [tf.stop_gradient(tensor) for tensor in tensors]


def as_gradients(gradients, tensors):
    """The gradients, each in the dtype of its tensor."""
    return [tf.cast(gradient, like.dtype) for gradient, like in zip(gradients, tensors)]


def first_order_only(gradient, *sources, refusal: str):
    """The gradient, which refuses to be differentiated with respect to its sources.

    It was made of what was stored, so a second differentiation would take that for a constant.

    Args:
      gradient: a tensor.
      *sources: the tensors that it depends on.
      refusal: the message of the LookupError.
    """

    @tf.custom_gradient
    def guarded(gradient, *sources):
        def refuse(*_):
            raise LookupError(refusal)

        del sources  # they only have to be arguments
        return tf.identity(gradient), refuse

    return guarded(gradient, *sources)
