"""Decoding: text from the model, one token after another, in one compiled loop.

B batch, P prompt length.
"""

import tensorflow as tf


def generate(
    model,
    prompt,
    num_tokens: int,
    seed,
    temperature: float = 1.0,
    top_k: int = 0,
    top_p: float = 1.0,
    memory_length: int | None = None,
):
    """Continues prompts.

    Args:
      model: a `TransformerXL`.
      prompt: int `[B, P]`, P at least 1; begin a text with the id of `<eos>`.
      num_tokens: how many tokens to add; at least 1.
      seed: int `[2]`; the same seed gives the same text.
      temperature: divides the log-probabilities; 0 takes the likeliest token.
      top_k: draw from the k likeliest tokens only; 0 for all.
      top_p: draw from the fewest tokens whose probabilities add up to p (Holtzman et al., 2020);
        1 for all.
      memory_length: positions remembered; None for the configuration's.

    Returns:
      int32 `[B, num_tokens]`, without the prompt.

    Raises:
      ValueError: for a value outside its rule.
    """
    prompt = tf.convert_to_tensor(prompt)
    if prompt.shape.rank != 2 or not prompt.shape[1]:
        raise ValueError(
            "A prompt must have the shape [B, P] with at least one token. "
            f"Received: shape {prompt.shape}."
        )
    if not prompt.dtype.is_integer:
        raise ValueError(f"A prompt must be integer ids. Received: dtype {prompt.dtype}.")
    model.embedding.clusters.check_ids(prompt, "The tokens of a prompt")
    for name, value, fine in (
        ("num_tokens must be at least 1", num_tokens, num_tokens >= 1),
        ("top_k must be at least 0", top_k, top_k >= 0),
    ):
        if not fine:
            raise ValueError(f"{name}. Received: {value}.")
    memory = model.initial_memory(prompt.shape[0], memory_length)

    @tf.function(autograph=False)
    def decode(prompt, seed, memory):
        hidden, memory = model(prompt, memory, training=False)

        def body(i, last, memory, tokens):
            step_seed = tf.random.experimental.stateless_fold_in(seed, i)
            chosen = model.head.sample(last, step_seed, temperature, top_k or None, top_p)
            tokens = tokens.write(i, chosen)
            hidden, memory = model(chosen[:, None], memory, training=False)
            return i + 1, hidden[:, -1], memory, tokens

        tokens = tf.TensorArray(tf.int32, num_tokens, element_shape=prompt.shape[:1])
        *_, tokens = tf.while_loop(
            lambda i, *_: i < num_tokens,
            body,
            (tf.constant(0), hidden[:, -1], memory, tokens),
            parallel_iterations=1,
        )
        return tf.transpose(tokens.stack())

    return decode(prompt, tf.cast(seed, tf.int32), memory)
