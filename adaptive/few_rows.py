"""A product of few rows with a large table, in the order in which CPUs compute it fastest.

T rows, E width of the rows, V rows of the table.
"""

import tensorflow as tf

# A product of at most so many rows is faster with the table first.
FEW = 16

# XLA on CPUs lets cores share a single row's product with a kernel of more numbers than these
# (docs/decisions/0012), where its columns are a multiple of a vector's width.
_OF_ONE_CORE = 512 * 1024
_VECTOR = 16
# Zeros are read for it up to this share of a kernel: a choice, 4 percent were measured.
_UNUSED = 1 / 8


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
    """`row @ kernel`, which XLA on CPUs computes apart from what is added to it.

    Args:
      row: `[1, E]`.
      kernel: `[E, N]` of the same dtype.

    Returns:
      `[1, N]`.
    """
    return on_all_cores(tf.matmul(row, kernel), 1)


def shared_width(num_rows: int, num_columns: int) -> int:
    """So many columns a kernel should have for a single row: more, if that lets cores share it."""
    least = -(-(_OF_ONE_CORE + 1) // num_rows)
    least += -least % _VECTOR
    few_more = num_columns < least <= num_columns * (1 + _UNUSED)
    return least if few_more else num_columns
