"""Transformer-XL, one row, one head, one query and one key at a time.

Written from Dai et al. (2019), "Transformer-XL: Attentive language models beyond a fixed-length
context". Float64 and loops: the position term is looked up by its distance, so there is no relative
shift that could be wrong in the same way as the model's own.

Letters: B batch, L segment length, M memory length, S = M + L, D model width, H heads, K head size,
F feed-forward width, E_i embedding width of cluster i. `weights` is a dict:

    "tables"       list of [size_i, E_i]: the embedding, see adaptive.py
    "projections"  list of [E_i, D] (or None each), or None
    "blocks"       one dict for each letter of the block pattern, in order
    "final_norm"   optional: {"gamma": [D], "beta": [D]}, applied after the last block

An attention block ("a"): "query", "key", "value", "position" [D, H * K]; "output" [H * K, D];
"content_bias" (u in the paper) and "position_bias" (v) [H, K]; "gamma", "beta" [D].
A feed-forward block ("f"): "inner_kernel" [D, F], "inner_bias" [F], "outer_kernel" [F, D],
"outer_bias" [D]; "gamma", "beta" [D].
"""

import math
from typing import NamedTuple

import numpy as np

from . import adaptive


class Output(NamedTuple):
    """hidden [B, L, D]; memory, one [B, M, D] for each attention block; valid, integers [B]."""

    hidden: np.ndarray
    memory: list
    valid: np.ndarray


