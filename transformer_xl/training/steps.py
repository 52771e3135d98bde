"""The compiled training step and evaluation step.

B batch, L segment length, A parts of a batch whose gradients are accumulated.
"""

from typing import NamedTuple

import tensorflow as tf

from transformer_xl.memory import Memory
from transformer_xl.training.gradients import normalised, summed_gradients
from transformer_xl.training.train_state import TrainState


class TrainMetrics(NamedTuple):
    """What a training step reports; it stays on the device until it is read. Most are scalars."""

    loss: tf.Tensor  # nats per token
    gradient_norm: tf.Tensor  # before clipping
    learning_rate: tf.Tensor
    loss_scale: tf.Tensor  # that this step had; 1 unless in float16
    bad_steps: tf.Tensor  # so far, this one among them
    bad_run: tf.Tensor  # of these, the last ones that follow one another
    cluster_sums: tf.Tensor  # [C, 2], of `cluster_losses.cluster_sums`


class EvalSums(NamedTuple):
    """What an evaluation step adds; sums, so that one division at the end is right."""

    nll: tf.Tensor
    weight: tf.Tensor


def make_train_step(
    model,
    optimizer,
    clip_norm: float = 0.0,
    jit_compile: bool = False,
    accumulate_steps: int = 1,
    state: TrainState | None = None,
):
    """A compiled function of (tokens, targets, weights, memory) that updates the model.

    The loss is the weighted mean over the batch. Where it or a gradient is not finite, weights,
    moments and averages stay as they are, and rows of memory that are not finite are forgotten.

    Made and called within the scope of a `tf.distribute` strategy, the step is one of all its
    replicas: they get what `Replicas.split` makes of a batch and of memory, add up their gradients
    before these are clipped, and keep the same weights.

    Args:
      model: a `TransformerXL`.
      optimizer: a Keras optimizer; built here.
      clip_norm: the largest global norm of the gradients; 0 for no bound.
      jit_compile: whether XLA compiles it.
      accumulate_steps: A; the batch goes through the model in so many parts, each with its own
        rows of memory, so that only a part's activations exist at a time.
      state: the step's own variables; None makes them.

    Returns:
      A function of int `[B, L]` tokens, int `[B, L]` targets, float `[B, L]` weights and the
      `Memory` before, which returns the pair (next `Memory`, `TrainMetrics`).

    Raises:
      ValueError: when it is traced, if B is not divisible by A.
    """
    variables = model.trainable_variables
    state = TrainState(model) if state is None else state
    optimizer.build(variables)
    strategy = tf.distribute.get_strategy()
    alone = strategy.num_replicas_in_sync == 1 and not tf.distribute.has_strategy()

    outside_xla = _outside_xla(jit_compile)

    def local(tokens, targets, shares, memory):
        # XLA takes many times as long to compile what is traced once.
        settings = (accumulate_steps, outside_xla, not jit_compile)
        return summed_gradients(model, tokens, targets, shares, memory, *settings)

    def update(strategy, gradients, learning_rate, verdict):
        first = [strategy.experimental_local_results(value)[0] for value in verdict]
        verdict = type(verdict)(*first)
        rate = strategy.experimental_local_results(learning_rate)[0]
        state.keep(verdict)

        def take():
            for variable, gradient in zip(variables, gradients):
                strategy.extended.update(
                    variable.value,
                    lambda value, gradient: optimizer.update_step(gradient, value, rate),
                    args=(gradient,),
                    group=False,
                )
            optimizer.iterations.value.assign_add(1)
            state.average(strategy)
            return tf.constant(True)

        tf.cond(verdict.good, take, lambda: tf.constant(False))

    def on_replica(tokens, targets, weights, memory):
        context = tf.distribute.get_replica_context()
        scale = state.loss_scale()
        shares = normalised(weights, context) * scale
        # XLA compiles what is one device's; messages between replicas are outside.
        compiled = local
        if jit_compile and not alone:
            compiled = tf.function(local, jit_compile=True, autograph=False)
        loss, gradients, sums, after = compiled(tokens, targets, shares, memory)
        if context.num_replicas_in_sync > 1:
            everything = [loss, sums, *gradients]
            loss, sums, *gradients = context.all_reduce(tf.distribute.ReduceOp.SUM, everything)
        loss /= scale
        if state.scales:
            gradients = [gradient / scale for gradient in gradients]
        # In float32 also where weights are in 16 bits, or in 64.
        norm = tf.linalg.global_norm([tf.cast(gradient, tf.float32) for gradient in gradients])
        learning_rate = tf.convert_to_tensor(optimizer.learning_rate)
        if clip_norm > 0:
            bound = tf.minimum(1.0, clip_norm / norm)
            gradients = [gradient * tf.cast(bound, gradient.dtype) for gradient in gradients]
        verdict = state.judge(loss, norm)
        context.merge_call(update, args=(gradients, learning_rate, verdict))
        after = tf.cond(verdict.good, lambda: after, lambda: _healthy(after))
        return after, TrainMetrics(
            loss, norm, learning_rate, scale, verdict.bad_steps, verdict.bad_run, sums
        )

    if alone:
        return tf.function(on_replica, jit_compile=jit_compile, autograph=False)

    @tf.function(autograph=False)
    def train_step(*arguments):
        memory, metrics = strategy.run(on_replica, arguments)
        metrics = [strategy.experimental_local_results(value)[0] for value in metrics]
        return memory, TrainMetrics(*metrics)

    return train_step


