"""One chunk of rows through a linear softmax: losses and what they add to the gradients.

T rows, V columns of the table, m further columns, E width of the rows.
"""

from typing import NamedTuple

import tensorflow as tf

from .rows import add_rows


class Columns(NamedTuple):
    """Columns after those of the table, apart so that no table has to be copied to join them."""

    table: tf.Tensor  # [m, E]
    bias: tf.Tensor | None  # [m]


class Smoothing(NamedTuple):
    """What a row's label is made of: `target * one_hot + columns`; its sum need not be 1."""

    target: tf.Tensor  # float32 [T], what is left on each row's target
    columns: tf.Tensor  # float32 [V + m], what is spread over the columns


class Sources(NamedTuple):
    """What a loss is differentiated by; None where there is no bias or no further column."""

    inputs: tf.Tensor  # [T, E], in the dtype of products
    table: tf.Tensor  # [V, E]
    bias: tf.Tensor | None  # [V]
    columns: Columns | None


def chunk(inputs, table, bias, columns, targets, weights, smoothing, table_goes=False):
    """Losses and, with weights, what they add to the gradients of `sum(weights * nll)`.

    The slope of a row's loss along its logits is `weight * (mass * softmax - label)`, where the
    mass is the label's sum. To multiply and to subtract there would take passes over `[T, V]`. So
    the weights go into what the softmax is multiplied by, and labels are subtracted from the
    products: what stands at the targets by the caller, with `add_targets`.

    Args:
      inputs, table, bias, columns: see `Sources`.
      targets: int32 `[T]` from 0 to V + m - 1.
      weights: float32 `[T]`; None for the losses alone.
      smoothing: the `Smoothing`, or None.
      table_goes: whether `table` is read nowhere else: its gradient waits for all that reads it.

    Returns:
      The triple of the losses, float32 `[T]`; the slopes at the targets in the table, float32
      `[T]`, for `add_targets`; and the gradients in the order of `present(Sources)`, float32. The
      last two are None and () without weights.
    """
    num_columns = table.shape[0]
    logits = _logits(inputs, table, bias)
    places = tf.minimum(targets, num_columns - 1)
    at_target = tf.gather(logits, places, batch_dims=1)
    # Branches would have the host wait for a GPU.
    largest = tf.reduce_max(logits, -1) if tf.config.list_logical_devices("GPU") else None
    with tf.control_dependencies([at_target] if largest is None else [at_target, largest]):
        # Nothing but smoothing reads the logits any more, so that TensorFlow writes over them.
        softmax = tf.nn.softmax(logits)
    chance = tf.gather(softmax, places, batch_dims=1)
    if largest is None:
        normaliser = _normaliser(inputs, table, bias, softmax, at_target, chance)
    else:
        normaliser = _from_largest(largest, softmax)
    in_table, share = 1.0, 1.0  # the latter: the table's columns' part of the probability
    if columns is not None:
        more = _logits(inputs, *columns)
        of_table = normaliser
        normaliser = tf.reduce_logsumexp(tf.concat([of_table[:, None], more], -1), -1)
        share = tf.exp(of_table - normaliser)
        label = tf.one_hot(targets - num_columns, more.shape[1])  # zeros for the table's targets
        masked = tf.math.multiply_no_nan(more, label)  # a bias may be -inf, which bans a tail
        in_table = tf.cast(targets < num_columns, tf.float32)
        at_target = tf.where(in_table > 0, at_target, tf.reduce_sum(masked, -1))
    on_target, spread = tf.ones_like(normaliser), None
    mass, nll = on_target, normaliser - at_target
    if smoothing is not None:
        on_target, spread = smoothing
        mass = on_target + tf.reduce_sum(spread)
        nll = mass * normaliser - on_target * at_target
        nll -= tf.linalg.matvec(logits, spread[:num_columns])
        if columns is not None:
            nll -= tf.linalg.matvec(more, spread[num_columns:])
    if weights is None:
        return nll, None, ()

    with tf.control_dependencies([nll, chance]):
        # The logits are not needed any more: their memory is free for the gradients.
        softmax = tf.identity(softmax)
    dtype, inputs_f32 = inputs.dtype, tf.cast(inputs, tf.float32)
    scale = weights * mass * share
    slopes = -weights * on_target * in_table
    probabilities = tf.cast(softmax, dtype)
    if dtype != tf.float32:
        # Rounding would leave nothing of `softmax - 1` at a target that is nearly certain.
        rounded = tf.cast(tf.gather(probabilities, places, batch_dims=1), tf.float32)
        slopes += scale * (chance - rounded)
    rows = tf.cast(tf.gather(table, places), tf.float32)
    to_inputs = tf.cast(tf.matmul(probabilities, table), tf.float32)
    to_inputs = scale[:, None] * to_inputs + slopes[:, None] * rows
    if spread is not None:
        over_table = spread[:num_columns]
        middle = tf.linalg.matvec(tf.cast(table, tf.float32), over_table, transpose_a=True)
        to_inputs -= weights[:, None] * middle
    with tf.control_dependencies([to_inputs] if table_goes else []):
        probabilities = tf.identity(probabilities)
    # The range of float16 is small: a mean's weights would be lost in it.
    in_range = dtype != tf.float16
    to_table = _outer(probabilities, scale[:, None] * inputs_f32, dtype, in_range)
    to_bias = None
    if bias is not None:
        # Equal weights, rounded, would be off all in the same direction, and with them the sum. A
        # product, since TensorFlow's sum down the columns takes twice the time.
        to_bias = _outer(probabilities, scale[:, None], dtype, dtype == tf.float32)[:, 0]
    of_columns = None
    if columns is not None:
        table_f32 = tf.cast(columns.table, tf.float32)
        more_slopes = (
            mass[:, None] * tf.exp(more - normaliser[:, None]) - on_target[:, None] * label
        )
        if spread is not None:
            more_slopes -= spread[num_columns:]
        more_slopes *= weights[:, None]
        to_inputs += tf.matmul(more_slopes, table_f32)
        of_columns = Columns(
            tf.matmul(more_slopes, inputs_f32, transpose_a=True),
            None if columns.bias is None else tf.reduce_sum(more_slopes, 0),
        )
    if spread is not None:
        to_table -= over_table[:, None] * tf.linalg.matvec(inputs_f32, weights, transpose_a=True)
        if bias is not None:
            to_bias -= over_table * tf.reduce_sum(weights)
    return nll, slopes, present(Sources(to_inputs, to_table, to_bias, of_columns))


