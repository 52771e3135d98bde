"""Whether what is fast is the same: evaluation and decoding on a cache, beside the uncached model.

B batch, L segment length, M memory length, V vocabulary.
"""

import numpy as np
import tensorflow as tf

from transformer_xl.generate import stream
from transformer_xl.training.devices import stretches
from transformer_xl.training.evaluate import joined
from transformer_xl.training.steps import nll_in_turn

# Two tokens whose log-probabilities are nearer than this are equally likely.
TIE = 1e-5
# Of a prompt, read at a time, by the decoder as well.
SEGMENT = 512


def check_evaluation(model, segments, memory_length: int) -> dict:
    """The losses of segments on a cache, several read as one, and with memory, one by one.

    Args:
      model: a `TransformerXL`.
      segments: int arrays `[B, L + 1]`, in turn.
      memory_length: M.

    Returns:
      `tokens`, how many were compared; `difference`, the largest of a token's loss, in nats, and
      `relative_difference`, as a part of the loss; `mean_difference`, that of the mean.
    """
    batch_size, length = segments[0].shape
    length -= 1
    as_one, in_turn = stretches(False, batch_size, length)
    batches = [(tokens[:, :-1], tokens[:, 1:]) for tokens in map(tf.constant, segments)]
    runs = {
        "cached": (
            list(joined(batches, as_one * in_turn)),
            model.initial_cache(batch_size, memory_length, as_one * length),
        ),
        "uncached": (batches, model.initial_memory(batch_size, memory_length)),
    }

    @tf.function(autograph=False)
    def read(tokens, targets, state):
        turns = in_turn if tokens.shape[1] > length else 1
        return nll_in_turn(model, tokens, targets, state, turns, segment_length=length)

    losses = {name: [] for name in runs}
    for name, (batches, state) in runs.items():
        for tokens, targets in batches:
            nll, state = read(tokens, targets, state)
            losses[name].append(nll.numpy().astype(np.float64))
    cached, uncached = (np.concatenate(one, 1) for one in losses.values())
    cached = cached[:, : uncached.shape[1]]  # without what filled the last ones up
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
      prompt: int `[B, P]`, which memory is longer than or not.
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
    # As the decoder does it: what a token sees of a text longer than memory depends on the cuts.
    ends = range((prompt.shape[1] - 1) % SEGMENT + 1, prompt.shape[1] + 1, SEGMENT)
    for end in ends:
        hidden, memory = read(tf.constant(prompt[:, max(0, end - SEGMENT) : end]), memory)
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