def forward(
    tokens,
    weights,
    memory,
    valid,
    *,
    num_heads,
    head_dim,
    clamp_length=-1,
    same_length=False,
    layer_norm="post",
    layer_norm_epsilon=1e-5,
    block_pattern=None,
):
    """Runs the model over one segment, without dropout.

    The absolute position of query i is M + i. It attends to the keys j <= M + i, except those among
    the M remembered ones that are not valid: of row b only the newest valid[b] are. With
    `same_length` it attends to the M nearest of these only, itself included.

    Args:
      tokens: integers [B, L].
      weights: the dict described at the top of this file.
      memory: for each attention block an array [B, M, D]; M may be 0.
      valid: integers [B], how many of the newest remembered positions may be attended.
      num_heads, head_dim: H and K.
      clamp_length: distances beyond it count as equal to it; 0 or less: no limit.
      layer_norm: "post" (after the residual sum) or "pre" (before the sublayer).
      block_pattern: "a" for attention and "f" for feed-forward, one letter for each block; None is
        the ordinary model, "afaf...".

    Returns: Output, whose memory holds the last M of (memory ++ the block's input).
    """
    weights = _float64(weights)
    if block_pattern is None:
        block_pattern = "af" * (len(weights["blocks"]) // 2)
    memory = [np.asarray(hidden_BMD, np.float64) for hidden_BMD in memory]
    _check(block_pattern, weights["blocks"], memory, valid, same_length, layer_norm)
    tokens = np.asarray(tokens)
    batch_size, length = tokens.shape

    hidden = adaptive.embed(tokens, weights["tables"], weights["projections"])
    hidden = hidden * math.sqrt(hidden.shape[-1])
    new_memory = []
    for kind, block in zip(block_pattern, weights["blocks"], strict=True):
        if kind == "a":
            remembered_BMD = memory[len(new_memory)]
            combined_BSD = np.concatenate([remembered_BMD, hidden], axis=1)
            memory_length = remembered_BMD.shape[1]
            # What stays of S = M + L positions are the last M, so the first L go.
            new_memory.append(combined_BSD[:, length:])
            positions = _positions(memory_length + length, clamp_length, block["position"])
            rows = [
                _attend(
                    combined_BSD[row],
                    memory_length,
                    int(valid[row]),
                    positions,
                    block,
                    num_heads,
                    head_dim,
                    same_length,
                    layer_norm,
                    layer_norm_epsilon,
                )
                for row in range(batch_size)
            ]
        else:
            rows = [
                [_feed_forward(hidden_D, block, layer_norm, layer_norm_epsilon) for hidden_D in row]
                for row in hidden
            ]
        hidden = np.array(rows)

    if weights.get("final_norm") is not None:
        norm = weights["final_norm"]
        hidden = np.array(
            [[_normalise(hidden_D, norm, layer_norm_epsilon) for hidden_D in row] for row in hidden]
        )
    if not memory:
        return Output(hidden, [], np.asarray(valid))
    memory_length = memory[0].shape[1]
    new_valid = np.array([min(memory_length, int(count) + length) for count in valid])
    return Output(hidden, new_memory, new_valid)


def sinusoid(distance, width):
    """The encoding of one distance, [width]: all sines, then all cosines."""
    angles = [distance * 10000.0 ** (-2.0 * k / width) for k in range(width // 2)]
    return np.array([math.sin(angle) for angle in angles] + [math.cos(angle) for angle in angles])


def _attend(
    combined_SD,
    memory_length,
    valid,
    positions,
    block,
    num_heads,
    head_dim,
    same_length,
    layer_norm,
    layer_norm_epsilon,
):
    """One attention block on one row: memory and segment [S, D] to a list of L arrays [D]."""
    if layer_norm == "pre":
        # The memory holds what came into the block, before its norm, so it is normalised again.
        inputs_SD = [_normalise(x_D, block, layer_norm_epsilon) for x_D in combined_SD]
    else:
        inputs_SD = combined_SD
    key_S = [(x_D @ block["key"]).reshape(num_heads, head_dim) for x_D in inputs_SD]
    value_S = [(x_D @ block["value"]).reshape(num_heads, head_dim) for x_D in inputs_SD]

    outputs = []
    for query_position in range(memory_length, len(combined_SD)):
        query_HK = (inputs_SD[query_position] @ block["query"]).reshape(num_heads, head_dim)
        vector_HK = np.zeros((num_heads, head_dim))
        for head in range(num_heads):
            content_K = query_HK[head] + block["content_bias"][head]
            relative_K = query_HK[head] + block["position_bias"][head]
            visible, scores = [], []
            for key_position in range(memory_length - valid, query_position + 1):
                distance = query_position - key_position
                if same_length and distance >= memory_length:
                    continue
                position_K = positions[distance].reshape(num_heads, head_dim)[head]
                score = np.dot(content_K, key_S[key_position][head])
                score += np.dot(relative_K, position_K)
                visible.append(key_position)
                scores.append(float(score) / math.sqrt(head_dim))
            highest = max(scores)
            powers = [math.exp(score - highest) for score in scores]
            for key_position, power in zip(visible, powers, strict=True):
                vector_HK[head] += power / math.fsum(powers) * value_S[key_position][head]
        sublayer_D = vector_HK.reshape(-1) @ block["output"]
        total_D = combined_SD[query_position] + sublayer_D
        if layer_norm == "post":
            total_D = _normalise(total_D, block, layer_norm_epsilon)
        outputs.append(total_D)
    return outputs


def _positions(longest, clamp_length, kernel):
    """Projected encodings [H * K] of the distances 0 to longest - 1, as a list."""
    projected = []
    for distance in range(longest):
        if clamp_length > 0:
            distance = min(distance, clamp_length)
        projected.append(sinusoid(distance, len(kernel)) @ kernel)
    return projected


def _feed_forward(hidden_D, block, layer_norm, layer_norm_epsilon):
    """One feed-forward block on one position: [D] to [D]."""
    if layer_norm == "pre":
        input_D = _normalise(hidden_D, block, layer_norm_epsilon)
    else:
        input_D = hidden_D
    inner_F = np.maximum(input_D @ block["inner_kernel"] + block["inner_bias"], 0.0)
    total_D = hidden_D + inner_F @ block["outer_kernel"] + block["outer_bias"]
    if layer_norm == "post":
        total_D = _normalise(total_D, block, layer_norm_epsilon)
    return total_D


def _normalise(x_D, norm, epsilon):
    """Layer normalisation of one position."""
    mean = math.fsum(x_D) / len(x_D)
    variance = math.fsum((x - mean) ** 2 for x in x_D) / len(x_D)
    return (x_D - mean) / math.sqrt(variance + epsilon) * norm["gamma"] + norm["beta"]


def _check(block_pattern, blocks, memory, valid, same_length, layer_norm):
    if len(block_pattern) != len(blocks) or set(block_pattern) - {"a", "f"}:
        raise ValueError(
            "block_pattern must have one letter, a or f, for each block. Received: "
            f"{block_pattern!r} for {len(blocks)} blocks"
        )
    if len(memory) != block_pattern.count("a"):
        raise ValueError(
            "memory must have one array for each attention block. Received: "
            f"{len(memory)} for the pattern {block_pattern!r}"
        )
    for hidden_BMD in memory:
        if any(not 0 <= count <= hidden_BMD.shape[1] for count in valid):
            raise ValueError(
                "valid must be between 0 and the memory's length. Received: "
                f"{list(valid)} for the length {hidden_BMD.shape[1]}"
            )
    if same_length and any(hidden_BMD.shape[1] == 0 for hidden_BMD in memory):
        raise ValueError("same_length with a memory of length 0 leaves a query no key at all")
    if layer_norm not in ("post", "pre"):
        raise ValueError(f'layer_norm must be "post" or "pre". Received: {layer_norm!r}')


def _float64(weights):
    if isinstance(weights, dict):
        return {name: _float64(value) for name, value in weights.items()}
    if isinstance(weights, (list, tuple)):
        return [_float64(value) for value in weights]
    return None if weights is None else np.asarray(weights, np.float64)
