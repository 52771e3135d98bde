"""A product of few rows with a large table, in the order in which CPUs compute it fastest.

T rows, E width of the rows, V rows of the table.
"""

import tensorflow as tf

# A product of at most so many rows is faster with the table first.
FEW = 16


def product(rows, table, bias):
    """`rows @ table' + bias`, computed as `table @ rows'`: with few rows, in half the time on CPUs.

    The bias is added before the sides are changed: of a product whose sides are changed XLA would
    make the product of the other order. So it helps also where it is zero, unless XLA knows that.

    Args:
      rows: `[T, E]`.
      table: `[V, E]` of the same dtype.
      bias: `[V]`.

    Returns:
      `[T, V]`.
    """
    return tf.transpose(tf.matmul(table, rows, transpose_b=True) + bias[:, None])
