"""The cross-entropy of a linear softmax, chunk by chunk, with gradients of its own.

The logits `[T, V]` never exist whole: rows go through in chunks, and what remains of a chunk is
its losses and what it adds to the gradients. A chunk has a fixed number of rows and their number
may be known only at run time, so that a softmax over few of the rows (a tail of an adaptive
softmax) costs only those, with static shapes throughout: XLA compiles it, and no distribution of
targets overflows anything.

T rows, V columns of the table, m further columns, E width of the rows.
"""

import numbers
from typing import NamedTuple

import keras
import tensorflow as tf

from .chunk import Sources, add_rows, add_targets, as_sources, multiple_of_rows, present
from .chunk import chunk as _chunk
from .dense_tensors import as_tensor
from .gradient_rules import as_gradients, first_order_only, unwatched
from .hidden_states import check_linear, weighted_targets

# A chunk's logits take this much, little beside the gradients (docs/decisions/0002).
CHUNK_BYTES = 40 * 2**20
_FUSED = "The fused loss has no second derivative: use nll, and sum it yourself."


class Rows(NamedTuple):
    """The rows that a softmax is wanted for: `order[start : start + count]`."""

    order: tf.Tensor  # int32 [T], a permutation of the rows
    start: tf.Tensor  # int32 scalar
    count: tf.Tensor  # int32 scalar


class _Result(NamedTuple):
    nll: tf.Tensor  # float32 [T]
    # Those of sum(weights * nll) by the sources that are present, float32; () without weights.
    gradients: tuple


def linear_cross_entropy(
    hidden, table, bias, targets, sample_weight=None, training=True, memory_bytes=2 * CHUNK_BYTES
):
    """Softmax and cross-entropy of `hidden @ table' + bias`, without ever holding all its logits.

    For any model with very many classes. The usual dense layer with a cross-entropy keeps the
    logits `[T, V]`, their softmax and their gradient, T the number of targets: 3.3 GB at 1,024
    tokens and 267,735 words. Here rows go through in chunks, and what remains of a chunk is its
    loss and what it adds to the gradients, which are formed in the same pass. The result is the
    same, in float32 whatever the dtype of the products.

    Args:
      hidden: float `[..., D]`. Its dtype is that of the products: cast it to bfloat16 for mixed
        precision.
      table: float `[V, D]`, a row for each class: a tensor or a variable. The kernel `[D, V]` of
        a dense layer is its transpose.
      bias: float `[V]`, or None.
      targets: int `[...]`, from 0 to V - 1. Give targets that do not count a weight of 0.
      sample_weight: float `[...]`, what each target counts for; None means 1. It has no gradient.
        For a mean, divide it by its sum.
      training: whether gradients will be wanted. False computes the loss alone; gradients are
        right then, too, but cost the logits a second time.
      memory_bytes: what a chunk's logits and their softmax may take, at least 8 rows of them.
        Gradients, and one more array of the size of the table, come to that.

    Returns:
      The weighted sum of the negative log-likelihoods, a float32 scalar. It has no second
      derivative with `training=True`.

    Raises:
      ValueError: for shapes or dtypes that do not fit, symbolic, ragged or sparse tensors, and, in
        eager calls, ids outside the vocabulary. Compiled code cannot raise: there the loss and the
        gradients of table and bias are NaN. Sizes known only at run time are compared then: an
        InvalidArgumentError; by XLA, but for sizes of 1.

    Example:
      >>> hidden, table = tf.zeros([2, 3, 8]), tf.zeros([100, 8])
      >>> float(linear_cross_entropy(hidden, table, None, tf.zeros([2, 3], tf.int32)) / 6)
      4.605...
    """
    if any(isinstance(one, keras.KerasTensor) for one in (hidden, table, bias, targets)):
        raise ValueError(
            "linear_cross_entropy computes on tensors, not on the symbolic tensors of a "
            "functional model: call it in `train_step`, or in a layer's `call` with `add_loss`. "
            "Received: a KerasTensor."
        )
    hidden, table = as_tensor(hidden, "hidden"), as_tensor(table, "table")
    targets = as_tensor(targets, "targets")
    bias = None if bias is None else as_tensor(bias, "bias")
    targets = check_linear(hidden, table, bias, targets)
    num_classes, width = table.shape
    if not isinstance(memory_bytes, numbers.Integral) or memory_bytes < 1:
        raise ValueError(f"memory_bytes must be an integer above 0. Received: {memory_bytes!r}.")
    targets, weights = weighted_targets(targets, sample_weight, num_classes)
    inputs = tf.reshape(hidden, [-1, width])
    num_rows = inputs.shape[0] if inputs.shape[0] is not None else tf.shape(inputs)[0]
    multiple = multiple_of_rows(inputs.dtype)
    chunk_rows = rows_per_chunk(
        num_rows, num_classes, few=False, logits_bytes=int(memory_bytes) // 2, multiple=multiple
    )
    arguments = (inputs, table, bias, targets)
    if training:
        return linear_loss(*arguments, weights, chunk_rows=chunk_rows)
    return tf.reduce_sum(weights * linear_nll(*arguments, chunk_rows=chunk_rows))


