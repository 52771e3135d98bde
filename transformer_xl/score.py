"""Log-probabilities of lines of text: each alone, or each after all before it.

B batch, L segment length, M memory length.
"""

from collections.abc import Callable, Iterable, Iterator

import numpy as np
import tensorflow as tf

from transformer_xl.memory import Memory
from transformer_xl.shapes import checked_ids, checked_segment_length


def make_score_step(model, jit_compile: bool = False, **lengths) -> Callable:
    """A compiled function of (tokens, targets, memory).

    Args:
      model: a `TransformerXL`.
      jit_compile: whether XLA compiles it.
      **lengths: `clamp_length`, `same_length`, where they differ from the configuration.

    Returns:
      A function of int `[B, L]` tokens, int `[B, L]` targets and the `Memory` before, which
      returns the pair (log-probability of each target, float32 `[B, L]`; next `Memory`). It raises
      a `ValueError` for ids outside the vocabulary, where it is called eagerly.
    """

    @tf.function(jit_compile=jit_compile, autograph=False)
    def score_step(tokens, targets, memory: Memory):
        nll, memory = model.nll(tokens, targets, memory, training=False, **lengths)
        return -nll, memory

    return checking_ids(model, score_step)


def checking_ids(model, step: Callable) -> Callable:
    """A compiled function of (tokens, targets, memory), which cannot refuse ids, as one that does.

    Args:
      model: a `TransformerXL`.
      step: takes int32 `[B, L]` tokens, int32 `[B, L]` targets and a `Memory`.

    Returns:
      The same, for any integers. It raises a `ValueError` for those outside the vocabulary, where
      it is called eagerly.
    """
    clusters = model.embedding.clusters

    def checked_step(tokens, targets, memory):
        clusters.check_ids(tokens, "Tokens")
        clusters.check_ids(targets, "Targets")
        return step(tf.cast(tokens, tf.int32), tf.cast(targets, tf.int32), memory)

    return checked_step


def score_in_context(
    step: Callable,
    lines: Iterable[np.ndarray],
    memory: Memory,
    eos_id: int,
    segment_length: int,
) -> Iterator[np.ndarray]:
    """Scores each line after all before it, as one text.

    Args:
      step: of `make_score_step`.
      lines: int `[n]` each, the ids of a line, its `<eos>` included; may be empty. Read one by
        one.
      memory: before the first line, of one row.
      eos_id: stands before the first token.
      segment_length: L, tokens scored at a time.

    Yields:
      For each line in turn its log-probabilities, float32 `[n]`, as soon as they are known.

    Raises:
      ValueError: for a line that is no ids, or ids outside the vocabulary, and for a segment length
        below 1.
    """
    segment_length = checked_segment_length(segment_length)
    before = eos_id
    targets = np.zeros(0, np.int64)  # not yet scored
    scores = np.zeros(0, np.float32)  # not yet handed out
    waiting: list[int] = []  # lengths of the lines they belong to

    def score(targets):
        nonlocal before, memory
        count = len(targets)
        # Behind the end stand zeros, which nothing before them sees.
        padded = np.pad(targets, (0, segment_length - count))
        inputs = np.concatenate([[before], padded[:-1]])
        log_prob, memory = step(inputs[None], padded[None], memory)
        before = int(targets[-1])
        return log_prob.numpy()[0, :count]

    def finished():
        nonlocal scores
        while waiting and len(scores) >= waiting[0]:
            length = waiting.pop(0)
            yield scores[:length]
            scores = scores[length:]

    for line in lines:
        ids = checked_ids(line, "A line")
        waiting.append(len(ids))
        targets = np.concatenate([targets, ids])
        while len(targets) >= segment_length:
            scores = np.concatenate([scores, score(targets[:segment_length])])
            targets = targets[segment_length:]
        yield from finished()
    if len(targets):
        scores = np.concatenate([scores, score(targets)])
    yield from finished()


def score_alone(
    step: Callable,
    lines: Iterable[np.ndarray],
    memory: Memory,
    eos_id: int,
    segment_length: int,
) -> Iterator[np.ndarray]:
    """Scores each line as if it were the only one.

    Args:
      step: of `make_score_step`.
      lines: int `[n]` each, the ids of a line, its `<eos>` included; may be empty. As many are
        read at a time as memory has rows.
      memory: before a line, of B rows.
      eos_id: stands before each line's first token.
      segment_length: L, tokens of each line scored at a time.

    Yields:
      For each line in turn its log-probabilities, float32 `[n]`.

    Raises:
      ValueError: as `score_in_context`.
    """
    segment_length = checked_segment_length(segment_length)
    batch_size = memory.valid.shape[0]
    group: list[np.ndarray] = []
    for line in lines:
        group.append(checked_ids(line, "A line"))
        if len(group) == batch_size:
            yield from _score_group(step, group, memory, eos_id, segment_length)
            group = []
    if group:
        yield from _score_group(step, group, memory, eos_id, segment_length)


def _score_group(step, group, memory, eos_id, segment_length):
    """At most B lines, side by side; behind the end of the shorter ones stand zeros."""
    batch_size = memory.valid.shape[0]
    num_segments = -(-max(len(line) for line in group) // segment_length)
    targets = np.zeros([batch_size, num_segments * segment_length], np.int64)
    for row, line in zip(targets, group):
        row[: len(line)] = line
    inputs = np.concatenate([np.full([batch_size, 1], eos_id), targets[:, :-1]], 1)
    scores = [np.zeros([batch_size, 0], np.float32)]
    for start in range(0, targets.shape[1], segment_length):
        now = slice(start, start + segment_length)
        log_prob, memory = step(inputs[:, now], targets[:, now], memory)
        scores.append(log_prob.numpy())
    scores = np.concatenate(scores, 1)
    for row, line in zip(scores, group):
        yield row[: len(line)]
