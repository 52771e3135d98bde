"""Whether what is fast is the same: evaluation and decoding on a cache, beside the uncached model.

B batch, L segment length, M memory length, V vocabulary.
"""

import numpy as np
import tensorflow as tf

from transformer_xl.generate import stream

# Two tokens whose log-probabilities are nearer than this are equally likely.
TIE = 1e-5
# Of a prompt, read at a time, by the decoder as well.
SEGMENT = 512


def check_evaluation(model, segments, memory_length: int) -> dict:
    """The losses of segments on a cache and with memory, which every call projects again.

    Args:
      model: a `TransformerXL`.
      segments: int arrays `[B, L + 1]`, in turn.
      memory_length: M.

    Returns:
      `tokens`, how many were compared; `difference`, the largest of a token's loss, in nats, and
      `relative_difference`, as a part of the loss; `mean_difference`, that of the mean.
    """
    batch_size, length = segments[0].shape
    states = {
        "cached": model.initial_cache(batch_size, memory_length, length - 1),
        "uncached": model.initial_memory(batch_size, memory_length),
    }
    read = tf.function(lambda *arguments: model.nll(*arguments, training=False), autograph=False)
    losses = {name: [] for name in states}
    for tokens in map(tf.constant, segments):
        for name in states:
            nll, states[name] = read(tokens[:, :-1], tokens[:, 1:], states[name])
            losses[name].append(nll.numpy().astype(np.float64))
    cached, uncached = (np.concatenate(one, 1) for one in losses.values())
    return {
        "tokens": cached.size,
        "difference": float(np.max(np.abs(cached - uncached))),
        "relative_difference": float(np.max(np.abs(cached - uncached) / uncached)),
        "mean_difference": float(np.abs(np.mean(cached) - np.mean(uncached))),
    }


def check_greedy(model, decoder, prompt, memory_length: int, num_tokens: int) -> dict:
    """The likeliest tokens on the cache beside those of the uncached model's whole distribution.

    The uncached model reads what was written, so a text is followed to its end also where two
    tokens are equally likely; up to the first difference that is what it would write by itself.

    Args:
      model: a `TransformerXL`.
      decoder: a `Decoder` of it with a temperature of 0 and this M.
      prompt: int `[B, P]`, P a multiple of 512, which memory is longer than or not.
      memory_length: M.
      num_tokens: how many are written.

    Returns:
      `tokens`, how many were compared; `distinct`, how many ids are among them; `tied`, how many
      differ where the uncached model's two best differ by less than 1e-5; `different`, how many
      differ elsewhere; `closest`, the least difference between its two best.
    """
    (written,) = stream(decoder, list(prompt), num_tokens, (1, 2), num_tokens)
    written = written.numpy()
    read = tf.function(lambda *arguments: model(*arguments, training=False), autograph=False)
    memory = model.initial_memory(len(prompt), memory_length)
    for start in range(0, prompt.shape[1], SEGMENT):
        hidden, memory = read(tf.constant(prompt[:, start : start + SEGMENT]), memory)
    different = tied = 0
    closest = np.inf
    for column in written.T:
        log_prob = model.head.log_prob(hidden[:, -1]).numpy()
        gaps = -np.diff(np.sort(log_prob, -1)[:, :-3:-1])[:, 0]
        wrong = np.argmax(log_prob, -1) != column
        tied += int(np.sum(wrong & (gaps < TIE)))
        different += int(np.sum(wrong & (gaps >= TIE)))
        closest = min(closest, float(np.min(gaps)))
        hidden, memory = read(tf.constant(column[:, None]), memory)
    return {
        "tokens": written.size,
        "distinct": len(np.unique(written)),
        "different": different,
        "tied": tied,
        "closest": closest,
    }
