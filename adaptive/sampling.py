"""Draws ids from a softmax in clusters, computing only the clusters that are drawn from.

T tokens, D width of the hidden states, V vocabulary, C clusters.
"""

import tensorflow as tf

from . import factored, row_noise
from .clusters import Clusters
from .cross_entropy import rows_per_chunk
from .id_order import IdOrder
from .search import in_chunks, search


def draw(
    features,
    linears: tuple[factored.Linear, ...],
    clusters: Clusters,
    order: IdOrder,
    seed,
    temperature: float,
    top_k: int | None,
    top_p: float | None,
    bounds=None,
):
    """One id for each token.

    Args:
      features: `[T, D]` in the compute dtype.
      linears: one for each cluster.
      clusters: of the vocabulary.
      order: of the ids.
      seed: int `[2]`, or `[T, 2]`, one for each token.
      temperature: above 0.
      top_k, top_p: None for no bound.
      bounds: of each tail, for `search`, where they are known already.

    Returns:
      int32 `[T]`.
    """
    seed = tf.cast(seed, tf.int32)
    if top_k is not None and top_k < clusters.vocab_size:
        best = search(features, linears, clusters, order, top_k, bounds=bounds).best
        return _draw_sorted(best.log_probabilities / temperature, best.ids, seed, top_p)
    if top_p is not None and top_p < 1:
        log_prob = order.columns_by_id(factored.log_prob(features, linears, clusters))
        return draw_from(log_prob, seed, temperature, None, top_p)
    if temperature != 1 and clusters.num_tails:
        # What a tail weighs at this temperature is known only from all its words.
        log_prob = factored.log_prob(features, linears, clusters)
        return order.to_ids(_draw_column(log_prob / temperature, seed))
    return order.to_ids(_draw_by_cluster(features, linears, clusters, seed, temperature))


def _draw_by_cluster(features, linears, clusters, seed, temperature):
    """A column of the head, then, where it is a tail's, a word of that tail."""
    num_rows = features.shape[0] if features.shape[0] is not None else tf.shape(features)[0]
    # Random, so that what is added to it does not lead to another call's seed. Not by
    # `stateless_fold_in`, which gives something else inside XLA.
    own = seed.shape.rank == 2
    base = row_noise.fold_in(seed, 0) if own else _random_bits([2], seed)

    def within(i):
        def compute(index, start, _):
            logits, columns = factored.logits_of(tf.gather(features, index), linears[i])
            if columns is not None:
                logits = tf.concat([logits, columns], -1)
            # A token's own seed must not know where in a chunk it stands.
            chunk_seed = tf.gather(base, index) + [i, 0] if own else base + tf.stack([i, start])
            return [clusters.starts[i] + _draw_column(logits / temperature, chunk_seed)]

        return compute

    shortlist = clusters.shortlist
    size = rows_per_chunk(num_rows, shortlist + clusters.num_tails, few=False)
    state = [tf.zeros([num_rows], tf.int32)]
    everyone = tf.range(num_rows)
    (drawn,) = in_chunks(within(0), state, everyone, num_rows, size)
    column = drawn
    for i in range(1, clusters.num_clusters):
        wanted = column == shortlist + i - 1
        count = tf.reduce_sum(tf.cast(wanted, tf.int32))
        first = tf.argsort(tf.cast(~wanted, tf.int32), stable=True)
        size = rows_per_chunk(num_rows, clusters.sizes[i], few=True, least=8)
        (drawn,) = in_chunks(within(i), [drawn], first, count, size)
    return drawn


def _draw_sorted(logits, ids, seed, top_p):
    """A draw from the first columns of falling logits, whose probabilities add up to p."""
    if top_p is not None and top_p < 1:
        # An id stays if those before it do not yet add up to p; so the first always does.
        before = tf.cumsum(tf.nn.softmax(logits), axis=-1, exclusive=True)
        logits = tf.where(before < top_p, logits, float("-inf"))
    column = _draw_column(logits, seed)
    return tf.gather(ids, column[:, None], batch_dims=1)[:, 0]


def draw_from(log_prob, seed, temperature: float, top_k: int | None, top_p: float | None):
    """An id for each row of log-probabilities, which need not be normalised.

    Args:
      log_prob: float32 `[T, V]`, by id.
      seed: int `[2]`, or `[T, 2]`, one for each row.
      temperature: divides them; 0 takes the likeliest id.
      top_k, top_p: as `SoftmaxHead.sample`.

    Returns:
      int32 `[T]`.
    """
    if temperature == 0:
        return tf.argmax(log_prob, -1, output_type=tf.int32)
    seed, logits = tf.cast(seed, tf.int32), log_prob / temperature
    vocab_size = log_prob.shape[-1]
    if (top_k is None or top_k >= vocab_size) and (top_p is None or top_p >= 1):
        return _draw_column(logits, seed)
    logits, ids = tf.math.top_k(logits, min(top_k or vocab_size, vocab_size))
    return _draw_sorted(logits, ids, seed, top_p)


def gumbel(shape, seed):
    """Gumbel noise, float32: with it, the largest of `logits + noise` is a draw of softmax.

    From integers, which XLA draws as TensorFlow does outside of it, unlike floats.

    Args:
      shape: of the noise.
      seed: int32 `[2]`; or `[T, 2]`, one for each row of a shape `[T, columns]`.
    """
    own = seed.shape.rank == 2
    bits = row_noise.random_bits(seed, shape[1]) if own else _random_bits(shape, seed)
    bits = tf.bitcast(bits, tf.uint32)
    high = tf.bitwise.right_shift(bits, tf.constant(9, tf.uint32))
    # 23 bits and a half: exact in float32, above 0 and below 1, so that both logarithms exist.
    uniform = (tf.cast(high, tf.float32) + 0.5) * 2.0**-23
    return -tf.math.log(-tf.math.log(uniform))


def _random_bits(shape, seed):
    """int32 of all values. Philox by name: another generator may be 50 times slower under XLA."""
    return tf.random.stateless_uniform(shape, seed, None, None, tf.int32, alg="philox")


def _draw_column(logits, seed):
    """A column of each row with probability softmax(logits): the Gumbel-max trick.

    `stateless_categorical` does the same, but XLA does not compile it.
    """
    # Not `argmax`: XLA for CPUs puts all rounds of the noise's hash into its reduction, each twice
    # as often as the one after it, and takes minutes to compile that.
    return tf.math.top_k(logits + gumbel(tf.shape(logits), seed), 1).indices[:, 0]