def _outside_xla(jit_compile):
    # A GPU would wait for the host, which knows sizes that are known only at run time.
    return not jit_compile and not tf.config.list_logical_devices("GPU")


def _healthy(memory: Memory) -> Memory:
    """Memory without the rows that hold a number which is not finite."""
    finite = [tf.reduce_all(tf.math.is_finite(hidden), [1, 2]) for hidden in memory.hidden]
    return memory.reset(~tf.reduce_all(tf.stack(finite), 0))


def make_eval_step(
    model,
    jit_compile: bool = False,
    segment_length: int | None = None,
    in_turn: int = 1,
    **lengths,
):
    """A compiled function of (tokens, targets, weights, memory) that scores a segment, or several.

    Args:
      model: a `TransformerXL`.
      jit_compile: whether XLA compiles it.
      segment_length: L, where a batch holds several segments that follow one another, `[B, n * L]`;
        None where it is one.
      in_turn: of `nll_in_turn`.
      **lengths: `clamp_length`, `same_length`, where they differ from the configuration.

    Returns:
      A function as that of `make_train_step`, which returns the pair (next `Memory`, `EvalSums`).
    """
    lengths.update(outside_xla=_outside_xla(jit_compile), segment_length=segment_length)

    @tf.function(jit_compile=jit_compile, autograph=False)
    def eval_step(tokens, targets, weights, memory: Memory):
        nll, memory = nll_in_turn(model, tokens, targets, memory, in_turn, **lengths)
        # A weight of 0 leaves out what stands there, also where it is not a number.
        weighted = tf.math.multiply_no_nan(nll, weights)
        return memory, EvalSums(tf.reduce_sum(weighted), tf.reduce_sum(weights))

    return eval_step


def nll_in_turn(model, tokens, targets, memory, in_turn: int, **named):
    """`model.nll` of stretches that follow one another, each with the memory that the last left.

    A stretch's layer needs of the stretch before only what that layer remembers. In one function
    TensorFlow therefore computes layers of one while it computes those of the next, which keeps all
    cores busy where a stretch is too short for that. The numbers are the same.

    Args:
      model: a `TransformerXL`.
      tokens, targets: int `[B, n]`.
      memory: the `Memory` or `Cache` before them.
      in_turn: how many stretches of equal length they are.
      **named: of `model.nll`; a `segment_length` divides each stretch into segments, read as one.

    Returns:
      The pair (nats, float32 `[B, n]`; the next `Memory` or `Cache`).

    Raises:
      ValueError: when it is traced, if the n tokens are not such stretches.
    """
    width, whole = tokens.shape[1], in_turn * (named.get("segment_length") or 1)
    if width is not None and width % whole:
        raise ValueError(
            "The width of a batch must be a multiple of in_turn * segment_length, which is "
            f"{whole}. Received: {width}. Fill the last segments up with weights of 0."
        )
    parts = []
    for some, of_them in zip(*(tf.split(ids, in_turn, 1) for ids in (tokens, targets))):
        nll, memory = model.nll(some, of_them, memory, training=False, **named)
        parts.append(nll)
    return tf.concat(parts, 1), memory
