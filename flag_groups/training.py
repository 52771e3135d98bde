"""Flags of training and evaluation: a flag for each field of `TrainConfig`."""

from absl import flags

from flag_groups.of_fields import boolean_flag, defaults, enum_flag, float_flag, integer_flag
from transformer_xl import TrainConfig
from transformer_xl.config import DISTRIBUTIONS, OPTIMIZERS, PRECISIONS

_TRAIN = defaults(TrainConfig)

TRAIN_FLAGS = (
    flags.DEFINE_integer("seed", _TRAIN["seed"], "Of weights, dropout and samples; below 2^32."),
    integer_flag(_TRAIN, "batch_size", "Streams of text read side by side, over all devices."),
    integer_flag(_TRAIN, "segment_length", "Tokens per stream and step."),
    boolean_flag(
        _TRAIN, "variable_length", "Whether segments are of 1/4, 1/2, 3/4 and all of that."
    ),
    boolean_flag(_TRAIN, "roll_streams", "Whether streams begin elsewhere in every epoch."),
    boolean_flag(_TRAIN, "reset_memory", "Whether nothing is remembered of another document."),
    enum_flag(_TRAIN, "optimizer", OPTIMIZERS, "The optimizer; adafactor keeps the least."),
    float_flag(_TRAIN, "learning_rate", "Its peak."),
    float_flag(
        _TRAIN,
        "weight_decay",
        "Part of the weights that a step takes away at a learning rate of 1; not for adam, and "
        "not of biases, norms and tables.",
    ),
    enum_flag(
        _TRAIN,
        "schedule",
        ("cosine", "inverse_sqrt", "constant"),
        "What the learning rate does after --warmup_steps.",
    ),
    integer_flag(_TRAIN, "warmup_steps", "Steps over which the learning rate rises from 0."),
    enum_flag(
        _TRAIN,
        "cosine_from",
        ("start", "warmup_end"),
        "Whether the cosine begins at step 0 or at the end of warm-up.",
    ),
    float_flag(_TRAIN, "min_learning_rate_ratio", "The cosine's end, as a part of the peak."),
    float_flag(_TRAIN, "clip_norm", "Largest global norm of the gradients; 0: no bound."),
    integer_flag(
        _TRAIN,
        "accumulate_steps",
        "Parts in which a batch is computed one after another, for less memory.",
    ),
    float_flag(_TRAIN, "ema_decay", "Of the moving average of weights that is evaluated; 0: none."),
    integer_flag(_TRAIN, "max_bad_steps", "Steps in a row without a finite loss that end the run."),
    float_flag(
        _TRAIN,
        "max_loss_rise",
        "Nats above the median of the reports before, beyond which a run has diverged; 0: never.",
    ),
    enum_flag(
        _TRAIN,
        "on_divergence",
        ("stop", "restore"),
        "Whether a run that diverges stops, or goes back to its last checkpoint and on with other "
        "batches.",
    ),
    enum_flag(
        _TRAIN,
        "distribution",
        DISTRIBUTIONS,
        "one device, mirrored over those of this machine, multi_worker over the machines of "
        "TF_CONFIG; auto: what there is.",
    ),
    integer_flag(_TRAIN, "max_steps", "Training steps in all."),
    integer_flag(_TRAIN, "report_every", "Steps between two reports."),
    integer_flag(_TRAIN, "eval_every", "Steps between two validations; 0: only at the end."),
    integer_flag(_TRAIN, "eval_steps", "Most segments of a validation; 0: the whole split."),
    integer_flag(_TRAIN, "checkpoint_every", "Steps between two checkpoints."),
    enum_flag(
        _TRAIN,
        "precision",
        PRECISIONS,
        "Of the products; auto: bfloat16 on GPUs that have it.",
    ),
    float_flag(_TRAIN, "loss_scale", "The first one in float16; it falls and rises by itself."),
    integer_flag(
        _TRAIN, "loss_scale_growth_steps", "Steps without an overflow after which it doubles."
    ),
    enum_flag(
        _TRAIN,
        "jit_compile",
        ("auto", "true", "false"),
        "Whether XLA compiles; auto: on GPUs; on CPUs training without dropout, and generation "
        "where 1,000 tokens or more are written one after another, in all texts.",
    ),
    integer_flag(_TRAIN, "eval_batch_size", "Streams in evaluation."),
    integer_flag(
        _TRAIN, "eval_segment_length", "Tokens per segment there. Default: --segment_length."
    ),
    integer_flag(
        _TRAIN, "eval_memory_length", "Tokens remembered there. Default: --memory_length."
    ),
    integer_flag(
        _TRAIN, "eval_clamp_length", "The bound there; -1: none. Default: --clamp_length."
    ),
    boolean_flag(_TRAIN, "eval_same_length", "The same, there. Default: --same_length."),
)
