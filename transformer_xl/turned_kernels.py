"""The kernels of the blocks, turned for `adaptive.few_rows.product`.

D width, H heads, K head size, F feed-forward width.
"""

from typing import NamedTuple

import tensorflow as tf

from adaptive.few_rows import product


class Turned(NamedTuple):
    """A kernel with its sides changed, and its bias."""

    kernel: tf.Tensor  # [outputs, inputs]
    bias: tf.Tensor  # [outputs]

    def __call__(self, rows):
        """What the layer makes of few rows, `[B, inputs]` to `[B, outputs]`."""
        return product(rows, self.kernel, self.bias)


def turned_kernels(model):
    """Of each block of a `TransformerXL` the pair of its kernels, `Turned`, in the compute dtype.

    Of attention that of queries, keys and values, `[3 * H * K, D]`, and the output's,
    `[D, H * K]`, with biases of zero; of a feed-forward block the inner one, `[F, D]`, and the
    outer one, `[D, F]`. They are copies, to be made once for many tokens.
    """

    def turned(inner, kernels, bias=None):
        kernel = tf.concat([tf.cast(kernel, inner.compute_dtype) for kernel in kernels], 1)
        if bias is None:
            bias = tf.zeros(kernel.shape[1], kernel.dtype)
        return Turned(tf.transpose(kernel), tf.cast(bias, kernel.dtype))

    pairs = []
    for block in model.blocks:
        inner = block.inner
        if block.attends:
            first = turned(inner, (inner.query_kernel, inner.key_value_kernel))
            pairs.append((first, turned(inner, (inner.output_kernel,))))
        else:
            first = turned(inner, (inner.inner_kernel,), inner.inner_bias)
            pairs.append((first, turned(inner, (inner.outer_kernel,), inner.outer_bias)))
    return tuple(pairs)
