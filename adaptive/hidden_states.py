"""Checks of what the heads are given, and targets as the losses need them.

T tokens after flattening, D width of the hidden states, V vocabulary.
"""

import numbers
from typing import NamedTuple

import keras
import numpy as np
import tensorflow as tf

from .dense_tensors import as_tensor, refuse_uneven
from .wide_ids import widened


class Examples(NamedTuple):
    """Hidden states with their targets."""

    features: tf.Tensor  # [T, D], in the compute dtype
    weights: tf.Tensor | None  # float32 [T], what each target counts for, where that is given
    ranks: tf.Tensor  # int32 [T], of the targets; 0 where there is none to learn
    ignored: tf.Tensor | None  # bool [T]; None if no target can be
    shape: tf.Tensor  # of the targets


def examples(head, hidden, targets, weights=None) -> Examples:
    """Flattens hidden states and targets, and makes targets that are no ids harmless or loud.

    Args:
      head: with `clusters`, `id_order`, `ignore_index`, `compute_dtype` and `tail_share`.
      hidden: a tensor `[..., D]`, checked.
      targets: int `[...]`.
      weights: float32 `[...]`, 0 where targets are ignored; None where all count alike.

    Raises:
      ValueError: as `nll` of the heads.
    """
    targets = as_targets(targets, head.ignore_index)
    leading = "the hidden states without the last axis"
    targets = fitted("targets", targets, leading, hidden, -1)
    shape = tf.shape(targets)
    targets = tf.reshape(targets, [-1])
    ignored = None if head.ignore_index is None else targets == head.ignore_index
    looked_at = not tf.is_symbolic_tensor(targets) and tf.executing_eagerly()
    if looked_at:
        real = targets if ignored is None else tf.boolean_mask(targets, ~ignored)
        head.clusters.check_ids(real, f"The targets of {type(head).__name__}")
    features = flat_features(head, hidden)
    weights = None if weights is None else tf.reshape(weights, [-1])
    if ignored is not None or not looked_at:
        # Compiled code cannot raise. NaN in the place of the weight, or of the hidden state,
        # reaches the loss and every gradient, where a clipped target would be learned in silence.
        outside = head.clusters.outside(targets)
        wrong = outside if ignored is None else outside & ~ignored
        if weights is not None:
            weights = tf.where(wrong, np.float32(np.nan), weights)
        else:
            nan = tf.constant(np.nan, features.dtype)
            features = tf.where(wrong[:, None], nan, features)
        if ignored is not None:
            # Zeros, since what stands at ignored places may be anything.
            features = tf.where(ignored[:, None], tf.zeros([], features.dtype), features)
            outside |= ignored
        targets = tf.where(outside, tf.zeros_like(targets), targets)
    ranks = head.id_order.to_ranks(tf.cast(targets, tf.int32))
    if looked_at:
        seen = np.asarray(ranks if ignored is None else tf.boolean_mask(ranks, ~ignored))
        head.tail_share.add(seen.size, int(np.count_nonzero(seen >= head.clusters.shortlist)))
    return Examples(features, weights, ranks, ignored, shape)


def as_targets(targets, ignore_index=None):
    """Targets as int32 or int64, which can be compared with any id and with `ignore_index`.

    Raises:
      ValueError: if they are no integers.
    """
    targets = as_tensor(targets, "Targets")
    if not targets.dtype.is_integer:
        raise ValueError(f"Targets must be integer ids. Received: dtype {targets.dtype}.")
    return widened(targets, ignore_index)


def check_label_settings(ignore_index, label_smoothing):
    """Raises ValueError for settings of a head that are outside their rule."""
    if not isinstance(label_smoothing, numbers.Real) or not 0 <= label_smoothing < 1:
        raise ValueError(
            f"label_smoothing must be a number from 0 to below 1. Received: {label_smoothing!r}."
        )
    if ignore_index is not None and not isinstance(ignore_index, numbers.Integral):
        raise ValueError(f"ignore_index must be an integer or None. Received: {ignore_index!r}.")


