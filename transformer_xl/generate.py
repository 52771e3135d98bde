"""Text from the model: prompts of any lengths go on, each as it would alone.

B batch, P prompt length.
"""

from collections.abc import Iterator

import numpy as np
import tensorflow as tf

from adaptive import row_noise
from transformer_xl.config_rules import is_whole
from transformer_xl.decoding import Decoder, Sampling
from transformer_xl.shapes import known


def generate(
    model,
    prompt,
    num_tokens: int,
    seed,
    temperature: float = 1.0,
    top_k: int = 0,
    top_p: float = 1.0,
    repetition_penalty: float = 1.0,
    stop_ids=(),
    memory_length: int | None = None,
    jit_compile: bool | None = None,
):
    """Continues prompts.

    Args:
      model: a `TransformerXL`.
      prompt: int `[B, P]`, or a list of B prompts of lengths of their own, each at least one
        token; begin a text with the id of `<eos>`.
      num_tokens: how many tokens to add; at least 1.
      seed: int `[2]`; the same seed gives the same text. Or `[B, 2]`, one for each prompt, which
        alone decides how it goes on, whatever the others are.
      temperature, top_k, top_p, repetition_penalty: of `Sampling`.
      stop_ids: where one of these is written, a row ends; the first of them fills it up.
      memory_length: positions remembered; None for the configuration's.
      jit_compile: whether XLA compiles the loop; None: on GPUs, and on CPUs where `num_tokens` is
        1,000 or more, which makes up for its time.

    Returns:
      int32 `[B, num_tokens]`, without the prompt.

    Raises:
      ValueError: for a value outside its rule.
    """
    num_tokens = _checked_count(num_tokens)
    sampling = Sampling(temperature, top_k, top_p, repetition_penalty)
    stop_ids = _checked_stops(model, stop_ids)
    decoder = Decoder(model, sampling, memory_length, stop_ids, jit_compile, num_tokens)
    (tokens,) = stream(decoder, checked_prompts(model, prompt), num_tokens, seed, num_tokens)
    return tokens


def stream(decoder: Decoder, prompts, num_tokens: int, seed, chunk: int) -> Iterator[tf.Tensor]:
    """Continues prompts, a few tokens at a time, until all rows are at their ends.

    Args:
      decoder: a `Decoder`.
      prompts: of `checked_prompts`.
      num_tokens: how many tokens to add at most; at least 1.
      seed: as in `generate`.
      chunk: how many at a time.

    Yields:
      int32 `[B, at most chunk]`.

    Raises:
      ValueError: for a value outside its rule.
    """
    num_tokens = _checked_count(num_tokens)
    state = decoder.begin(prompts, _row_seeds(seed, len(prompts)), num_tokens)
    for start in range(0, num_tokens, chunk):
        tokens, state = decoder.write(state, min(chunk, num_tokens - start))
        yield tokens
        if bool(tf.reduce_all(state.stopped)):
            return


def checked_prompts(model, prompt) -> list[np.ndarray]:
    """Prompts as a list of int arrays `[P]`.

    Raises:
      ValueError: for a shape, a type or ids that are none of a prompt.
    """
    rows = list(prompt) if isinstance(prompt, (list, tuple)) else None
    if rows is None or not rows or np.ndim(rows[0]) == 0:
        rows = np.asarray(prompt)
        if rows.ndim != 2 or not rows.size:
            ragged = isinstance(prompt, tf.RaggedTensor)
            received = "a RaggedTensor. Try: its to_list()" if ragged else f"shape {rows.shape}"
            raise ValueError(
                "A prompt must have the shape [B, P] with at least one token, or be a list of "
                f"prompts. Received: {received}."
            )
    rows = [np.asarray(row) for row in rows]
    for row in rows:
        if row.ndim != 1 or not row.size:
            raise ValueError(
                "Each prompt must have the shape [P] with at least one token. "
                f"Received: shape {row.shape}."
            )
        if not np.issubdtype(row.dtype, np.integer):
            raise ValueError(f"A prompt must be integer ids. Received: dtype {row.dtype}.")
    model.embedding.clusters.check_ids(np.concatenate(rows), "The tokens of a prompt")
    return rows


def _checked_count(num_tokens) -> int:
    num_tokens = known(num_tokens)
    if not is_whole(num_tokens):
        raise ValueError(f"num_tokens must be an integer. Received: {num_tokens!r}.")
    if num_tokens < 1:
        raise ValueError(f"num_tokens must be at least 1. Received: {num_tokens}.")
    return int(num_tokens)


def _checked_stops(model, stop_ids):
    ids = np.asarray(stop_ids)
    if ids.ndim != 1 or (ids.size and not np.issubdtype(ids.dtype, np.integer)):
        raise ValueError(f"stop_ids must be a list of integer ids. Received: {stop_ids!r}.")
    if ids.size:
        model.embedding.clusters.check_ids(ids, "The stop_ids")
    return ids


def _row_seeds(seed, num_rows: int):
    given = np.asarray(seed)
    if not np.issubdtype(given.dtype, np.integer) or given.shape not in ((2,), (num_rows, 2)):
        of_python = seed is None or isinstance(seed, (int, float, str))
        received = repr(seed) if of_python else f"shape {given.shape}, dtype {given.dtype}"
        raise ValueError(
            "A seed must be two integers, shape [2], or two for each prompt, shape "
            f"[{num_rows}, 2]. Received: {received}. Try: seed=(1, 2), whose text is always the "
            "same, or seed=np.random.default_rng().integers(2**31, size=2)."
        )
    if ((given < -(2**31)) | (given >= 2**32)).any():
        raise ValueError(
            "A seed's integers must have 32 bits, since of others the rest would be left out. "
            f"Received: {seed!r}. Try: those modulo 2**31."
        )
    seed = tf.cast(given, tf.int32)
    if seed.shape == (2,):
        return row_noise.fold_in(tf.tile(seed[None], [num_rows, 1]), tf.range(num_rows))
    return seed