def add_targets(gradients, sources: Sources, targets, slopes, outside_xla=False):
    """The gradients with what the targets' labels add to the table's and to the bias'."""
    if slopes is None:
        return gradients
    to_inputs, to_table, *rest = gradients
    places = tf.minimum(targets, sources.table.shape[0] - 1)
    rows = slopes[:, None] * tf.cast(sources.inputs, tf.float32)
    to_table = add_rows(to_table, places, rows, outside_xla)
    if sources.bias is not None:
        rest[0] = add_rows(rest[0], places, slopes, outside_xla)
    return (to_inputs, to_table, *rest)


def multiple_of_rows(dtype):
    """How many rows the numbers of rows of chunks are multiples of, for products in `dtype`."""
    # Matrix units for 16 bits sum over 32 rows at a time: the gradient of a table from 80 rows
    # takes half as long again as that from 96, with the instructions AMX (docs/decisions/0002).
    return 32 if dtype.size == 2 else 8


def present(sources: Sources) -> tuple:
    """The tensors there are, in order."""
    return tuple(one for one in tf.nest.flatten(sources) if one is not None)


def as_sources(tensors, like: Sources) -> Sources:
    """What `present` took apart."""
    tensors = iter(tensors)
    return tf.nest.map_structure(lambda one: None if one is None else next(tensors), like)


def _logits(inputs, table, bias):
    logits = tf.matmul(inputs, tf.cast(table, inputs.dtype), transpose_b=True)
    # Float32 whatever the products' dtype: in bfloat16 a sum over thousands of words is noise.
    logits = tf.cast(logits, tf.float32)
    # TensorFlow makes one kernel of product and bias, so that it costs no pass of its own.
    return logits if bias is None else tf.nn.bias_add(logits, tf.cast(bias, tf.float32))


def _normaliser(inputs, table, bias, softmax, some_logit, its_probability):
    """The logarithm of the sum of the exponentials of each row, from one logit's probability.

    That saves all passes over the logits. Where the probability is too small to have a logarithm,
    which is rare, the largest logit's is taken: the logits, overwritten, are computed again.
    """
    return tf.cond(
        tf.reduce_any(its_probability < 1e-30),
        lambda: _from_largest(tf.reduce_max(_logits(inputs, table, bias), -1), softmax),
        lambda: some_logit - tf.math.log(its_probability),
    )


def _from_largest(largest, softmax):
    # The largest logit's probability is at least 1 / V.
    return largest - tf.math.log(tf.reduce_max(softmax, -1))


def _outer(probabilities, rows, dtype, in_range: bool):
    """`probabilities' @ rows`, float32 `[V, E]`, computed in `dtype`.

    Args:
      probabilities: `[T, V]` in `dtype`.
      rows: float32 `[T, E]`.
      dtype: of the product.
      in_range: False to bring the largest of the rows to 1 for the product.
    """
    unit = None
    if not in_range:
        unit = tf.reduce_max(tf.abs(rows))
        rows = tf.math.divide_no_nan(rows, unit)
    products = tf.matmul(probabilities, tf.cast(rows, dtype), transpose_a=True)
    products = tf.cast(products, tf.float32)
    return products if unit is None else unit * products
