"""Relative positions: which distances there are, their sinusoids, and the shift.

L segment (query) length, M memory length, S = M + L key length, D width, B batch, H heads.
"""

import tensorflow as tf

from transformer_xl.shapes import shape_of


def distances(key_length, clamp_length: int = -1):
    """The distances from the newest query to each key, `S - 1 .. 0`, in the order of the keys.

    Args:
      key_length: `S`.
      clamp_length: the largest distance told apart; -1 for no bound.

    Returns:
      float32 `[S]`.
    """
    falling = tf.range(key_length - 1, -1, -1)
    if clamp_length > 0:
        falling = tf.minimum(falling, clamp_length)
    return tf.cast(falling, tf.float32)


def sinusoids(positions, width: int):
    """Sines, then cosines, of each position at `width / 2` frequencies from 1 to 1/10000.

    Vaswani et al. (2017), section 3.5, in the arrangement of Dai et al. (2019). In float32
    whatever the compute dtype: bfloat16 cannot tell 257 from 256.

    Args:
      positions: float32 `[S]`.
      width: `D`, even.

    Returns:
      float32 `[S, D]`.
    """
    frequencies = 10000.0 ** -(tf.range(0, width, 2, dtype=tf.float32) / width)
    angles = positions[:, None] * frequencies
    return tf.concat([tf.sin(angles), tf.cos(angles)], -1)


def relative_shift(scores_BHLS):
    """Moves each query's scores from distances to keys.

    Column `r` of the input stands for the distance `S - 1 - r`, the same for every query. Query
    `i` stands `L - 1 - i` positions before the newest, so its row moves left by as much; the
    places that become free at the right are keys after the query, which the caller masks: what
    stands there has no meaning.

    Dai et al. (2019), appendix B. With L = 3 queries and S = 3 keys, `ab` for query a and
    distance b:

        02 01 00        00  .  .
        12 11 10   ->   11 10  .
        22 21 20        22 21 20

    Args:
      scores_BHLS: `[B, H, L, S]`.

    Returns:
      `[B, H, L, S]`.
    """
    batch, heads, queries, keys = shape_of(scores_BHLS)
    # One column more makes each row of the flat buffer start one place later than a row of the
    # result, which is the shift.
    padded = tf.pad(scores_BHLS, [[0, 0], [0, 0], [0, 0], [1, 0]])
    padded = tf.reshape(padded, [batch * heads, (keys + 1) * queries])
    # A slice of flat rows: the gradient of `padded[:, :, 1:]` takes six times as long on a CPU.
    shifted = tf.slice(padded, [0, queries], [batch * heads, keys * queries])
    return tf.reshape(shifted, [batch, heads, queries, keys])


def relative_unshift(shifted_BHLS):
    """Moves scores from keys back to distances: the transpose of `relative_shift`, its gradient.

    Args:
      shifted_BHLS: `[B, H, L, S]`, 0 where a key stands after the query.

    Returns:
      `[B, H, L, S]`, 0 for distances that a query has no key at.
    """
    batch, heads, queries, keys = shape_of(shifted_BHLS)
    flat = tf.reshape(shifted_BHLS, [batch * heads, keys * queries])
    padded = tf.reshape(tf.pad(flat, [[0, 0], [queries, 0]]), [batch, heads, queries, keys + 1])
    return tf.slice(padded, [0, 0, 0, 1], [batch, heads, queries, keys])
