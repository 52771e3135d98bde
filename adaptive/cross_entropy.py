"""Negative log-likelihoods of a linear softmax, chunk by chunk, with gradients of their own.

The logits `[T, V]` never exist whole: rows go through in chunks, and what remains of a chunk is
its losses and what it adds to the gradients. A chunk has a fixed number of rows and their number
may be known only at run time, so that a softmax over few of the rows (a tail of an adaptive
softmax) costs only those, with static shapes throughout: XLA compiles it, and no distribution of
targets overflows anything.

T rows, V columns (of one cluster), E width of the rows.
"""

from typing import NamedTuple

import tensorflow as tf

# A chunk's logits take this much: small enough for caches and for memory, large enough for the
# matrix product to run at speed. See benchmarks/.
CHUNK_BYTES = 64 * 2**20


class Rows(NamedTuple):
    """The rows that a softmax is wanted for: `order[start : start + count]`."""

    order: tf.Tensor  # int32 [T], a permutation of the rows
    start: tf.Tensor  # int32 scalar
    count: tf.Tensor  # int32 scalar


class Smoothing(NamedTuple):
    """What a row's label is made of: `target * one_hot + columns`; its sum need not be 1."""

    target: tf.Tensor  # float32 [T], what is left on each row's target
    columns: tf.Tensor  # float32 [V], what is spread over the columns


class _Result(NamedTuple):
    nll: tf.Tensor  # float32 [T]
    inputs: tf.Tensor  # float32 [T, E]: the gradients of sum(weights * nll)
    table: tf.Tensor  # float32 [V, E]
    bias: tf.Tensor  # float32 [V]


def linear_nll(inputs, table, bias, targets, rows=None, chunk_rows=None, smoothing=None):
    """The negative log-likelihood of each row's target; right for any upstream gradient.

    The backward pass computes each chunk's logits a second time, since what a row counts for is
    not known before. `linear_loss` saves that.

    Args:
      inputs: `[T, E]`, in the dtype in which products are computed.
      table: `[V, E]`, of any float dtype.
      bias: `[V]`, of any float dtype.
      targets: int32 `[T]` from 0 to V - 1.
      rows: the `Rows` to compute; None for all. The others are 0 and have no gradient.
      chunk_rows: rows in a chunk; None chooses by the size of the logits.
      smoothing: the `Smoothing` of the labels; None for one-hot labels. The loss of a row is then
        the cross-entropy with its label, `sum(label * -log_softmax)`.

    Returns:
      float32 `[T]`.
    """

    @tf.custom_gradient
    def nll_of(inputs, table, bias):
        sources = _unwatched(inputs, table, bias)
        values = _run(*sources, targets, None, rows, chunk_rows, smoothing).nll

        def gradient(upstream):
            result = _run(inputs, table, bias, targets, upstream, rows, chunk_rows, smoothing)
            return _as_gradients(result, inputs, table, bias)

        return values, gradient

    return nll_of(inputs, table, bias)


def linear_loss(inputs, table, bias, targets, weights, rows=None, chunk_rows=None, smoothing=None):
    """`sum(weights * nll)`, a float32 scalar, with the gradients formed in the same pass.

    What a row counts for is known beforehand here, so each chunk's logits, computed once, give
    the loss and the gradients. Weights get no gradient. Arguments as in `linear_nll`; `weights`
    is float32 `[T]`.
    """

    (weights,) = _unwatched(weights)

    @tf.custom_gradient
    def loss_of(inputs, table, bias):
        sources = _unwatched(inputs, table, bias)
        result = _run(*sources, targets, weights, rows, chunk_rows, smoothing)
        value = tf.reduce_sum(result.nll * weights)

        def gradient(upstream):
            scaled = _Result(
                result.nll,
                *(upstream * _first_order_only(g, inputs, table, bias) for g in result[1:]),
            )
            return _as_gradients(scaled, inputs, table, bias)

        return value, gradient

    return loss_of(inputs, table, bias)


