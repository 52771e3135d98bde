"""What attention makes of queries, keys and values, with a gradient of its own.

B batch, L segment (query) length, S = M + L key length, H heads, K head size.
"""

from typing import NamedTuple

import tensorflow as tf

from transformer_xl.positions import relative_shift, relative_unshift
from transformer_xl.shapes import shape_of
from transformer_xl.waiting import zero_after

_CENTRED = 32  # keys whose mean stands for what all share


class Sources(NamedTuple):
    """What attention is computed of, all of one dtype."""

    query: tf.Tensor  # [B, H, L, K], scaled like the biases
    content_bias: tf.Tensor  # [H, 1, K], added to the query towards the keys' content
    position_bias: tf.Tensor  # [H, 1, K], added to the query towards their distance
    key: tf.Tensor  # [B, H, S, K]
    distance: tf.Tensor  # [H, S, K] or [B, H, S, K], keys of the distances
    value: tf.Tensor  # [B, H, S, K]


def same(values, weights):
    """No dropout, for `attend`."""
    del weights
    return values


def attend(sources: Sources, visible, drop=same, keep_weights: bool = True):
    """The values, mixed by the softmax of the scores.

    Its gradient is that of Dao et al. (2022), "FlashAttention", appendix B: the sum over the keys
    in the gradient of the softmax is one over the K numbers of the result, and the weights of the
    keys, `[B, H, L, S]`, a layer's largest tensor, can be made a second time instead of kept. Of
    queries and biases not the sums are kept but what they are made of, half as much.

    Args:
      sources: of one layer.
      visible: bool, `[B, 1, L, S]` or a shape that broadcasts to it; of each query some key is, and
        none after the query.
      drop: a function of values and weights, `[B, H, L, S]` both, that multiplies each value by a
        number of its place, the same one whenever it is called: dropout from a fixed seed. Of the
        weights it may know only when they are made. `same`, the default, is for no dropout.
      keep_weights: False to make the weights again in the backward pass: less memory, more time.

    Returns:
      `[B, L, H, K]`, the layout that the next product reads: kept once for both gradients.
    """

    @tf.custom_gradient
    def mixed(*tensors):
        weights_BHLS, context_BLHK = _context(Sources(*tensors), visible, drop)

        # The gradient may hold nothing more, or eager calls would keep it.
        known = (weights_BHLS if keep_weights else None, context_BLHK)

        def gradient(upstream):
            return _slopes(Sources(*tensors), known, upstream, visible, drop)

        return context_BLHK, gradient

    return mixed(*sources)


def attention_weights(scores_BHLS, visible):
    """The softmax of scores over the keys that are visible, in the dtype of the scores.

    Args:
      scores_BHLS: `[B, H, L, S]`.
      visible: bool, `[B, 1, L, S]` or a shape that broadcasts to it; of each query some key is.

    Returns:
      `[B, H, L, S]`; 0 where not visible.
    """
    # A sum and not a choice, which would need another array.
    unseen = tf.where(visible, 0.0, -1e30)
    # Float32, since the sum over many keys decides probabilities.
    wide = tf.cast(scores_BHLS, tf.float32) if scores_BHLS.dtype.size == 2 else scores_BHLS
    return tf.cast(tf.nn.softmax(wide + tf.cast(unseen, wide.dtype)), scores_BHLS.dtype)


def _queries(sources: Sources):
    """Towards content and towards distance."""
    return sources.query + sources.content_bias, sources.query + sources.position_bias


def _context(sources: Sources, visible, drop):
    """The weights, before they are dropped, and what they make of the values."""
    content, position = _queries(sources)
    by_content = tf.matmul(content, sources.key, transpose_b=True)
    # What is kept takes memory before what is let go of: the other way round a gap is left in front
    # of it, and smaller tensors go into that (docs/decisions/0015).
    with tf.control_dependencies([by_content]):
        by_distance = tf.matmul(position, sources.distance, transpose_b=True)
    weights_BHLS = attention_weights(by_content + relative_shift(by_distance), visible)
    context_BHLK = tf.matmul(drop(weights_BHLS, weights_BHLS), sources.value)
    return weights_BHLS, tf.transpose(context_BHLK, [0, 2, 1, 3])