def check_k(k, vocab_size: int):
    """Raises ValueError for a number of ids that a vocabulary does not have."""
    number = _number(k)
    if not _is_whole(number) or not 1 <= number <= vocab_size:
        raise ValueError(f"k must be an integer from 1 to {vocab_size}. Received: k={k!r}.")


def check_sampling(temperature, top_k, top_p):
    """Raises ValueError for settings of a draw that are outside their rule."""
    temperature, top_k, p = _number(temperature), _number(top_k), _number(top_p)
    for rule, value, fine in (
        (
            "temperature must be a number of at least 0",
            temperature,
            isinstance(temperature, numbers.Real) and temperature >= 0,
        ),
        (
            "top_k must be an integer of at least 1, or None",
            top_k,
            top_k is None or (_is_whole(top_k) and top_k >= 1),
        ),
        (
            "top_p must be a number above 0 and at most 1, or None",
            p,
            p is None or (isinstance(p, numbers.Real) and 0 < p <= 1),
        ),
    ):
        if not fine:
            of_python = " Pass a number of Python." if tf.is_tensor(value) else ""
            raise ValueError(f"{rule}. Received: {value!r}.{of_python}")


def checked_seed(seed, own):
    """The seed as a tensor `[2]`, or `own`, two numbers for each hidden state.

    Raises:
      ValueError: for another shape or dtype.
    """
    given = tf.constant(0.0) if seed is None else tf.convert_to_tensor(seed)
    if tuple(given.shape) not in ((2,), own) or not given.dtype.is_integer:
        received = "None" if seed is None else f"shape {given.shape}, dtype {given.dtype}"
        raise ValueError(
            "A seed must be two integers, shape [2], or two for each hidden state. "
            f"Received: {received}."
        )
    return given


def _number(value):
    """What a scalar array or an eager tensor holds; anything else as it is."""
    held = isinstance(value, np.ndarray) or tf.is_tensor(value)
    if held and not tf.is_symbolic_tensor(value) and not len(value.shape):
        return np.asarray(value).item()
    return value


def _is_whole(value) -> bool:
    return isinstance(value, numbers.Integral) and not isinstance(value, bool)


def flat_features(head, hidden):
    """Hidden states as `[T, D]` in the head's compute dtype."""
    return tf.cast(tf.reshape(hidden, [-1, head.width]), head.compute_dtype)


def refuse_symbolic(head, hidden):
    """Raises ValueError for a symbolic tensor."""
    if isinstance(hidden, keras.KerasTensor):
        raise ValueError(
            f"The methods of {type(head).__name__} compute on tensors, not on the symbolic "
            "tensors of a functional model. Call the layer itself there, or, to train by its "
            "loss, wrap backbone and head in a SoftmaxModel. Received: a KerasTensor."
        )


def check_width(head, hidden):
    """Raises ValueError for anything but hidden states of the head's width."""
    refuse_uneven(hidden, "Hidden states")
    if not tf.as_dtype(hidden.dtype).is_floating:
        raise ValueError(
            f"{type(head).__name__} takes hidden states, not ids. Received: dtype {hidden.dtype}."
        )
    if not len(hidden.shape) or head.width not in (None, hidden.shape[-1]):
        raise ValueError(
            f"Hidden states must be input_dim={head.width} wide. Received: shape {hidden.shape}."
        )


