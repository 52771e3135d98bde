"""The compiled training step and evaluation step.

B batch, L segment length.
"""

from typing import NamedTuple

import tensorflow as tf

from transformer_xl.memory import Memory


class TrainMetrics(NamedTuple):
    """What a training step reports; scalars that stay on the device until they are read."""

    loss: tf.Tensor  # nats per token
    gradient_norm: tf.Tensor  # before clipping
    learning_rate: tf.Tensor


class EvalSums(NamedTuple):
    """What an evaluation step adds; sums, so that one division at the end is right."""

    nll: tf.Tensor
    weight: tf.Tensor


def make_train_step(model, optimizer, clip_norm: float = 0.0, jit_compile: bool = False):
    """A compiled function of (tokens, targets, weights, memory) that updates the model.

    The loss is the weighted mean over the batch.

    Args:
      model: a `TransformerXL`.
      optimizer: a Keras optimizer; built here.
      clip_norm: the largest global norm of the gradients; 0 for no bound.
      jit_compile: whether XLA compiles it.

    Returns:
      A function of int `[B, L]` tokens, int `[B, L]` targets, float `[B, L]` weights and the
      `Memory` before, which returns the pair (next `Memory`, `TrainMetrics`).
    """
    variables = model.trainable_variables
    optimizer.build(variables)

    @tf.function(jit_compile=jit_compile, autograph=False)
    def train_step(tokens, targets, weights, memory):
        weights /= tf.reduce_sum(weights)
        with tf.GradientTape() as tape:
            loss, memory = model.loss(tokens, targets, weights, memory, training=True)
        gradients = tape.gradient(loss, [variable.value for variable in variables])
        # An embedding's gradient may be a list of rows in which a row occurs twice; its norm is
        # that of the dense gradient.
        gradients = [tf.convert_to_tensor(gradient) for gradient in gradients]
        norm = tf.linalg.global_norm(gradients)
        learning_rate = tf.convert_to_tensor(optimizer.learning_rate)
        if clip_norm > 0:
            scale = tf.minimum(1.0, clip_norm / norm)
            gradients = [gradient * scale for gradient in gradients]
        optimizer.apply(gradients, variables)
        return memory, TrainMetrics(loss, norm, learning_rate)

    return train_step


def make_eval_step(model, jit_compile: bool = False, **lengths):
    """A compiled function of (tokens, targets, weights, memory) that scores a segment.

    Args:
      model: a `TransformerXL`.
      jit_compile: whether XLA compiles it.
      **lengths: `clamp_length`, `same_length`, where they differ from the configuration.

    Returns:
      A function as that of `make_train_step`, which returns the pair (next `Memory`, `EvalSums`).
    """

    @tf.function(jit_compile=jit_compile, autograph=False)
    def eval_step(tokens, targets, weights, memory: Memory):
        nll, memory = model.nll(tokens, targets, memory, training=False, **lengths)
        return memory, EvalSums(tf.reduce_sum(nll * weights), tf.reduce_sum(weights))

    return eval_step
