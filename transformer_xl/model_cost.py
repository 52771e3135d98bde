"""What a model costs: parameters and floating-point operations by part, memory in training.

Only products of matrices are counted, two operations for each multiplication; everything else is
of a lower order. L segment length, M memory length, S = M + L key length, D width, H heads, K head
size, F feed-forward width, N attention layers, B batch, V vocabulary, C clusters, E a cluster's
width, P parameters.
"""

import math
from collections.abc import Sequence

from adaptive.clusters import Clusters, projected
from transformer_xl.config import ModelConfig


def parameters_by_part(model) -> dict[str, int]:
    """How many parameters the parts of a `TransformerXL` have; shared ones count once.

    What embedding and softmax share counts in the embedding.
    """
    parts, seen = {}, set()
    blocks = [("attention" if block.attends else "feed-forward", block) for block in model.blocks]
    layers = [("embedding", model.embedding), *blocks, ("final norm", model.final_norm)]
    for name, layer in [*layers, ("softmax", model.head)]:
        for variable in layer.trainable_variables if layer is not None else ():
            if id(variable) not in seen:
                seen.add(id(variable))
                parts[name] = parts.get(name, 0) + math.prod(variable.shape)
    return parts


def forward_flops(
    config: ModelConfig,
    segment_length: int,
    batch_size: int = 1,
    cluster_shares: Sequence[float] | None = None,
) -> dict[str, float]:
    """Operations per token of a forward pass that computes the loss, by part.

    Args:
      config: of the model.
      segment_length: L.
      batch_size: B, over which the projection of positions is shared.
      cluster_shares: the part of the targets in each cluster, whose sum is 1; None for a part as
        large as the cluster's of the vocabulary.
    """
    length, memory = segment_length, config.memory_length
    inner = config.num_heads * config.head_dim
    project = 2 * config.model_dim * inner
    keys = memory + length
    clusters = Clusters(config.vocab_size, config.cutoffs)
    widths = clusters.widths(config.embedding_dim, config.div_val)
    has = projected(widths, config.model_dim, config.force_projection, config.div_val)
    to_width = [2 * config.model_dim * width * one for width, one in zip(widths, has)]
    if cluster_shares is None:
        cluster_shares = [size / config.vocab_size for size in clusters.sizes]
    columns = [clusters.sizes[0] + clusters.num_tails, *clusters.sizes[1:]]
    shares = [1.0, *cluster_shares[1:]]  # the head is computed for all
    layers = config.num_layers
    return {
        "embedding's projections": float(sum(to_width)),
        "queries, keys, values, results": 4.0 * project * layers,
        "keys and values of memory": 2.0 * project * layers * memory / length,
        "positions": project * layers * keys / (length * batch_size),
        # Content, distance, values: all keys are computed, also those that are masked.
        "attention": 6.0 * inner * keys * layers,
        "feed-forward": 4.0
        * config.model_dim
        * config.feed_forward_dim
        * config.block_pattern.count("f"),
        "softmax": float(
            sum(to_width)
            + sum(2 * share * width * n for share, width, n in zip(shares, widths, columns))
        ),
    }


def training_flops(forward: dict[str, float]) -> float:
    """Operations per token of a training step, of what `forward_flops` returns.

    The backward pass has two products for each of the forward pass, one for the gradient of
    either factor; but one where no gradient is wanted, of memory and of positions.
    """
    once = forward["keys and values of memory"] + forward["positions"]
    return 3.0 * sum(forward.values()) - once


def training_bytes(
    config: ModelConfig,
    num_parameters: int,
    batch_size: int,
    segment_length: int,
    compute_bytes: int = 4,
    weight_copies: int = 4,
) -> dict[str, float]:
    """What a training step holds in memory, by part, in bytes; an estimate.

    Args:
      config: of the model.
      num_parameters: P.
      batch_size: B; with accumulated gradients, the rows of one part.
      segment_length: L.
      compute_bytes: of a number in which products are computed.
      weight_copies: float32 numbers for each parameter: itself, its gradient, and what the
        optimizer keeps, two with Adam.
    """
    tokens = batch_size * segment_length
    keys = config.memory_length + segment_length
    inner = config.num_heads * config.head_dim
    drops = 1 + (config.attention_dropout > 0)
    # Of each layer what its backward pass reads: of attention the weights before and after
    # dropout and the two parts of the scores, queries (with either bias), keys, values, result,
    # input and output of the norm; of feed-forward both sides of the ReLU.
    scores = (2 + drops) * batch_size * config.num_heads * segment_length * keys
    projections = (4 * tokens + 2 * batch_size * keys) * inner
    attention = scores + projections + 4 * tokens * config.model_dim
    feed_forward = (3 * tokens) * config.feed_forward_dim + 4 * tokens * config.model_dim
    remembered = config.num_layers * batch_size * config.memory_length * config.model_dim
    return {
        "weights, gradients, optimizer": 4.0 * weight_copies * num_parameters,
        "memory of earlier segments": 2.0 * compute_bytes * remembered,  # before and after
        "activations": float(compute_bytes)
        * (
            config.num_layers * attention
            + config.block_pattern.count("f") * feed_forward
            + 4 * tokens * config.model_dim
        ),
    }
