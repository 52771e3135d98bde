"""What attention makes of queries, keys and values, with a gradient of its own.

B batch, L segment (query) length, S = M + L key length, H heads, K head size.
"""

from typing import NamedTuple

import numpy as np
import tensorflow as tf

from transformer_xl.positions import relative_shift, relative_unshift


class Sources(NamedTuple):
    """What attention is computed of, all of one dtype."""

    content: tf.Tensor  # [B, H, L, K], queries towards the keys' content, scaled
    position: tf.Tensor  # [B, H, L, K], queries towards their distance, scaled
    key: tf.Tensor  # [B, H, S, K]
    distance: tf.Tensor  # [H, S, K] or [B, H, S, K], keys of the distances
    value: tf.Tensor  # [B, H, S, K]


def same(weights):
    """No dropout, for `attend`."""
    return weights


def attend(sources: Sources, visible, drop=same, keep_weights: bool = True):
    """The values, mixed by the softmax of the scores.

    Its gradient is that of Dao et al. (2022), "FlashAttention", appendix B: the sum over the keys
    in the gradient of the softmax is one over the K numbers of the result, and the weights of the
    keys, `[B, H, L, S]`, a layer's largest tensor, can be made a second time instead of kept.

    Args:
      sources: of one layer.
      visible: bool, `[B, 1, L, S]` or a shape that broadcasts to it; of each query some key is, and
        none after the query.
      drop: a linear function that is applied to the weights, the same one whenever it is called:
        dropout from a fixed seed. `same`, the default, is for none.
      keep_weights: False to make the weights again in the backward pass: less memory, more time.
        Masks of dropout may be kept all the same.

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


def _context(sources: Sources, visible, drop):
    """The weights, before they are dropped, and what they make of the values."""
    by_content = tf.matmul(sources.content, sources.key, transpose_b=True)
    by_distance = tf.matmul(sources.position, sources.distance, transpose_b=True)
    weights_BHLS = attention_weights(by_content + relative_shift(by_distance), visible)
    context_BHLK = tf.matmul(drop(weights_BHLS), sources.value)
    return weights_BHLS, tf.transpose(context_BHLK, [0, 2, 1, 3])


def _slopes(sources: Sources, known, upstream, visible, drop):
    """The gradients with respect to the sources, from weights (or None) and result."""

    @tf.custom_gradient
    def fast(upstream, *tensors):
        sources = Sources(*tensors)
        weights_BHLS, context_BLHK = known
        if weights_BHLS is None:
            weights_BHLS, _ = _context(_not_before(upstream, sources), visible, drop)
        slopes = _of_sources(sources, weights_BHLS, context_BLHK, upstream, drop)

        def gradient(*upstreams):
            arguments = (upstream, *tensors)
            with tf.GradientTape() as tape:
                tape.watch(arguments)
                again = _of_sources(sources, *_context(sources, visible, drop), upstream, drop)
            return tape.gradient(again, arguments, output_gradients=upstreams)

        return slopes, gradient

    return fast(upstream, *sources)


def _not_before(upstream, sources: Sources):
    """The sources, but queries that wait for the gradient, of which the weights are then made.

    They would be made in the forward pass otherwise, and kept. A zero that is made of the gradient
    and not a control dependency, which XLA does not know.
    """
    flag = tf.reduce_any(tf.cast(upstream[:1, :1, :1, :1], tf.bool))
    zero = tf.where(tf.equal(flag, flag), 0.0, np.nan)
    zero = tf.cast(zero, upstream.dtype)
    return sources._replace(content=sources.content + zero, position=sources.position + zero)


def _of_sources(sources: Sources, weights_BHLS, context_BLHK, upstream_BLHK, drop):
    dtype = upstream_BLHK.dtype
    wide = tf.float32 if dtype.size == 2 else dtype
    shared_BLHK = tf.cast(upstream_BLHK, wide) * tf.cast(context_BLHK, wide)
    shared = tf.transpose(tf.reduce_sum(shared_BLHK, -1, keepdims=True), [0, 2, 1, 3])
    upstream = tf.transpose(upstream_BLHK, [0, 2, 1, 3])
    to_value = tf.matmul(drop(weights_BHLS), upstream, transpose_a=True)
    if drop is same and dtype.size == 2:
        # What is shared by all keys is subtracted by the product, with one column more on both
        # sides, instead of passes over the largest tensors. It is made of a rounded result already,
        # so that rounding it adds little.
        rows = tf.concat([upstream, tf.cast(-shared, dtype)], -1)
        values = tf.concat([sources.value, tf.ones_like(sources.value[..., :1])], -1)
        to_scores = weights_BHLS * tf.matmul(rows, values, transpose_b=True)
    else:
        to_weights = drop(tf.matmul(upstream, sources.value, transpose_b=True))
        to_scores = tf.cast(weights_BHLS, wide) * (tf.cast(to_weights, wide) - shared)
        to_scores = tf.cast(to_scores, dtype)
    to_distances = relative_unshift(to_scores)
    to_distance = tf.matmul(to_distances, sources.position, transpose_a=True)
    if sources.distance.shape.rank == 3:
        to_distance = tf.reduce_sum(to_distance, 0)
    return Sources(
        content=tf.matmul(to_scores, _centred(sources.key)),
        position=tf.matmul(to_distances, _centred(sources.distance)),
        key=tf.matmul(to_scores, sources.content, transpose_a=True),
        distance=to_distance,
        value=to_value,
    )


def _centred(keys):
    """Keys less what they share, about, which adds nothing: a query's slopes add up to 0.

    What rounding leaves of that sum would be multiplied by it. The mean of some keys will do, and
    is made in less time.
    """
    some = keys[..., -32:, :]
    wide = tf.cast(some, tf.float32) if keys.dtype.size == 2 else some
    return keys - tf.cast(tf.reduce_mean(wide, -2, keepdims=True), keys.dtype)
