"""The training steps that `benchmarks.training_step` compares, each behind the same function.

A method is built in a process of its own, in the interpreter that has its library: nothing of
TensorFlow, PyTorch or this project is imported before it is asked for.

B batch, L segment length, M memory length, V vocabulary.
"""

import dataclasses
import sys
from collections.abc import Callable

import numpy as np

PEER = "huggingface"
METHODS = (
    "ours",
    "ours_xla",
    "ours_attention_again",
    "ours_feed_forward_again",
    "ours_both_again",
    "ours_rematerialized",
    PEER,
)
LEARNING_RATE, CLIP_NORM = 2.5e-4, 0.25


@dataclasses.dataclass(frozen=True)
class Case:
    """One method at one size, by default wikitext103_base; what a worker is told."""

    method: str
    batch_size: int = 4
    segment_length: int = 150
    memory_length: int = 150
    vocab_size: int = 267_735
    cutoffs: tuple[int, ...] = (20_000, 40_000, 200_000)
    div_val: int = 1
    num_layers: int = 16
    model_dim: int = 410
    num_heads: int = 10
    head_dim: int = 41
    feed_forward_dim: int = 2100
    dropout: float = 0.1
    dtype: str = "float32"
    threads: int = 1
    seed: int = 1


def zipf_ids(case: Case, step: int):
    """Ids as words occur in text, id 0 the most often: int32 `[B, L + 1]`."""
    shares = 1.0 / np.arange(1, case.vocab_size + 1)
    ends = np.cumsum(shares / shares.sum())
    shape = (case.batch_size, case.segment_length + 1)
    draws = np.random.default_rng([case.seed, step]).random(shape)
    return np.minimum(np.searchsorted(ends, draws), case.vocab_size - 1).astype(np.int32)


def load(case: Case) -> Callable:
    """Imports a method's library and gives it its threads.

    Args:
      case: of the method.

    Returns:
      A function that builds model and optimizer and returns the pair of the number of parameters
      and a function of int32 ids `[B, L + 1]`, which trains on them, with the memory that the last
      call left, and returns the loss in nats per token.

    Raises:
      ImportError: if the library is not there.
    """
    if case.method == PEER:
        import torch
        import transformers

        torch.set_num_threads(case.threads)
        return lambda: _huggingface(case, torch, transformers)
    # Keras imports pandas and matplotlib where they are: here the built-in corpus and the plots
    # brought them. They are 67 and 30 MB, and no part of a step. (train.py draws its own curve.)
    for module in ("pandas", "matplotlib"):
        sys.modules.setdefault(module, None)
    import tensorflow as tf

    tf.config.threading.set_intra_op_parallelism_threads(case.threads)
    tf.config.threading.set_inter_op_parallelism_threads(case.threads)
    # PyTorch does not round the inputs of float32 products either, unless it is asked to.
    tf.config.experimental.enable_tensor_float_32_execution(False)
    import keras

    import transformer_xl  # noqa: F401 (so that importing takes no part in building)

    policy = "float32" if case.dtype == "float32" else f"mixed_{case.dtype}"
    keras.config.set_dtype_policy(policy)
    return lambda: _ours(case, tf)


def _ours(case, tf):
    from transformer_xl import ModelConfig, TransformerXL
    from transformer_xl.config import TrainConfig
    from transformer_xl.training.memory_use import forget_kernels, lean_first_call
    from transformer_xl.training.optimizer import make_optimizer
    from transformer_xl.training.steps import make_train_step

    fields = {field.name for field in dataclasses.fields(ModelConfig)}
    config = {name: value for name, value in dataclasses.asdict(case).items() if name in fields}
    config["rematerialize"] = case.method == "ours_rematerialized"
    both = case.method == "ours_both_again"
    config["rematerialize_attention"] = both or case.method == "ours_attention_again"
    config["rematerialize_feed_forward"] = both or case.method == "ours_feed_forward_again"
    model = TransformerXL(ModelConfig(**config), seed=case.seed)
    optimizer = make_optimizer(TrainConfig(learning_rate=LEARNING_RATE, warmup_steps=0))
    step = make_train_step(model, optimizer, CLIP_NORM, jit_compile=case.method == "ours_xla")
    # As train.py does.
    forget_kernels(case.seed)
    step = lean_first_call(step)
    memory = model.initial_memory(case.batch_size)
    weights = tf.ones([case.batch_size, case.segment_length])

    def train(ids):
        nonlocal memory
        memory, metrics = step(tf.constant(ids[:, :-1]), tf.constant(ids[:, 1:]), weights, memory)
        return float(metrics.loss)

    return model.count_params(), train


def _huggingface(case, torch, transformers):
    config = transformers.TransfoXLConfig(
        vocab_size=case.vocab_size,
        cutoffs=list(case.cutoffs),
        d_model=case.model_dim,
        d_embed=case.model_dim,
        n_head=case.num_heads,
        d_head=case.head_dim,
        d_inner=case.feed_forward_dim,
        div_val=case.div_val,
        n_layer=case.num_layers,
        mem_len=case.memory_length,
        clamp_len=-1,
        same_length=False,
        dropout=case.dropout,
        dropatt=0.0,
        # Its own default ties the projections of no cluster; this is the original recipe.
        proj_share_all_but_first=True,
    )
    torch.manual_seed(case.seed)
    model = transformers.TransfoXLLMHeadModel(config)
    model.train()
    optimizer = torch.optim.Adam(model.parameters(), lr=LEARNING_RATE)
    memory = None

    def train(ids):
        nonlocal memory
        inputs, targets = (torch.from_numpy(part).long() for part in (ids[:, :-1], ids[:, 1:]))
        optimizer.zero_grad()
        output = model.transformer(inputs, mems=memory)
        hidden, memory = output.last_hidden_state, output.mems
        # Its softmax shifts by itself: a column more on both sides, which it drops.
        hidden = torch.cat([hidden, hidden[:, -1:]], 1)
        labels = torch.cat([targets[:, :1], targets], 1)
        loss = model.crit(hidden, labels).mean()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), CLIP_NORM)
        optimizer.step()
        return loss.item()

    return sum(one.numel() for one in model.parameters()), train
