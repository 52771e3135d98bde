"""The unigram model: the least a language model must beat."""

import numpy as np

_BLOCK_TOKENS = 1 << 20


def unigram_nll(counts: np.ndarray, array: np.ndarray) -> float:
    """Mean negative log-likelihood of a split under the training split's word frequencies.

    Every count is raised by one, so that a token that training never saw has a probability.

    Args:
        counts: int `[V]`, how often each id occurs in training.
        array: int `[N]`, the split's ids; may be memory-mapped, is read block by block.

    Returns:
        Nats per token; `exp` of it is the perplexity.

    Raises:
        ValueError: no tokens, negative counts, or ids outside 0 to V - 1.
    """
    counts = np.asarray(counts, dtype=np.int64)
    if counts.ndim != 1 or counts.size == 0 or counts.min() < 0:
        raise ValueError(
            "counts must be one number, at least 0, for each id. Received shape "
            f"{counts.shape}{f', minimum {counts.min()}' if counts.size else ''}."
        )
    if array.ndim != 1 or array.size == 0:
        raise ValueError(f"A split must be [N] ids, N > 0. Received shape {array.shape}.")
    occurrences = np.zeros(counts.shape, np.int64)
    for start in range(0, array.size, _BLOCK_TOKENS):
        block = np.asarray(array[start : start + _BLOCK_TOKENS], dtype=np.int64)
        if block.min() < 0 or block.max() >= counts.size:
            raise ValueError(
                f"Ids must be in 0 to {counts.size - 1}, as many as there are counts. Received "
                f"{block.min()} to {block.max()}: counts and split are not of one vocabulary."
            )
        occurrences += np.bincount(block, minlength=counts.size)
    log_probabilities = np.log(counts + 1.0) - np.log(counts.sum() + counts.size)
    return float(-(occurrences @ log_probabilities) / array.size)