def linear_nll(
    inputs,
    table,
    bias,
    targets,
    rows=None,
    chunk_rows=None,
    smoothing=None,
    columns=None,
    outside_xla=False,
):
    """The negative log-likelihood of each row's target; right for any upstream gradient.

    The backward pass computes each chunk's logits a second time, since what a row counts for is
    not known before. `linear_loss` saves that.

    Args:
      inputs: `[T, E]`, in the dtype in which products are computed.
      table: `[V, E]`, of any float dtype.
      bias: `[V]`, of any float dtype, or None.
      targets: int32 `[T]` from 0 to V + m - 1.
      rows: the `Rows` to compute; None for all. The others are 0 and have no gradient.
      chunk_rows: rows in a chunk; None chooses by the size of the logits.
      smoothing: the `Smoothing` of the labels; None for one-hot labels. The loss of a row is then
        the cross-entropy with its label, `sum(label * -log_softmax)`.
      columns: the `Columns` V to V + m - 1 of the same softmax; None for none.
      outside_xla: True where XLA surely does not compile the caller: chunks are then of the size
        that the rows ask for, which is known only at run time.

    Returns:
      float32 `[T]`.
    """
    sources = Sources(inputs, table, bias, columns)
    settings = (rows, chunk_rows, smoothing, outside_xla)

    @tf.custom_gradient
    def nll_of(*tensors):
        values = _run(as_sources(unwatched(*tensors), sources), targets, None, *settings).nll

        def gradient(upstream):
            result = _run(as_sources(tensors, sources), targets, upstream, *settings)
            return as_gradients(result.gradients, tensors)

        return values, gradient

    return nll_of(*present(sources))


def linear_loss(inputs, table, bias, targets, weights, *settings, **named_settings):
    """`sum(weights * nll)`, a float32 scalar, with the gradients formed in the same pass.

    What a row counts for is known beforehand here, so each chunk's logits, computed once, give
    the loss and the gradients. Weights get no gradient. Arguments as in `linear_nll`; `weights`
    is float32 `[T]`.
    """
    return linear_losses(inputs, table, bias, targets, weights, *settings, **named_settings)[0]


def linear_losses(
    inputs,
    table,
    bias,
    targets,
    weights,
    rows=None,
    chunk_rows=None,
    smoothing=None,
    columns=None,
    outside_xla=False,
):
    """The pair of `linear_loss` and what it sums: each row's loss, float32 `[T]`, for reports.

    With `outside_xla` labels are subtracted in place, too.
    """
    sources = Sources(inputs, table, bias, columns)
    (weights,) = unwatched(weights)

    @tf.custom_gradient
    def loss_of(*tensors):
        apart = as_sources(unwatched(*tensors), sources)
        result = _run(apart, targets, weights, rows, chunk_rows, smoothing, outside_xla)
        value = tf.reduce_sum(result.nll * weights)

        def gradient(upstream, _):
            gradients = [
                first_order_only(one, *tensors, refusal=_FUSED) for one in result.gradients
            ]
            # A loss that is not scaled any more saves a copy of each gradient.
            if tf.get_static_value(upstream) != 1:
                gradients = [upstream * one for one in gradients]
            return as_gradients(gradients, tensors)

        return (value, result.nll), gradient

    return loss_of(*present(sources))


