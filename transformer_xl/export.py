"""SavedModels that plain TensorFlow serves: tensors in, tensors out, memory among both.

B batch, L segment length, M memory length, N attention layers, D width, V vocabulary.
"""

import os

import tensorflow as tf

from adaptive.sampling import gumbel
from transformer_xl.config_rules import check_lengths
from transformer_xl.memory import Memory
from transformer_xl.shapes import known


class Exports:
    """Gives a model the `export` that Keras promises, whose own knows no memory."""

    def export(self, filepath, format="tf_saved_model", verbose=None, **lengths):
        """Writes a SavedModel that plain TensorFlow loads, by `save_served`.

        Args:
          filepath: of the folder to write; must not exist.
          format: must be "tf_saved_model".
          verbose: whether to print what was written; None for yes.
          **lengths: of `save_served`: `memory_length`, by default the configuration's,
            `clamp_length` and `same_length`.

        Returns:
          What `save_served` returns.

        Raises:
          ValueError: for another format, or what `save_served` does not take.
          FileExistsError: if the folder exists.
        """
        if format != "tf_saved_model":
            raise ValueError(
                f'A TransformerXL exports to "tf_saved_model". Received: format={format!r}.'
            )
        unknown = set(lengths) - {"memory_length", "clamp_length", "same_length"}
        if unknown:
            raise ValueError(
                "A TransformerXL exports signatures of its own, for which memory_length, "
                f"clamp_length and same_length may be given. Received: {', '.join(unknown)}."
            )
        lengths.setdefault("memory_length", self.config.memory_length)
        facts = save_served(self, filepath, **lengths)
        if verbose is not False:
            print(f"SavedModel: {filepath}, with a memory of {facts['memory_length']} tokens")
        return facts


class _Served(tf.Module):
    """The functions of a SavedModel; the variables are attributes, so that they are saved."""

    def __init__(self, variables):
        super().__init__()
        self.model_variables = variables


def save_served(
    model,
    directory: str | os.PathLike,
    memory_length: int,
    clamp_length: int | None = None,
    same_length: bool | None = None,
) -> dict:
    """Writes a SavedModel that needs nothing but TensorFlow.

    Its signatures, with the tensors' names. B and L may be any in each call; M is fixed. Memory
    is float32 at the boundary, whatever the model computes in; in `generate_step` L is at least 1.

    | signature | in | out |
    |---|---|---|
    | `initial_memory` | `batch_size` int32 `[]` | memory |
    | `score` | `tokens`, `targets` int32 `[B, L]`, memory | `log_prob` float32 `[B, L]`, memory |
    | `log_prob` | `tokens`, memory | `log_prob` float32 `[B, L, V]`, memory |
    | `generate_step` | `tokens`, memory, `seed`, `temperature`, `top_k`, `top_p`, each `[B]` | \
`token` int32 `[B]`, `log_prob` float32 `[B]`, memory |

    Memory is the pair `memory_hidden` float32 `[B, N, M, D]`, oldest position first, and
    `memory_valid` int32 `[B]`, how many of the newest positions are real. A step of generation
    reads its tokens and draws the next one: `temperature` 0 takes the likeliest, `top_k` 0 and
    `top_p` 1 bound nothing. Each row has a seed of its own and does not depend on the others;
    with each call give another.

    Args:
      model: a `TransformerXL`.
      directory: written whole or not at all; must not exist.
      memory_length: M.
      clamp_length, same_length: as in the model's calls.

    Returns:
      What a client must know: a dict of `vocab_size`, `num_layers`, `model_dim`,
      `memory_length`, `clamp_length`, `same_length`, `memory_start`.

    Raises:
      FileExistsError: if the directory exists.
      ValueError: for lengths that do not go together, as in the model's calls.
    """
    directory = os.fspath(directory)
    if os.path.exists(directory):
        raise FileExistsError(
            f"A SavedModel is not written over another one. Received: {directory}, which exists. "
            "Remove it, or name another place."
        )
    config = model.config
    memory_length = known(memory_length)
    lengths = {
        "clamp_length": known(config.clamp_length if clamp_length is None else clamp_length),
        "same_length": known(config.same_length if same_length is None else same_length),
    }
    check_lengths(memory_length, **lengths)
    served, signatures = _functions(model, memory_length, lengths)
    partial = f"{directory.rstrip('/')}.partial-{os.getpid()}"
    tf.saved_model.save(served, partial, signatures=signatures)
    os.replace(partial, directory)
    return {
        "vocab_size": config.vocab_size,
        "num_layers": config.num_layers,
        "model_dim": config.model_dim,
        "memory_length": memory_length,
        **lengths,
        "memory_start": config.memory_start,
    }