def _slopes(sources: Sources, known, upstream, visible, drop):
    """The gradients with respect to the sources, from weights (or None) and result."""

    @tf.custom_gradient
    def fast(upstream, *tensors):
        # Without it what is made of the sources alone would be made in the forward pass, and kept.
        zero = zero_after(upstream)
        sources = Sources(*tensors)
        sources = sources._replace(
            content_bias=sources.content_bias + zero, position_bias=sources.position_bias + zero
        )
        weights_BHLS, context_BLHK = known
        if weights_BHLS is None:
            weights_BHLS, _ = _context(sources, visible, drop)
        slopes = _of_sources(sources, weights_BHLS, context_BLHK, upstream, visible, drop, zero)

        def gradient(*upstreams):
            arguments = (upstream, *tensors)
            with tf.GradientTape() as tape:
                tape.watch(arguments)
                sources = Sources(*tensors)
                context = _context(sources, visible, drop)
                again = _of_sources(sources, *context, upstream, visible, drop, zero)
            return tape.gradient(again, arguments, output_gradients=upstreams)

        return slopes, gradient

    return fast(upstream, *sources)


def _of_sources(sources: Sources, weights_BHLS, context_BLHK, upstream_BLHK, visible, drop, zero):
    dtype = upstream_BLHK.dtype
    wide = tf.float32 if dtype.size == 2 else dtype
    shared_BLHK = tf.cast(upstream_BLHK, wide) * tf.cast(context_BLHK, wide)
    shared = tf.transpose(tf.reduce_sum(shared_BLHK, -1, keepdims=True), [0, 2, 1, 3])
    upstream = tf.transpose(upstream_BLHK, [0, 2, 1, 3])
    to_value = tf.matmul(drop(weights_BHLS, weights_BHLS), upstream, transpose_a=True)
    if drop is same and dtype.size == 2:
        # What is shared by all keys is subtracted by the product, with one column more on both
        # sides, instead of passes over the largest tensors. It is made of a rounded result already,
        # so that rounding it adds little.
        rows = tf.concat([upstream, tf.cast(-shared, dtype)], -1)
        values = tf.concat([sources.value, tf.ones_like(sources.value[..., :1]) + zero], -1)
        to_scores = weights_BHLS * tf.matmul(rows, values, transpose_b=True)
    else:
        to_weights = tf.matmul(upstream, sources.value, transpose_b=True)
        to_weights = drop(to_weights, weights_BHLS)
        to_scores = tf.cast(weights_BHLS, wide) * (tf.cast(to_weights, wide) - shared)
        to_scores = tf.cast(to_scores, dtype)
    content, position = _queries(sources)
    to_distances = relative_unshift(to_scores)
    to_distance = tf.matmul(to_distances, position, transpose_a=True)
    if sources.distance.shape.rank == 3:
        to_distance = tf.reduce_sum(to_distance, 0)
    to_content = tf.matmul(to_scores, _centred(sources.key, visible, zero))
    to_position = tf.matmul(to_distances, _centred(sources.distance, visible, zero))
    return Sources(
        query=to_content + to_position,
        content_bias=_over_queries(to_content),
        position_bias=_over_queries(to_position),
        key=tf.matmul(to_scores, content, transpose_a=True),
        distance=to_distance,
        value=to_value,
    )


def _over_queries(slopes_BHLK):
    """The sum, `[H, 1, K]`."""
    # Over L first, then over a few rows: both at once take twice as long on a CPU.
    return tf.reduce_sum(tf.reduce_sum(slopes_BHLK, 2, keepdims=True), 0)


def _centred(keys, visible, zero):
    """Keys less what they share, about, which adds nothing: a query's slopes add up to 0.

    What rounding leaves of that sum would be multiplied by it. The mean of some keys will do, and
    is made in less time. In 16 bits those count that the last query sees: where memory is empty,
    the others' mean is another. Its row of scores has distances and keys in the same order.
    """
    some = keys[..., -_CENTRED:, :]
    if keys.dtype.size == 2:
        seen = tf.cast(visible[..., -1, -_CENTRED:, None], keys.dtype) + zero
        seen = tf.cast(seen, tf.float32) + tf.zeros_like(some[..., :1], tf.float32)
        if keys.shape.rank == 3:  # one for all rows of the batch, which may see others
            seen = tf.reshape(seen, [-1, *shape_of(seen)[-3:]])
            seen = tf.reduce_sum(seen, 0)
        total = tf.reduce_sum(tf.cast(some, tf.float32) * seen, -2, keepdims=True)
        # 0 where none of them is seen, as of a row that ends in padding.
        mean = tf.math.divide_no_nan(total, tf.reduce_sum(seen, -2, keepdims=True))
        return keys - tf.cast(mean, keys.dtype)
    return keys - (tf.reduce_mean(some, -2, keepdims=True) + zero)