def _run(
    sources: Sources, targets, weights, rows, chunk_rows, smoothing, outside_xla=False
) -> _Result:
    """Losses and, where `weights` is given, the gradients of their weighted sum."""
    inputs, given = sources.inputs, sources
    # In the dtype of products once, and not in each chunk.
    sources = given._replace(table=tf.cast(given.table, inputs.dtype))
    # Whether the table's gradient takes the place of such a copy, as it can in a graph.
    goes = weights is not None and given.table.dtype != inputs.dtype
    num_rows = inputs.shape[0]
    if num_rows is None:
        num_rows = tf.shape(inputs)[0]
    wanted = num_rows if rows is None else rows.count
    if chunk_rows is None:
        # XLA has to know a chunk's size before it knows how many rows there are.
        known = rows is None or outside_xla
        count, (num_columns, width) = wanted if known else num_rows, sources.table.shape
        # Each chunk takes a pass over the table's gradient: a quarter of that is not too much.
        logits_bytes = max(CHUNK_BYTES, num_columns * width)
        # Losses alone leave no gradient to pass over, so that few rows need no large chunk.
        least = 16 if weights is None else 64
        chunk_rows = rows_per_chunk(
            count,
            num_columns,
            few=not known,
            least=least,
            logits_bytes=logits_bytes,
            multiple=multiple_of_rows(inputs.dtype),
        )

    if rows is None and isinstance(num_rows, int) and 0 < num_rows <= chunk_rows:
        nll, slopes, gradients = _chunk(*sources, targets, weights, smoothing, goes)
        return _Result(nll, add_targets(gradients, sources, targets, slopes, outside_xla))

    # Beside a loop that takes a branch, and XLA has an order of its own.
    goes &= outside_xla and not tf.executing_eagerly()
    # Not a constant, as which TensorFlow would keep arrays of zeros for as long as the graph lives.
    zero = tf.cast(tf.reduce_any(targets == tf.int32.min), tf.float32)

    def zeros(like):
        return tf.fill(tf.shape(like), zero)

    def body(sources, chunk, nll, *sums):
        position = chunk * chunk_rows + tf.range(chunk_rows)
        real = position < wanted
        if rows is None:
            index = tf.minimum(position, num_rows - 1)
        else:
            index = tf.gather(rows.order, tf.minimum(rows.start + position, num_rows - 1))
        # Rows past the end repeat another row; what they add is made zero.
        chunk_weights, chunk_smoothing = weights, smoothing
        if weights is not None:
            chunk_weights = tf.where(real, tf.gather(weights, index), 0.0)
        if smoothing is not None:
            chunk_smoothing = smoothing._replace(target=tf.gather(smoothing.target, index))
        part = sources._replace(inputs=tf.gather(inputs, index))
        chunk_targets = tf.gather(targets, index)
        chunk_nll, slopes, gradients = _chunk(
            *part, chunk_targets, chunk_weights, chunk_smoothing, goes and not sums
        )
        nll = tf.tensor_scatter_nd_add(nll, index[:, None], tf.where(real, chunk_nll, 0.0))
        if weights is not None:
            to_inputs, *others = gradients
            before = sums[0] if sums else zeros(inputs)
            to_inputs = add_rows(before, index, to_inputs, outside_xla)
            if sums:
                others = [total + more for total, more in zip(sums[1:], others)]
            # Into the sums, where it happens in place.
            sums = (to_inputs, *others)
            sums = add_targets(sums, part, chunk_targets, slopes, outside_xla)
        return chunk + 1, nll, *sums

    def first():
        return body(sources, tf.constant(0), zeros(targets))

    def none():
        return 1, zeros(targets), *(() if weights is None else map(zeros, present(sources)))

    if isinstance(num_rows, int) and not num_rows:
        # A chunk would look for its rows where there are none.
        return _Result(zeros(targets), () if weights is None else tuple(none()[2:]))
    # The first chunk apart: others are added to its gradients, where a loop from the beginning
    # would need zeros as large as the table, and a pass over them.
    some = isinstance(wanted, int) and wanted > 0
    state = first() if some else tf.cond(wanted > 0, first, none)
    num_chunks = (wanted + chunk_rows - 1) // chunk_rows
    most_chunks = -(-num_rows // chunk_rows)
    if not isinstance(most_chunks, int) or most_chunks > 1:
        # TensorFlow would begin the second while the first still holds its logits.
        with tf.control_dependencies(state[1:]):
            state = (tf.identity(state[0]), *state[1:])

        def more():
            # A copy that waited for this would be there beside the first chunk's gradient.
            again = given._replace(table=tf.cast(given.table, inputs.dtype)) if goes else sources
            return tf.while_loop(
                lambda chunk, *_: chunk < num_chunks,
                lambda *state: body(again, *state),
                state,
                parallel_iterations=1,
                # A bound for XLA, which needs one where this is differentiated: second derivatives.
                maximum_iterations=most_chunks - 1,
            )

        # What is compared is there after the first chunk: the table is not copied before that.
        state = tf.cond(state[0] < num_chunks, more, lambda: state) if goes else more()
    return _Result(state[1], tuple(state[2:]))


def rows_per_chunk(
    num_rows,
    num_columns: int,
    few: bool,
    share: int = 16,
    least: int = 64,
    logits_bytes=None,
    multiple: int = 8,
):
    """How many rows a chunk has, bounded by the memory that their logits take.

    Args:
      num_rows: of all, an int or an int32 scalar.
      num_columns: of the logits.
      few: whether few of the rows are wanted: a chunk is then small beside their number.
      share: the chunk's part of the rows is one of so many, where few are wanted,
      least: but not fewer rows than this.
      logits_bytes: the bound; None means `CHUNK_BYTES`.
      multiple: of how many rows a chunk is made up, where the bound allows that; else of 8.

    Returns:
      An int, or a tensor where the number of rows is known only at run time.
    """
    logits_bytes = CHUNK_BYTES if logits_bytes is None else logits_bytes
    # A sum over more rows than that could leave float16's range.
    most = min(2**15, logits_bytes // (4 * num_columns))
    multiple = multiple if most >= multiple else 8
    most = max(8, most // multiple * multiple)
    least_of, most_of = (min, max) if isinstance(num_rows, int) else (tf.minimum, tf.maximum)
    if few:
        rows = least_of(num_rows, most_of(least, num_rows // share))
    else:
        # Chunks of one size, as the last one is computed whole.
        rows = -(-num_rows // most_of(1, -(-num_rows // most)))
    return least_of(most, most_of(multiple, -(-rows // multiple) * multiple))
