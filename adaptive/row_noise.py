"""Random bits that a row's seed alone decides, whatever other rows are drawn beside it.

T rows.
"""

import tensorflow as tf

# Salmon et al. (2011), table 2 and section 3.3: Threefry-2x32, which is good for 13 rounds and
# recommended with 20.
_ROTATIONS = (13, 15, 26, 6, 17, 29, 16, 24)
_ROUNDS = 20
_PARITY = 0x1BD11BDA


def threefry(key, counter):
    """Threefry-2x32 with 20 rounds, Salmon et al. (2011): "Parallel random numbers: as easy as
    1, 2, 3".

    Elementwise, so that one key can stand in each row.

    Args:
      key: the pair of int32 tensors.
      counter: the pair of int32 tensors; all four broadcast.

    Returns:
      The pair of int32 tensors.
    """
    first, second = (tf.bitcast(word, tf.uint32) for word in key)
    keys = (first, second, tf.bitwise.bitwise_xor(tf.bitwise.bitwise_xor(first, second), _PARITY))
    x, y = (tf.bitcast(word, tf.uint32) + key for word, key in zip(counter, keys))
    for round_ in range(_ROUNDS):
        x += y
        left = _ROTATIONS[round_ % 8]
        high, low = tf.bitwise.left_shift(y, left), tf.bitwise.right_shift(y, 32 - left)
        y = tf.bitwise.bitwise_xor(tf.bitwise.bitwise_or(high, low), x)
        if round_ % 4 == 3:
            group = round_ // 4 + 1
            x += keys[group % 3]
            y += keys[(group + 1) % 3] + tf.constant(group, tf.uint32)
    return tf.bitcast(x, tf.int32), tf.bitcast(y, tf.int32)


def fold_in(seeds_T2, first, second=0):
    """Another seed for each row, for each pair of numbers.

    Args:
      seeds_T2: int32 `[T, 2]`.
      first, second: int32 scalars or `[T]`.

    Returns:
      int32 `[T, 2]`.
    """
    key = tf.unstack(seeds_T2, axis=-1)
    counter = (tf.convert_to_tensor(first, tf.int32), tf.convert_to_tensor(second, tf.int32))
    return tf.stack(threefry(key, counter), -1)


def random_bits(seeds_T2, num_columns):
    """int32 `[T, num_columns]` of all values.

    Args:
      seeds_T2: int32 `[T, 2]`.
      num_columns: int or scalar.
    """
    key = [word[:, None] for word in tf.unstack(seeds_T2, axis=-1)]
    return threefry(key, (tf.range(num_columns)[None], tf.zeros([1, 1], tf.int32)))[0]
