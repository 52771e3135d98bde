"""Rows of a table: with a gradient that has each row once, and added to in place.

T ids after flattening, V rows of the table, E their width.
"""

import tensorflow as tf


def rows_of(table, ids):
    """`tf.gather(table, ids)`, whose gradient gives each id one row, the sum of its tokens'.

    A plain gather gives each token a row. Clipping by the global norm then squares rows that
    belong to the same id one by one, `(a**2 + b**2)` for `(a + b)**2`, and clips by another norm
    than the gradient's. Here the sum stands at one of the tokens and zeros at the others, so that
    shapes stay static.

    Args:
      table: `[V, ...]`, a tensor.
      ids: int32 `[...]`, from 0 to V - 1.

    Returns:
      `[..., ...]`, a row for each id.
    """
    ids = tf.convert_to_tensor(ids)

    @tf.custom_gradient
    def gather(table):
        def gradient(upstream):
            values = tf.reshape(upstream, [-1, *table.shape[1:]])
            return each_row_once(tf.IndexedSlices(values, tf.reshape(ids, [-1]), tf.shape(table)))

        return tf.gather(table, ids), gradient

    return gather(table)


def each_row_once(slices):
    """The same sum of rows, in which no row of the table has more than one that is not 0.

    The gradient of a table that is looked at twice, or by a plain gather, has several rows of one
    id. Keras' optimizers square them one by one, and clip by the norm of them all.

    Args:
      slices: `tf.IndexedSlices` of N rows, indices from 0 to V - 1.

    Returns:
      `tf.IndexedSlices` of N rows, indices int32 or int64 as they were: sums and rows of zeros.
    """
    order = tf.argsort(slices.indices)
    rising = tf.gather(slices.indices, order)
    new = tf.cast(rising[1:] != rising[:-1], tf.int32)
    # The number of different ids before: rows of one id share it.
    group = tf.concat([tf.zeros_like(order[:1]), tf.cumsum(new)], 0)
    count = tf.shape(slices.indices)[0]
    sums = tf.math.unsorted_segment_sum(tf.gather(slices.values, order), group, count)
    of_group = tf.math.unsorted_segment_max(rising, group, count)
    return tf.IndexedSlices(sums, tf.maximum(of_group, 0), slices.dense_shape)


def add_rows(table, ids, values, outside_xla: bool):
    """The table with `values[t]` added to its row `ids[t]`.

    Args:
      table: `[V, ...]`.
      ids: int32 `[T]`, from 0 to V - 1.
      values: `[T, ...]`.
      outside_xla: True where XLA surely does not compile the caller. What XLA does in place,
        TensorFlow's `tensor_scatter_nd_add` does on a copy of the whole table; the operation that
        copies only a table that is needed again is one that XLA does not have.
    """
    places = ids[:, None]
    if outside_xla:
        return tf.raw_ops.ScatterNdNonAliasingAdd(input=table, indices=places, updates=values)
    return tf.tensor_scatter_nd_add(table, places, values)