def _functions(model, memory_length: int, lengths: dict):
    config = model.config
    hidden_shape = [None, config.num_layers, memory_length, config.model_dim]
    memory_specs = {
        "memory_hidden": tf.TensorSpec(hidden_shape, tf.float32, "memory_hidden"),
        "memory_valid": tf.TensorSpec([None], tf.int32, "memory_valid"),
    }

    def spec(name, shape, dtype=tf.int32):
        return tf.TensorSpec(shape, dtype, name)

    def function(*specs):
        specs = {one.name: one for one in specs}
        return lambda body: tf.function(body, autograph=False).get_concrete_function(**specs)

    memory = memory_specs.values()
    tokens = spec("tokens", [None, None])

    @function(spec("batch_size", []))
    def initial_memory(batch_size):
        return _named(model.initial_memory(batch_size, memory_length))

    @function(tokens, spec("targets", [None, None]), *memory)
    def score(tokens, targets, memory_hidden, memory_valid):
        before = _memory(model, memory_hidden, memory_valid)
        nll, after = model.nll(tokens, targets, before, training=False, **lengths)
        return {"log_prob": -nll, **_named(after)}

    @function(tokens, *memory)
    def log_prob(tokens, memory_hidden, memory_valid):
        before = _memory(model, memory_hidden, memory_valid)
        result, after = model.log_prob(tokens, before, **lengths)
        return {"log_prob": result, **_named(after)}

    @function(
        tokens,
        *memory,
        spec("seed", [None]),
        spec("temperature", [None], tf.float32),
        spec("top_k", [None]),
        spec("top_p", [None], tf.float32),
    )
    def generate_step(tokens, memory_hidden, memory_valid, seed, temperature, top_k, top_p):
        before = _memory(model, memory_hidden, memory_valid)
        hidden, after = model(tokens, before, training=False, **lengths)
        of_ids = model.head.log_prob(hidden[:, -1])
        token = _draw(of_ids, seed, temperature, top_k, top_p)
        chosen = tf.gather(of_ids, token, batch_dims=1)
        return {"token": token, "log_prob": chosen, **_named(after)}

    signatures = {
        "initial_memory": initial_memory,
        "score": score,
        "log_prob": log_prob,
        "generate_step": generate_step,
        "serving_default": score,
    }
    served = _Served([variable.value for variable in model.variables])
    for name, signature in signatures.items():
        if name != "serving_default":
            setattr(served, name, signature)
    return served, signatures


def _memory(model, hidden, valid) -> Memory:
    hidden = tf.cast(hidden, model.compute_dtype)
    return Memory(tuple(tf.unstack(hidden, axis=1)), valid)


def _named(memory: Memory) -> dict:
    hidden = tf.cast(tf.stack(memory.hidden, 1), tf.float32)
    return {"memory_hidden": hidden, "memory_valid": memory.valid}


def _draw(log_prob_BV, seed_B, temperature_B, top_k_B, top_p_B):
    """One id for each row, int32 `[B]`; a row's does not depend on the others."""
    vocab_size = log_prob_BV.shape[-1]
    # Columns by falling probability, among equals the lower id first; column 0 is the likeliest.
    ordered, ids = tf.math.top_k(log_prob_BV, vocab_size)
    logits = ordered / tf.where(temperature_B > 0, temperature_B, 1.0)[:, None]
    columns = tf.range(vocab_size)[None]
    bound = tf.where(top_k_B > 0, top_k_B, vocab_size)[:, None]
    bound = tf.where(temperature_B[:, None] > 0, bound, 1)
    logits = tf.where(columns < bound, logits, float("-inf"))
    # An id stays if those before it do not yet add up to p; so the first always does.
    before = tf.cumsum(tf.nn.softmax(logits), axis=-1, exclusive=True)
    logits = tf.where((columns == 0) | (before < top_p_B[:, None]), logits, float("-inf"))
    noise = tf.map_fn(
        lambda seed: gumbel([vocab_size], tf.stack([seed, 0])),
        seed_B,
        fn_output_signature=tf.float32,
    )
    column = tf.argmax(logits + noise, -1, output_type=tf.int32)
    return tf.gather(ids, column, batch_dims=1)