def _run(inputs, table, bias, targets, weights, rows, chunk_rows, smoothing) -> _Result:
    """Losses and, where `weights` is given, the gradients of their weighted sum."""
    dtype = inputs.dtype
    table = tf.cast(table, dtype)
    num_rows = inputs.shape[0]
    if num_rows is None:
        num_rows = tf.shape(inputs)[0]
    if chunk_rows is None:
        chunk_rows = rows_per_chunk(num_rows, table.shape[0], few=rows is not None)
    if rows is None and isinstance(num_rows, int) and num_rows <= chunk_rows:
        return _chunk(inputs, table, bias, targets, weights, smoothing)

    wanted = num_rows if rows is None else rows.count
    num_chunks = (wanted + chunk_rows - 1) // chunk_rows

    def body(chunk, nll, to_inputs, to_table, to_bias):
        position = chunk * chunk_rows + tf.range(chunk_rows)
        real = position < wanted
        if rows is None:
            index = tf.minimum(position, num_rows - 1)
        else:
            index = tf.gather(rows.order, tf.minimum(rows.start + position, num_rows - 1))
        # Rows past the end repeat another row; what they add is made zero.
        chunk_weights = None
        if weights is not None:
            chunk_weights = tf.where(real, tf.gather(weights, index), 0.0)
        chunk_smoothing = smoothing
        if smoothing is not None:
            chunk_smoothing = smoothing._replace(target=tf.gather(smoothing.target, index))
        part = _chunk(
            tf.gather(inputs, index),
            table,
            bias,
            tf.gather(targets, index),
            chunk_weights,
            chunk_smoothing,
        )
        nll = tf.tensor_scatter_nd_add(nll, index[:, None], tf.where(real, part.nll, 0.0))
        if weights is not None:
            to_inputs = tf.tensor_scatter_nd_add(to_inputs, index[:, None], part.inputs)
            to_table += part.table
            to_bias += part.bias
        return chunk + 1, nll, to_inputs, to_table, to_bias

    def empty(like):
        return tf.zeros(tf.shape(like) if weights is not None else [0] * like.shape.rank)

    _, *result = tf.while_loop(
        lambda chunk, *_: chunk < num_chunks,
        body,
        (tf.constant(0), tf.zeros([num_rows]), empty(inputs), empty(table), empty(bias)),
        parallel_iterations=1,
        # A bound for XLA, which needs one where this is differentiated: second derivatives.
        maximum_iterations=-(-num_rows // chunk_rows),
    )
    return _Result(*result)


def _chunk(inputs, table, bias, targets, weights, smoothing) -> _Result:
    logits = tf.matmul(inputs, table, transpose_b=True)
    # Float32 whatever the products' dtype: in bfloat16 a sum over thousands of words is noise.
    logits = tf.cast(logits, tf.float32) + tf.cast(bias, tf.float32)
    if smoothing is None:
        nll, probabilities = _nll_and_softmax(logits, targets)
    else:
        one_hot = tf.one_hot(targets, table.shape[0])
        label = smoothing.target[:, None] * one_hot + smoothing.columns
        mass = smoothing.target + tf.reduce_sum(smoothing.columns)
        # This kernel returns softmax - label along with the losses.
        nll, to_logits = tf.raw_ops.SoftmaxCrossEntropyWithLogits(
            features=logits, labels=label / mass[:, None]
        )
        nll = mass * nll
    if weights is None:
        return _Result(nll, None, None, None)
    if smoothing is None:
        place = tf.stack([tf.range(tf.shape(targets)[0]), targets], -1)
        to_logits = tf.tensor_scatter_nd_sub(probabilities * weights[:, None], place, weights)
    else:
        to_logits *= (weights * mass)[:, None]
    # A product, since TensorFlow's sum down the columns takes twice the time.
    to_bias = tf.matmul(tf.ones([1, tf.shape(to_logits)[0]]), to_logits)[0]
    to_logits = tf.cast(to_logits, inputs.dtype)
    return _Result(
        nll,
        tf.cast(tf.matmul(to_logits, table), tf.float32),
        tf.cast(tf.matmul(to_logits, inputs, transpose_a=True), tf.float32),
        to_bias,
    )


def _nll_and_softmax(logits, targets):
    """`[T]` and `[T, V]`; in half of the time of the kernel for sparse cross-entropy."""
    softmax = tf.nn.softmax(logits)
    # The largest logit's probability is at least 1 / V, so that its logarithm is exact.
    normaliser = tf.reduce_max(logits, -1) - tf.math.log(tf.reduce_max(softmax, -1))
    return normaliser - tf.gather(logits, targets, batch_dims=1), softmax


def rows_per_chunk(num_rows, num_columns: int, few: bool, share: int = 16, least: int = 64):
    """A multiple of 8, bounded by the memory that a chunk's logits take.

    Args:
      num_rows: of all, an int or an int32 scalar.
      num_columns: of the logits.
      few: whether few of the rows are wanted: a chunk is then small beside their number.
      share: the chunk's part of the rows is one of so many, where few are wanted,
      least: but not fewer rows than this.

    Returns:
      An int, or a tensor where the number of rows is known only at run time.
    """
    most = max(8, CHUNK_BYTES // (4 * num_columns) // 8 * 8)
    least_of, most_of = (min, max) if isinstance(num_rows, int) else (tf.minimum, tf.maximum)
    if few:
        rows = least_of(num_rows, most_of(least, num_rows // share))
    else:
        # Chunks of one size, as the last one is computed whole.
        rows = -(-num_rows // most_of(1, -(-num_rows // most)))
    return least_of(most, most_of(8, -(-rows // 8) * 8))


def _as_gradients(result: _Result, inputs, table, bias):
    pairs = ((result.inputs, inputs), (result.table, table), (result.bias, bias))
    return tuple(tf.cast(gradient, like.dtype) for gradient, like in pairs)


def _unwatched(*tensors):
    # A tape would record the values' ops too, and in eager calls keep the logits of every chunk.
    return [tf.stop_gradient(tensor) for tensor in tensors]


def _first_order_only(gradient, *sources):
    """The gradient, which refuses to be differentiated with respect to its sources.

    It was stored, so a second differentiation would take it for a constant.
    """

    @tf.custom_gradient
    def guarded(gradient, *sources):
        def refuse(*_):
            raise LookupError(
                "The fused loss has no second derivative: use nll, and sum it yourself."
            )

        del sources  # they only have to be arguments
        return tf.identity(gradient), refuse

    return guarded(gradient, *sources)
