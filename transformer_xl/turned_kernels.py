"""Copies of the blocks' kernels, laid out as CPUs read them fastest for one row or few.

D width, H heads, K head size, F feed-forward width.
"""

from typing import NamedTuple

import tensorflow as tf

from adaptive.few_rows import product, shared_width, single_row_product


class Turned(NamedTuple):
    """A kernel with its sides changed, and its bias."""

    kernel: tf.Tensor  # [outputs, inputs]
    bias: tf.Tensor  # [outputs]

    def __call__(self, rows):
        """What the layer makes of few rows, `[B, inputs]` to `[B, outputs]`."""
        return product(rows, self.kernel, self.bias)


class Joined(NamedTuple):
    """Kernels of the same inputs side by side, and columns of zeros that let cores share them."""

    kernel: tf.Tensor  # [inputs, outputs and more]

    def __call__(self, row):
        """What the layers make of a single row, and zeros: `[1, inputs]` to `[1, columns]`."""
        return single_row_product(row, self.kernel)


def kernels_for_one_row(model):
    """Of each block of a `TransformerXL` the pair of its kernels, in the compute dtype.

    A single row's product takes the least time with a kernel whose longer side is the last. So of
    attention the kernels of queries, keys and values stand side by side, `[D, 3 * H * K or more]`,
    and of a feed-forward block the outer kernel is turned, `[D, F]`. () stands for the layer's
    own, where that is as it should be. They are copies, to be made once for many tokens.
    """
    pairs = []
    for block in model.blocks:
        inner = block.inner
        if block.attends:
            kernels = [tf.cast(one, inner.compute_dtype) for one in _read_together(inner)]
            kernel = tf.concat(kernels, 1)
            rows, columns = kernel.shape
            unused = shared_width(rows, columns) - columns
            pairs.append((Joined(tf.pad(kernel, [[0, 0], [0, unused]])), ()))
        elif inner.feed_forward_dim > inner.width:
            pairs.append(((), _turned(inner, (inner.outer_kernel,), inner.outer_bias)))
        else:
            pairs.append(((), ()))
    return tuple(pairs)


def turned_kernels(model):
    """The same for few rows: every kernel turned, attention's with biases of zero.

    Of attention that of queries, keys and values, `[3 * H * K, D]`, and the output's,
    `[D, H * K]`; of a feed-forward block the inner one, `[F, D]`, and the outer one, `[D, F]`.
    """
    pairs = []
    for block in model.blocks:
        inner = block.inner
        if block.attends:
            first = _turned(inner, _read_together(inner))
            pairs.append((first, _turned(inner, (inner.output_kernel,))))
        else:
            first = _turned(inner, (inner.inner_kernel,), inner.inner_bias)
            pairs.append((first, _turned(inner, (inner.outer_kernel,), inner.outer_bias)))
    return tuple(pairs)


def _read_together(attention):
    return attention.query_kernel, attention.key_value_kernel


def _turned(inner, kernels, bias=None):
    kernel = tf.concat([tf.cast(kernel, inner.compute_dtype) for kernel in kernels], 1)
    if bias is None:
        bias = tf.zeros(kernel.shape[1], kernel.dtype)
    return Turned(tf.transpose(kernel), tf.cast(bias, kernel.dtype))
