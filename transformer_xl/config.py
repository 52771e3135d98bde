"""ModelConfig and TrainConfig: every hyper-parameter, its default and its rules.

The fields have the names of the command line's flags. The defaults are those of the demo: a small
model that learns the built-in corpus in minutes on a CPU.
"""

import dataclasses

from adaptive.clusters import Clusters, per_cluster
from transformer_xl.config_rules import (
    LARGEST_SEED,
    at_least,
    check_lengths,
    finite,
    of_kind,
    one_of,
    whole,
)


@dataclasses.dataclass(frozen=True)
class ModelConfig:
    """The architecture. Lengths are in tokens.

    Attributes:
      vocab_size: number of ids, sorted by falling frequency.
      num_layers: attention layers, each followed by a feed-forward one.
      model_dim: width of the hidden states; even, for the sinusoids.
      embedding_dim: width of the first cluster's table; None means `model_dim`.
      num_heads: attention heads.
      head_dim: size of a head; None means `model_dim / num_heads`.
      feed_forward_dim: width inside the feed-forward layers.
      cutoffs: rising ids where a new cluster begins, without the vocabulary size; empty for an
        ordinary softmax.
      div_val: by how much a cluster's table is narrower than the one before.
      force_projection: None projects unless tables are `model_dim` wide; True and False as in
        `adaptive.AdaptiveEmbedding`.
      tie_tables: whether the softmax uses the embedding's tables.
      tie_projections: whether the softmax uses the embedding's projections, one bool for each
        cluster; also one bool for all, "all", "none" or "all_but_head".
      untie_position_biases: whether each layer has its own biases `u`, `v`.
      layer_norm: "post" or "pre", after the residual or before the layer.
      layer_norm_epsilon: added to the variance.
      final_norm: whether a layer normalisation follows the last block.
      block_pattern: the order of the attention (`a`) and feed-forward (`f`) layers, with
        `num_layers` times `a`; None means `"af" * num_layers`.
      dropout: rate on embedding, positions, each layer's result, inside the feed-forward layers
        and on the last hidden state.
      attention_dropout: rate on the attention weights.
      memory_length: positions remembered of earlier segments.
      memory_start: "empty", nothing is attended before the first segment; or "zeros", as many
        zeros as memory is long, as in the original TensorFlow code.
      clamp_length: the largest distance told apart; -1 for no bound.
      same_length: whether every query sees exactly `memory_length` keys, itself included.
      init_stddev: of the normal distribution that weights start from.
      projection_init_stddev: the same for the projections behind narrow tables.
      rematerialize: whether training computes each block again in the backward pass instead of
        keeping what is inside it: less memory, more time, the same gradients.
      rematerialize_attention: the same for the attention weights only, which grow with the product
        of segment and memory length.
      rematerialize_feed_forward: the same for the inner feed-forward layers only.

    A new configuration with other values comes of `with_changes`: `dataclasses.replace` leaves the
    fields for which None may stand as they were made of the old values.

    Raises:
      ValueError: for a value outside its rule; the message names the field.
    """

    vocab_size: int
    num_layers: int = 4
    model_dim: int = 128
    embedding_dim: int | None = None
    num_heads: int = 4
    head_dim: int | None = None
    feed_forward_dim: int = 512
    cutoffs: tuple[int, ...] = ()
    div_val: int | float = 1
    force_projection: bool | None = None
    tie_tables: bool = True
    tie_projections: tuple[bool, ...] | str | bool = "all_but_head"
    untie_position_biases: bool = True
    layer_norm: str = "post"
    layer_norm_epsilon: float = 1e-5
    final_norm: bool = False
    block_pattern: str | None = None
    dropout: float = 0.1
    attention_dropout: float = 0.0
    memory_length: int = 64
    memory_start: str = "empty"
    clamp_length: int = -1
    same_length: bool = False
    init_stddev: float = 0.02
    projection_init_stddev: float = 0.01
    rematerialize: bool = False
    rematerialize_attention: bool = False
    rematerialize_feed_forward: bool = False

    def __post_init__(self):
        of_kind(self)
        set_field = lambda name, value: object.__setattr__(self, name, value)  # noqa: E731
        for name in ("vocab_size", "num_layers", "model_dim", "num_heads", "feed_forward_dim"):
            whole(self, name, 1)
        if self.model_dim % 2:
            raise ValueError(
                "model_dim must be even, since positions are half sines and half cosines. "
                f"Received: model_dim={self.model_dim}."
            )
        if self.embedding_dim is None:
            set_field("embedding_dim", self.model_dim)
        if self.head_dim is None:
            if self.model_dim % self.num_heads:
                raise ValueError(
                    "Without head_dim, model_dim must be divisible by num_heads. Received: "
                    f"model_dim={self.model_dim}, num_heads={self.num_heads}. Give head_dim, or "
                    "other values for these."
                )
            set_field("head_dim", self.model_dim // self.num_heads)
        whole(self, "head_dim", 1)
        whole(self, "embedding_dim", 1)
        clusters = Clusters(self.vocab_size, self.cutoffs)
        clusters.widths(self.embedding_dim, self.div_val)
        set_field("cutoffs", clusters.cutoffs)
        set_field("tie_projections", self._tie_projections(clusters.num_clusters))
        one_of(self, "layer_norm", ("post", "pre"))
        one_of(self, "memory_start", ("empty", "zeros"))
        for name in ("dropout", "attention_dropout"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(
                    f"{name} must be at least 0 and below 1. Received: {getattr(self, name)}."
                )
        for name in ("layer_norm_epsilon", "init_stddev", "projection_init_stddev"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} must be above 0. Received: {getattr(self, name)}.")
        pattern = "af" * self.num_layers if self.block_pattern is None else self.block_pattern
        if set(pattern) - set("af") or pattern.count("a") != self.num_layers:
            raise ValueError(
                "block_pattern must consist of a (attention) and f (feed-forward), with a as often "
                f"as num_layers says. Received: block_pattern={pattern!r} with "
                f"{pattern.count('a')} times a, num_layers={self.num_layers}."
            )
        set_field("block_pattern", pattern)
        check_lengths(self.memory_length, self.clamp_length, self.same_length)
        finite(self)

    def with_changes(self, **changes) -> "ModelConfig":
        """The same with other values, which sizes that were made of the old ones follow.

        `embedding_dim`, `head_dim` and `block_pattern` are made anew where they are not given here
        and are what None stands for, whoever gave them; so is `tie_projections`, where it is what
        "all_but_head", "all" or "none" stands for.

        Args:
          **changes: fields.

        Raises:
          ValueError: as `ModelConfig`.

        Example:
          >>> ModelConfig(vocab_size=100).with_changes(model_dim=64).head_dim
          16
        """
        follows = {
            "embedding_dim": self.embedding_dim == self.model_dim,
            "head_dim": self.head_dim * self.num_heads == self.model_dim,
            "block_pattern": self.block_pattern == "af" * self.num_layers,
        }
        anew = {name: None for name, is_made in follows.items() if is_made}
        # The default last: with one cluster "none" is the same.
        for tied in ("none", "all", "all_but_head"):
            if self.tie_projections == _tied(tied, len(self.tie_projections)):
                anew["tie_projections"] = tied
        return dataclasses.replace(self, **{**anew, **changes})

    def _tie_projections(self, num_clusters: int) -> tuple[bool, ...]:
        if isinstance(self.tie_projections, str):
            one_of(self, "tie_projections", ("all_but_head", "all", "none"))
            return _tied(self.tie_projections, num_clusters)
        return per_cluster(self.tie_projections, num_clusters, "tie_projections")


def _tied(which: str, num_clusters: int) -> tuple[bool, ...]:
    return (which == "all",) + (which != "none",) * (num_clusters - 1)


OPTIMIZERS = ("adam", "adamw", "lamb", "adafactor")
PRECISIONS = ("auto", "float32", "bfloat16", "float16")
DISTRIBUTIONS = ("auto", "one", "mirrored", "multi_worker")


@dataclasses.dataclass(frozen=True)
class TrainConfig:
    """How a model is trained and evaluated. Lengths are in tokens, batch sizes in streams.

    Attributes:
      seed: of the starting weights and of dropout, below 2**32.
      batch_size: streams read side by side.
      segment_length: tokens per stream and step.
      variable_length: whether segments have lengths of a quarter, a half, three quarters and all
        of `segment_length`, in another order in every epoch.
      roll_streams: whether each stream begins at another place of its text in every epoch.
      reset_memory: whether memory ends where a document of the text begins.
      optimizer: "adam", "adamw", "lamb" or "adafactor"; see `training.optimizer`.
      learning_rate: its peak.
      weight_decay: a part of the weights, for each step at a learning rate of 1; not of biases,
        norms and tables, and not for "adam".
      schedule: "cosine", "inverse_sqrt" or "constant"; see `training.schedule`.
      warmup_steps: steps over which the learning rate rises from 0.
      cosine_from: where the cosine begins: "start", step 0, or "warmup_end".
      min_learning_rate_ratio: the cosine's end, as a part of the peak.
      clip_norm: the largest global norm of a step's gradients; 0 for no bound.
      accumulate_steps: parts in which a batch goes through the model, for less memory.
      ema_decay: of the moving average of the weights, which is then what is evaluated and kept as
        the best; 0 for none.
      max_steps: training steps in all.
      max_bad_steps: so many steps in a row with a loss or gradient that is not finite end a run.
      max_loss_rise: nats per token that the loss of a report may be above the median of the
        reports before; 0 for no bound.
      on_divergence: what follows either: "stop", or "restore", the last checkpoint, and other
        batches than those before.
      distribution: "one" device, "mirrored" over all of this machine, "multi_worker" over the
        machines of TF_CONFIG, or "auto": what there is.
      report_every: steps between two reports.
      eval_every: steps between two evaluations on the validation split; 0 for only the last.
      eval_steps: at most so many segments in each of these; 0 for the whole split.
      checkpoint_every: steps between two checkpoints.
      precision: "auto", "float32", "bfloat16" or "float16"; "auto" is bfloat16 on GPUs that have
        it.
      loss_scale: the first one of float16, which falls and rises; see `training.train_state`.
      loss_scale_growth_steps: after so many steps without an overflow it doubles.
      jit_compile: "auto", "true" or "false": whether XLA compiles the steps; see
        `training.devices`.
      eval_batch_size: as `batch_size`, in evaluation.
      eval_segment_length: as `segment_length`, in evaluation; None for the same.
      eval_memory_length, eval_clamp_length, eval_same_length: as the model's fields without
        `eval_`, in evaluation; None for the same.

    Raises:
      ValueError: for a value outside its rule; the message names the field.
    """

    seed: int = 1
    batch_size: int = 16
    segment_length: int = 64
    variable_length: bool = False
    roll_streams: bool = False
    reset_memory: bool = False
    optimizer: str = "adam"
    learning_rate: float = 1e-3
    weight_decay: float = 0.0
    schedule: str = "cosine"
    warmup_steps: int = 200
    cosine_from: str = "start"
    min_learning_rate_ratio: float = 0.0
    clip_norm: float = 0.25
    accumulate_steps: int = 1
    ema_decay: float = 0.0
    max_steps: int = 1000
    max_bad_steps: int = 10
    max_loss_rise: float = 1.5
    on_divergence: str = "stop"
    distribution: str = "auto"
    report_every: int = 50
    eval_every: int = 500
    eval_steps: int = 0
    checkpoint_every: int = 500
    precision: str = "auto"
    loss_scale: float = 2.0**15
    loss_scale_growth_steps: int = 2000
    jit_compile: str = "auto"
    eval_batch_size: int = 10
    eval_segment_length: int | None = None
    eval_memory_length: int | None = None
    eval_clamp_length: int | None = None
    eval_same_length: bool | None = None

    def __post_init__(self):
        of_kind(self)
        for name in ("batch_size", "segment_length", "eval_batch_size", "max_steps"):
            at_least(self, name, 1)
        for name in ("report_every", "checkpoint_every", "accumulate_steps", "max_bad_steps"):
            at_least(self, name, 1)
        for name in ("loss_scale", "loss_scale_growth_steps"):
            at_least(self, name, 1)
        for name in ("eval_every", "eval_steps", "warmup_steps", "seed", "max_loss_rise"):
            at_least(self, name, 0)
        if self.batch_size % self.accumulate_steps:
            raise ValueError(
                "batch_size must be divisible by accumulate_steps, the parts in which a batch is "
                f"computed. Received: batch_size={self.batch_size}, "
                f"accumulate_steps={self.accumulate_steps}."
            )
        if self.eval_segment_length is not None:
            at_least(self, "eval_segment_length", 1)
        if self.eval_memory_length is not None:
            at_least(self, "eval_memory_length", 0)
        if self.eval_clamp_length not in (None, -1) and self.eval_clamp_length < 1:
            raise ValueError(
                "eval_clamp_length must be at least 1, or -1 for no bound. "
                f"Received: {self.eval_clamp_length}."
            )
        one_of(self, "optimizer", OPTIMIZERS)
        one_of(self, "on_divergence", ("stop", "restore"))
        one_of(self, "distribution", DISTRIBUTIONS)
        one_of(self, "schedule", ("cosine", "inverse_sqrt", "constant"))
        one_of(self, "cosine_from", ("start", "warmup_end"))
        one_of(self, "precision", PRECISIONS)
        one_of(self, "jit_compile", ("auto", "true", "false"))
        if not self.learning_rate > 0:
            raise ValueError(f"learning_rate must be above 0. Received: {self.learning_rate}.")
        for name in ("clip_norm", "weight_decay"):
            at_least(self, name, 0)
        if self.weight_decay and self.optimizer == "adam":
            raise ValueError(
                "weight_decay needs an optimizer that has it: adamw, lamb or adafactor. Received: "
                f"optimizer='adam', weight_decay={self.weight_decay}."
            )
        if not 0 <= self.ema_decay < 1:
            raise ValueError(
                f"ema_decay must be at least 0 and below 1. Received: {self.ema_decay}."
            )
        if not 0 <= self.min_learning_rate_ratio <= 1:
            raise ValueError(
                "min_learning_rate_ratio must be from 0 to 1. "
                f"Received: {self.min_learning_rate_ratio}."
            )
        if self.seed > LARGEST_SEED:
            raise ValueError(f"seed must be from 0 to {LARGEST_SEED}. Received: {self.seed}.")
        finite(self, but=("clip_norm", "max_loss_rise"))


def evaluation_lengths(model: ModelConfig, train: TrainConfig) -> dict:
    """Memory and attention in evaluation: the model's, where nothing else is asked for.

    Returns:
      `memory_length`, `clamp_length` and `same_length`, by name.

    Raises:
      ValueError: if they do not fit together.
    """
    lengths = {}
    for name in ("memory_length", "clamp_length", "same_length"):
        own = getattr(train, f"eval_{name}")
        lengths[name] = getattr(model, name) if own is None else own
    check_lengths(**lengths)
    return lengths
