"""Evaluation: every token once, sums over the whole split, one division."""

import itertools
import math
from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

import tensorflow as tf

from transformer_xl.training.devices import compiles_with_xla, stretches
from transformer_xl.training.steps import make_eval_step


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
        return perplexity_of(self.nll)

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
            "perplexity_per_word": perplexity_of(total / num_words),
            "bits_per_character": total / math.log(2) / num_characters,
        }


def evaluate(
    eval_step: Callable, batches: Iterable, memory, progress: Callable[[int], None] | None = None
) -> EvalResult:
    """Scores batches that follow one another, with memory carried from each to the next.

    Args:
      eval_step: of `steps.make_eval_step`.
      batches: of (tokens, targets, weights), each `[B, L]`, or `[B, n * L]` where the step reads n
        segments, with a weight of 0 at padding.
      memory: the `Memory` or `Cache` before the first.
      progress: called with the number of batches done, after each.

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


def joined(batches: Iterable, count: int) -> Iterator[tuple]:
    """Batches, so many that follow one another as one; the last is filled up with weights of 0.

    Args:
      batches: of (tokens, targets, weights), each `[B, L]`.
      count: how many are joined.

    Yields:
      (tokens, targets, weights), each `[B, count * L]`.
    """
    batches = iter(batches)
    while some := list(itertools.islice(batches, count)):
        missing = count - len(some)
        # With what is missing: a shape of its own would be compiled for the last ones.
        some += [tuple(tf.zeros_like(one) for one in some[0])] * missing
        yield tuple(tf.concat(parts, 1) for parts in zip(*some)) if count > 1 else some[0]


def perplexity_of(nats: float | None) -> float | None:
    """The exponential; None of None. Of a diverged model a large number, and no error."""
    return None if nats is None else math.exp(min(nats, 700.0))


class Evaluator:
    """Scores splits of a corpus with the evaluation's settings.

    Attributes:
      model: what is evaluated.
      settings: by name, what results are reported with: batch size and lengths.
      stretches: the segments of a step, `devices.Stretches`.
      of_steps: what a step that reads this evaluator's batches is made with, by name.
    """

    def __init__(self, model, config, lengths: dict, batches: Callable, progress=None):
        """Compiles the evaluation step on first use.

        Args:
          model: a `TransformerXL`.
          config: its `TrainConfig`.
          lengths: of `config.evaluation_lengths`.
          batches: of a split, a batch size and a segment length makes a dataset of (tokens,
            targets, weights).
          progress: called after each step with the number of steps done.
        """
        self.settings = {
            "batch_size": config.eval_batch_size,
            "segment_length": config.eval_segment_length or config.segment_length,
            **lengths,
        }
        self.model, self._batches, self._progress = model, batches, progress
        jit_compile = compiles_with_xla(config.jit_compile)
        self._initial_cache = tf.function(model.initial_cache, autograph=False)
        length = self.settings["segment_length"]
        self.stretches = stretches(jit_compile, config.eval_batch_size, length)
        self.of_steps = {
            "jit_compile": jit_compile,
            "segment_length": length,
            "in_turn": self.stretches.in_turn,
            **{name: lengths[name] for name in ("clamp_length", "same_length")},
        }
        self._step = make_eval_step(model, **self.of_steps)

    def inputs(self, split: str, max_segments: int = 0):
        """The pair (batches of a split, the `Memory` or `Cache` before the first).

        A batch holds one segment of each row, or several that follow one another.

        Args:
          split: the name of a split.
          max_segments: how many segments of each row there are at most; 0 for all. Filler, with
            weights of 0, comes on top of them.
        """
        settings = self.settings
        batches = self._batches(split, settings["batch_size"], settings["segment_length"])
        if max_segments:
            batches = batches.take(max_segments)
        batches = joined(batches, self.stretches.segments)
        sizes = (settings["batch_size"], settings["memory_length"])
        if settings["memory_length"] > settings["segment_length"]:
            # What would be projected again for every segment is most of its work.
            clamp_length = settings["clamp_length"]
            longest = self.stretches.as_one * settings["segment_length"]
            sizes = (*sizes, longest, clamp_length)
            return batches, self._initial_cache(*sizes)
        return batches, self.model.initial_memory(*sizes)

    def result(self, split: str, max_segments: int = 0) -> EvalResult:
        """The loss on a split, or, with a bound, on its first segments."""
        return evaluate(self._step, *self.inputs(split, max_segments), self._progress)