def fitted(name, tensor, other_name, other, axes=None):
    """The tensor, whose shape is surely that of another's first axes.

    Sizes that are known only when it runs are compared then: otherwise one number would stand for
    all, and numbers in another order would be taken for right.

    Args:
      name: of the tensor.
      tensor: whose shape is in question.
      other_name: what its shape must be that of.
      other: a tensor.
      axes: how many of the other's axes count; None for all, -1 for all but the last.

    Raises:
      ValueError: where static shapes differ. Others are an InvalidArgumentError when it runs.
    """
    static = other.shape[:axes]
    check_same_shape(name, tensor.shape, other_name, static)
    if tensor.shape.is_fully_defined() and static.is_fully_defined():
        return tensor
    sizes, wanted = tf.shape(tensor), tf.shape(other)[:axes]
    rule = f"{name} must have the shape of {other_name}. Received: {name}"
    received = [rule, sizes, other_name, wanted]
    ranks = [shape.rank for shape in (tensor.shape, static)]
    if None in ranks:
        checks = [tf.debugging.assert_equal(sizes, wanted, rule)]
    else:
        # Number by number, all on the host: nothing waits for a GPU.
        unsure = [i for i, pair in enumerate(zip(tensor.shape, static)) if None in pair]
        checks = [tf.debugging.Assert(tf.equal(sizes[i], wanted[i]), received) for i in unsure]
    with tf.control_dependencies(checks):
        # XLA leaves assertions out; this it refuses, unless one number stands for all.
        same = tf.broadcast_to(tensor, wanted)
    same.set_shape(tensor.shape)
    return same


def check_same_shape(name, shape, other_name, other):
    """Raises ValueError where two shapes cannot be the same."""
    if not shape.is_compatible_with(other):
        raise ValueError(
            f"{name} must have the shape of {other_name}. "
            f"Received: {name} {shape}, {other_name} {other}."
        )


def check_linear(hidden, table, bias, targets):
    """The targets; raises a `ValueError` where the tensors do not fit each other."""
    dtypes = [one.dtype for one in (hidden, table, bias) if one is not None]
    if not all(dtype.is_floating for dtype in dtypes) or not targets.dtype.is_integer:
        raise ValueError(
            "hidden, table and bias must be floating, targets integer ids. Received: dtypes "
            f"{[dtype.name for dtype in dtypes]}, targets {targets.dtype.name}."
        )
    if len(table.shape) != 2 or None in table.shape or not len(hidden.shape):
        raise ValueError(
            "hidden must be [..., D] and table [V, D], of known sizes. "
            f"Received: {hidden.shape}, {table.shape}."
        )
    num_classes, width = table.shape
    if hidden.shape[-1] != width:
        raise ValueError(
            f"table must be [V, D] with the D of hidden, {hidden.shape[-1]}; a dense layer's "
            f"kernel is the transpose of that. Received: table {table.shape}."
        )
    if bias is not None and bias.shape != (num_classes,):
        raise ValueError(
            f"bias must be [{num_classes}], a number for each row of the table. "
            f"Received: {bias.shape}."
        )
    return fitted("targets", targets, "hidden without the last axis", hidden, -1)


def weighted_targets(targets, sample_weight, num_classes: int):
    """Flat targets and what each counts for, which is NaN for no id in compiled code.

    Args:
      targets: int `[...]`.
      sample_weight: float `[...]`, or None for 1.
      num_classes: V.

    Returns:
      The pair of int32 `[T]`, from 0 to V - 1, and float32 `[T]`, without a gradient.

    Raises:
      ValueError: if the shapes differ, or, in eager calls, for ids outside the vocabulary.
    """
    weights = tf.ones(tf.shape(targets))
    if sample_weight is not None:
        weights = tf.cast(as_tensor(sample_weight, "sample_weight"), tf.float32)
        weights = tf.stop_gradient(fitted("sample_weight", weights, "targets", targets))
    targets = widened(targets)
    outside = (targets < 0) | (targets >= num_classes)
    if tf.executing_eagerly():
        if np.any(outside):
            wrong = np.asarray(targets)[np.asarray(outside)]
            raise ValueError(f"Targets must be from 0 to {num_classes - 1}. Received: {wrong[0]}.")
    else:
        # Compiled code cannot raise: what a row counts for reaches the loss and every gradient.
        weights = tf.where(outside, np.float32(np.nan), weights)
        targets = tf.where(outside, tf.zeros_like(targets), targets)
    return tf.cast(tf.reshape(targets, [-1]), tf.int32), tf.reshape(weights, [-1])
