"""Where the loss is: by how common the tokens are, and by position in the segment.

B batch, L segment length, V vocabulary, K bands.
"""

from collections.abc import Callable, Iterable
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from transformer_xl.memory import Memory
from transformer_xl.training.evaluate import EvalResult, Evaluator, perplexity_of
from transformer_xl.training.steps import nll_in_turn


class Bands(NamedTuple):
    """The vocabulary, cut into runs of ids, the commonest first.

    Attributes:
      names: of the K bands.
      starts: the first id of each; the first of all is 0.
      vocab_size: V.
    """

    names: tuple[str, ...]
    starts: tuple[int, ...]
    vocab_size: int

    @property
    def ends(self) -> tuple[int, ...]:
        """The id after each band's last."""
        return (*self.starts[1:], self.vocab_size)

    def of(self, ids):
        """The band of each id, int32 of the same shape."""
        starts = tf.constant(self.starts[1:], tf.int32)
        ids = tf.cast(ids, tf.int32)
        return tf.reduce_sum(tf.cast(ids[..., None] >= starts, tf.int32), -1)


def frequency_bands(vocab_size: int, cutoffs=()) -> Bands:
    """Head and tails of a model in clusters; of others, powers of ten of the rank.

    Args:
      vocab_size: V, ids sorted by frequency.
      cutoffs: where a cluster begins; empty for a model that has one only.
    """
    if cutoffs:
        names = ("head", *(f"tail {i}" for i in range(1, len(cutoffs) + 1)))
        return Bands(names, (0, *cutoffs), vocab_size)
    starts = [0, *(10**power for power in range(1, 20) if 10**power < vocab_size)]
    names = [
        f"rank {start + 1:,} to {end:,}" for start, end in zip(starts, [*starts[1:], vocab_size])
    ]
    return Bands(tuple(names), tuple(starts), vocab_size)


class Breakdown(NamedTuple):
    """Sums of a split's loss, float64, and what they are over.

    Attributes:
      band_nll, band_tokens: `[K]`; nats, and how many tokens.
      position_nll, position_tokens: `[L]`, the first position of a segment first.
    """

    band_nll: np.ndarray
    band_tokens: np.ndarray
    position_nll: np.ndarray
    position_tokens: np.ndarray

    @property
    def result(self) -> EvalResult:
        """The loss of all tokens."""
        tokens = self.band_tokens.sum()
        return EvalResult(float(self.band_nll.sum() / tokens), round(tokens))

    def figures(self, bands: Bands) -> dict:
        """What a report says: `bands`, a list, and `positions`, lists of L numbers.

        A band without tokens, or a position, has None for its means.
        """
        total, tokens = self.band_nll.sum(), self.band_tokens.sum()
        rows = []
        for i, name in enumerate(bands.names):
            mean = _mean(self.band_nll[i], self.band_tokens[i])
            rows.append(
                {
                    "name": name,
                    "first_id": bands.starts[i],
                    "last_id": bands.ends[i] - 1,
                    "tokens": round(self.band_tokens[i]),
                    "nll_sum": float(self.band_nll[i]),
                    "nll": mean,
                    "perplexity": perplexity_of(mean),
                    "share_of_tokens": float(self.band_tokens[i] / tokens),
                    "share_of_loss": float(self.band_nll[i] / total),
                }
            )
        means = [_mean(*pair) for pair in zip(self.position_nll, self.position_tokens)]
        positions = {
            "tokens": [round(count) for count in self.position_tokens],
            "nll": means,
            "perplexity": [perplexity_of(mean) for mean in means],
        }
        return {"bands": rows, "positions": positions}


def _mean(total, count) -> float | None:
    return float(total / count) if count else None


def make_breakdown_step(
    model,
    bands: Bands,
    jit_compile: bool = False,
    segment_length: int | None = None,
    in_turn: int = 1,
    **lengths,
) -> Callable:
    """A compiled function of (tokens, targets, weights, memory) that scores a segment, or several.

    Args:
      model: a `TransformerXL`.
      bands: of its vocabulary.
      jit_compile: whether XLA compiles it.
      segment_length: L, where a batch holds several segments that follow one another; None where it
        is one.
      in_turn: of `steps.nll_in_turn`.
      **lengths: `clamp_length`, `same_length`, where they differ from the configuration.

    Returns:
      A function of int `[B, n * L]` tokens, int `[B, n * L]` targets, float `[B, n * L]` weights
      and the `Memory` before, which returns the pair (next `Memory`; sums, float32 `[2, K + L]`:
      nats, then weights, by band, then by position in a segment).
    """

    @tf.function(jit_compile=jit_compile, autograph=False)
    def breakdown_step(tokens, targets, weights, memory: Memory):
        named = {**lengths, "segment_length": segment_length}
        nll, memory = nll_in_turn(model, tokens, targets, memory, in_turn, **named)
        # A weight of 0 leaves out what stands there, also where it is not a number.
        nll = tf.math.multiply_no_nan(nll, weights)
        both = tf.stack([nll, weights])
        one_hot = tf.one_hot(bands.of(targets), len(bands.names))
        # Not a product of matrices, which some GPUs round to 10 bits.
        by_band = tf.reduce_sum(both[..., None] * one_hot, [1, 2])
        by_place = tf.reduce_sum(both, 1)
        length = segment_length or by_place.shape[1]
        by_position = tf.reduce_sum(tf.reshape(by_place, [2, -1, length]), 1)
        return memory, tf.concat([by_band, by_position], 1)

    return breakdown_step


def break_down(evaluator: Evaluator, splits: Iterable[str], bands: Bands) -> dict[str, Breakdown]:
    """The loss of each split in parts, with the settings of an `Evaluator`.

    One step, which is traced and compiled once, scores them all.
    """
    step = make_breakdown_step(evaluator.model, bands, **evaluator.of_steps)
    return {
        split: evaluate_in_parts(step, *evaluator.inputs(split), len(bands.names))
        for split in splits
    }


def evaluate_in_parts(
    step: Callable, batches: Iterable, memory: Memory, num_bands: int
) -> Breakdown:
    """Scores batches that follow one another, with memory carried from each to the next.

    Args:
      step: of `make_breakdown_step`.
      batches: of (tokens, targets, weights), as the step takes them, with a weight of 0 at padding.
      memory: the `Memory` before the first.
      num_bands: K.

    Raises:
      ValueError: if no token was scored.
    """
    sums = []
    for batch in batches:
        memory, of_batch = step(*batch, memory)
        # Read after the loop, since reading waits for the device.
        sums.append(of_batch)
    if not sums:
        raise ValueError("There is nothing to evaluate: the split has no batches.")
    # In float64: a float32 sum over millions of tokens loses digits.
    nll, weight = tf.reduce_sum(tf.cast(tf.stack(sums), tf.float64), 0).numpy()
    if not weight.any():
        raise ValueError("There is nothing to evaluate: every token's weight is 0.")
    parts = (nll[:num_bands], weight[:num_bands], nll[num_bands:], weight[num_bands:])
    return Breakdown(*parts)
