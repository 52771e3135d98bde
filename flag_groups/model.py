"""Flags of the model: a flag for each field of `ModelConfig`."""

from absl import flags

from flag_groups.of_fields import boolean_flag, defaults, enum_flag, float_flag, integer_flag
from transformer_xl import ModelConfig

_MODEL = defaults(ModelConfig)

MODEL_FLAGS = (
    integer_flag(_MODEL, "num_layers", "Attention layers, each followed by a feed-forward one."),
    integer_flag(_MODEL, "model_dim", "Width of the hidden states; even."),
    integer_flag(
        _MODEL, "embedding_dim", "Width of the commonest words' vectors. Default: --model_dim."
    ),
    integer_flag(_MODEL, "num_heads", "Attention heads."),
    integer_flag(_MODEL, "head_dim", "Size of a head. Default: --model_dim / --num_heads."),
    integer_flag(_MODEL, "feed_forward_dim", "Width inside the feed-forward layers."),
    flags.DEFINE_list(
        "cutoffs",
        [],
        "Rising ids, separated by commas, where a new cluster of the vocabulary begins; empty for "
        "an ordinary softmax; auto: the fastest ones, by the counts of the training split.",
    ),
    integer_flag(
        _MODEL, "div_val", "By how much a cluster's vectors are narrower than the one before's."
    ),
    boolean_flag(
        _MODEL,
        "force_projection",
        "Whether there are projections behind vectors as wide as the model. Default: only at "
        "--div_val above 1.",
    ),
    boolean_flag(_MODEL, "tie_tables", "Whether the softmax uses the embedding's vectors."),
    flags.DEFINE_enum(
        "tie_projections",
        _MODEL["tie_projections"],
        ("all_but_head", "all", "none"),
        "In which clusters the softmax uses the embedding's projections.",
    ),
    boolean_flag(_MODEL, "untie_position_biases", "Whether each layer has its own biases u and v."),
    enum_flag(
        _MODEL,
        "layer_norm",
        ("post", "pre"),
        "Layer normalisation after the residual or before the layer.",
    ),
    float_flag(_MODEL, "layer_norm_epsilon", "Added to the variance."),
    boolean_flag(_MODEL, "final_norm", "Whether a layer normalisation follows the last block."),
    flags.DEFINE_string(
        "block_pattern",
        None,
        "Order of attention (a) and feed-forward (f) layers, --num_layers of them a. Default: af, "
        "af, ...",
    ),
    float_flag(_MODEL, "dropout", "Rate on embedding, positions, layers and last hidden states."),
    float_flag(_MODEL, "attention_dropout", "Rate on the attention weights."),
    integer_flag(_MODEL, "memory_length", "Tokens remembered of earlier segments."),
    enum_flag(
        _MODEL,
        "memory_start",
        ("empty", "zeros"),
        "What the first segment finds in memory: nothing, or zeros that are attended.",
    ),
    integer_flag(_MODEL, "clamp_length", "Largest distance told apart, in tokens; -1: no bound."),
    boolean_flag(
        _MODEL, "same_length", "Whether each token sees exactly --memory_length tokens, itself too."
    ),
    float_flag(_MODEL, "init_stddev", "Standard deviation of the starting weights."),
    float_flag(_MODEL, "projection_init_stddev", "Standard deviation of the starting projections."),
    boolean_flag(
        _MODEL,
        "rematerialize",
        "Whether the backward pass computes each block again: less memory, more time.",
    ),
    boolean_flag(
        _MODEL,
        "rematerialize_attention",
        "Whether the backward pass makes the attention weights again: less memory, more time. "
        "--rematerialize does that, too.",
    ),
    boolean_flag(
        _MODEL,
        "rematerialize_feed_forward",
        "Whether the backward pass computes the inner feed-forward layers again: less memory, more "
        "time. --rematerialize does that, too.",
    ),
)

MAX_CLUSTERS = flags.DEFINE_integer(
    "max_clusters", 4, "The most clusters that --cutoffs=auto may make.", lower_bound=1
)
