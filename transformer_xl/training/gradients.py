"""The gradients of one device's rows, at once or part by part.

B batch, L segment length, M memory length, D width, A parts.
"""

import tensorflow as tf

from adaptive.rows import add_rows
from transformer_xl.memory import Memory
from transformer_xl.training.cluster_losses import cluster_sums


def normalised(weights, context):
    """Each target's share of the loss: its weight, divided by those of all replicas.

    Args:
      weights: float `[B, L]`, this replica's.
      context: its `tf.distribute.ReplicaContext`.
    """
    total = tf.reduce_sum(weights)
    if context.num_replicas_in_sync > 1:
        total = context.all_reduce(tf.distribute.ReduceOp.SUM, total)
    return weights / total


def summed_gradients(
    model,
    tokens,
    targets,
    shares,
    memory: Memory,
    parts: int,
    outside_xla: bool = False,
    one_trace: bool = False,
):
    """The loss, its gradients, and the memory after.

    Args:
      model: a `TransformerXL`.
      tokens, targets: int `[B, L]`.
      shares: float32 `[B, L]`, what each target counts for.
      memory: the `Memory` before.
      parts: A, in which the rows go through the model one after another.
      outside_xla: True where XLA surely does not compile the caller.
      one_trace: as in a call of the model.

    Returns:
      The float32 scalar sum of shares times nats; the gradients of the model's trainable
      variables, dense; the `cluster_sums` of losses and shares; the next `Memory`.

    Raises:
      ValueError: if B is not divisible by A.
    """
    settings = {"outside_xla": outside_xla, "one_trace": one_trace}
    if parts == 1:
        return _of_part(model, tokens, targets, shares, memory, settings)
    batch_size = tokens.shape[0]
    if batch_size % parts:
        raise ValueError(
            "The rows of each replica must be divisible by accumulate_steps. Received: "
            f"{batch_size} rows, accumulate_steps={parts}."
        )
    rows = batch_size // parts

    def split(value):
        return tf.reshape(value, [parts, rows, *tf.unstack(tf.shape(value)[1:])])

    inputs = tf.nest.map_structure(split, (tokens, targets, shares, memory))
    no_sums = tf.zeros([model.head.clusters.num_clusters, 2])
    zeros = [tf.zeros(variable.shape, variable.dtype) for variable in model.trainable_variables]
    written = [
        tf.TensorArray(value.dtype, parts, element_shape=(rows, *value.shape[1:]))
        for value in tf.nest.flatten(memory)
    ]

    def body(part, loss, gradients, sums, written):
        tokens, targets, shares, before = tf.nest.map_structure(lambda v: v[part], inputs)
        before = tf.nest.map_structure(
            lambda value, whole: tf.ensure_shape(value, (rows, *whole.shape[1:])), before, memory
        )
        more, added, new_sums, after = _of_part(model, tokens, targets, shares, before, settings)
        gradients = [old + new for old, new in zip(gradients, added)]
        after = [array.write(part, v) for array, v in zip(written, tf.nest.flatten(after))]
        return part + 1, loss + more, gradients, sums + new_sums, after

    # A loop and not a chain of parts: what a part needs must be gone before the next begins.
    _, loss, gradients, sums, written = tf.while_loop(
        lambda part, *_: part < parts,
        body,
        (0, tf.zeros(()), zeros, no_sums, written),
        parallel_iterations=1,
        maximum_iterations=parts,
    )
    after = [
        tf.reshape(array.stack(), [batch_size, *value.shape[1:]])
        for array, value in zip(written, tf.nest.flatten(memory))
    ]
    return loss, gradients, sums, tf.nest.pack_sequence_as(memory, after)


def _of_part(model, tokens, targets, shares, memory, settings):
    # The embedding is differentiated apart: its gradient is a few rows of tables that the softmax,
    # where it is tied, has a dense gradient of. One tape for both would make the rows dense first.
    with tf.GradientTape() as embedding_tape:
        embedded = model.embedding(tokens)
    with tf.GradientTape() as tape:
        tape.watch(embedded)
        loss, each, after = model.loss_and_nll(
            tokens,
            targets,
            shares,
            memory,
            training=True,
            embedded=embedded,
            **settings,
        )
    variables = [variable.value for variable in model.trainable_variables]
    to_embedded, *gradients = tape.gradient(loss, [embedded, *variables])
    of_embedding = embedding_tape.gradient(embedded, variables, output_gradients=to_embedded)
    outside_xla = settings["outside_xla"]
    gradients = [_dense_sum(one, other, outside_xla) for one, other in zip(gradients, of_embedding)]
    return loss, gradients, cluster_sums(model.head.clusters, targets, shares, each), after


def _dense_sum(gradient, of_embedding, outside_xla):
    """The sum of two gradients of a variable, either of which may be None, dense."""
    if gradient is None:
        # A list of rows in which a row may occur twice; its norm is that of the dense gradient.
        return tf.convert_to_tensor(of_embedding)
    if isinstance(of_embedding, tf.IndexedSlices):
        return add_rows(gradient, of_embedding.indices, of_embedding.values, outside_xla)
    return gradient if of_embedding is None else gradient + of_embedding
