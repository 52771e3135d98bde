"""A product of few rows with a large table, in the order in which CPUs compute it fastest.

T rows, E width of the rows, V rows of the table.
"""

import tensorflow as tf

# A product of at most so many rows is faster with the table first.
FEW = 16

# With a kernel of so many numbers two rows take XLA on CPUs less time than one, which it seems to
# leave to one core: that does not read memory as fast as two (docs/decisions/0012).
_ONE_CORE = range(410 * 410, 512 * 1024 + 1)


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
    products = on_all_cores(tf.matmul(table, rows, transpose_b=True), rows.shape[0])
    return tf.transpose(products + bias[:, None])


def on_all_cores(products, num_rows: int | None):
    """Products that something is to be added to, so that XLA on CPUs computes them on all cores.

    It makes one loop of the product of a single row and an addition, which one core goes through;
    of a product alone a task for all of them. A maximum with the least number stands between, and
    changes nothing but an infinity below 0.

    Args:
      products: a float tensor.
      num_rows: of the factor that is not a table; None where that is not known.
    """
    if num_rows != 1 or tf.config.list_logical_devices("GPU"):
        return products
    return tf.maximum(products, products.dtype.min)


def single_row_product(row, kernel):
    """`row @ kernel`, with a row of zeros beside it where XLA takes less time for two rows.

    That is so for kernels of middle size in float32 on CPUs.

    Args:
      row: `[1, E]`.
      kernel: `[E, N]` of the same dtype.

    Returns:
      `[1, N]`.
    """
    of_size = row.dtype == tf.float32 and kernel.shape.num_elements() in _ONE_CORE
    if not of_size or tf.config.list_logical_devices("GPU"):
        return tf.matmul(row, kernel)
    products = tf.matmul(tf.pad(row, [[0, 1], [0, 0]]), kernel)
    return on_all_cores(products, 1)[:1]
