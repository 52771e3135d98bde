"""Evaluation: every token once, sums over the whole split, one division."""

import math
from collections.abc import Callable, Iterable
from typing import NamedTuple

import tensorflow as tf


class EvalResult(NamedTuple):
    """The mean negative log-likelihood of a split.

    Attributes:
      nll: nats per token.
      tokens: how many tokens were scored.
    """

    nll: float
    tokens: int

    @property
    def perplexity(self) -> float:
        return _exp(self.nll)

    def figures(self, num_words: int, num_characters: int) -> dict:
        """The figures that are reported of a split.

        Args:
          num_words: words between whitespace in its text, so that models over words and over
            pieces of words compare.
          num_characters: characters of its text.
        """
        total = self.nll * self.tokens
        return {
            "nll": self.nll,
            "perplexity": self.perplexity,
            "tokens": self.tokens,
            "perplexity_per_word": _exp(total / num_words),
            "bits_per_character": total / math.log(2) / num_characters,
        }


def evaluate(
    eval_step: Callable, batches: Iterable, memory, progress: Callable[[int], None] | None = None
) -> EvalResult:
    """Scores batches that follow one another, with memory carried from each to the next.

    Args:
      eval_step: of `steps.make_eval_step`.
      batches: of (tokens, targets, weights), each `[B, L]`, with a weight of 0 at padding.
      memory: the `Memory` before the first.
      progress: called with the number of batches done.

    Returns:
      An `EvalResult`.

    Raises:
      ValueError: if no token was scored.
    """
    sums = []
    for done, (tokens, targets, weights) in enumerate(batches, start=1):
        memory, batch_sums = eval_step(tokens, targets, weights, memory)
        # Read after the loop, since reading waits for the device.
        sums.append(batch_sums)
        if progress is not None:
            progress(done)
    if not sums:
        raise ValueError("There is nothing to evaluate: the split has no batches.")
    # In float64: a float32 sum over millions of tokens loses digits.
    nll, weight = (float(tf.reduce_sum(tf.cast(tf.stack(s), tf.float64))) for s in zip(*sums))
    if weight == 0:
        raise ValueError("There is nothing to evaluate: every token's weight is 0.")
    return EvalResult(nll / weight, round(weight))


def _exp(nats: float) -> float:
    # Of a diverged model: a large number, and no OverflowError.
    return math.exp(min(nats, 700.0))
