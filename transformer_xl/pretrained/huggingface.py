"""HuggingFace's TransfoXLLMHeadModel, read and written."""

import collections
import json
import os
import warnings
from collections.abc import Mapping, Sequence

import numpy as np

from adaptive.clusters import Clusters, projected
from transformer_xl.config import ModelConfig
from transformer_xl.model import TransformerXL
from transformer_xl.pretrained.keras_files import load_keras_weights
from transformer_xl.pretrained.state_dict import constants, entries_of, without_constants
from transformer_xl.pretrained.torch_files import load_torch_file
from transformer_xl.pretrained.vocabulary_files import FILES, load_tokens, read_tokens
from transformer_xl.pretrained.weight_map import collect, fill
from transformer_xl.safetensors_files import load_safetensors, save_safetensors

_PREFIX = "transformer."
_CONFIG = "config.json"
_TYPES = "transfo-xl", "transfo_xl"
_SAFETENSORS = "model.safetensors"
# The first that is there is read: those that cannot hold code come first.
_WEIGHTS = {
    _SAFETENSORS: load_safetensors,
    "tf_model.h5": load_keras_weights,
    "pytorch_model.bin": load_torch_file,
}
# What an absent key means, as in TransfoXLConfig of transformers 4.35.2.
_DEFAULTS = {
    "cutoffs": [20000, 40000, 200000],
    "d_model": 1024,
    "d_embed": 1024,
    "n_head": 16,
    "d_head": 64,
    "d_inner": 4096,
    "div_val": 4,
    "pre_lnorm": False,
    "n_layer": 18,
    "mem_len": 1600,
    "clamp_len": 1000,
    "same_length": True,
    "attn_type": 0,
    "sample_softmax": -1,
    "dropout": 0.1,
    "dropatt": 0.0,
    "untie_r": True,
    "proj_init_std": 0.01,
    "init_std": 0.02,
    "layer_norm_epsilon": 1e-5,
    "tie_word_embeddings": True,
}


def config_from_huggingface(config: Mapping) -> ModelConfig:
    """The `ModelConfig` of a HuggingFace `TransfoXLConfig`, given as a dictionary.

    Raises:
      ValueError: if the model is of a kind that this project does not have, or the vocabulary's
        size is missing.
    """
    config = {**_DEFAULTS, **config}
    if config["attn_type"] != 0 or config["sample_softmax"] > 0:
        raise ValueError(
            "Only relative attention (attn_type 0) with an adaptive softmax can be read. "
            f"Received: attn_type={config['attn_type']}, sample_softmax={config['sample_softmax']}."
        )
    vocab_size = config.get("vocab_size", config.get("n_token"))
    if vocab_size is None:
        raise ValueError("The configuration of a TransfoXL model needs vocab_size. It is missing.")
    num_clusters = len(config["cutoffs"]) + 1
    narrow = config["div_val"] > 1 or config["d_embed"] != config["d_model"]
    tie_projections = config.get("tie_projs")
    if tie_projections is None:
        shares = config.get("proj_share_all_but_first", True)
        tie_projections = [False] + [shares] * (num_clusters - 1)
    return ModelConfig(
        vocab_size=vocab_size,
        num_layers=config["n_layer"],
        model_dim=config["d_model"],
        embedding_dim=config["d_embed"],
        num_heads=config["n_head"],
        head_dim=config["d_head"],
        feed_forward_dim=config["d_inner"],
        cutoffs=tuple(config["cutoffs"]),
        div_val=config["div_val"],
        force_projection=narrow,
        tie_tables=config["tie_word_embeddings"],
        tie_projections=tuple(tie_projections[:num_clusters]) if narrow else False,
        untie_position_biases=config["untie_r"],
        layer_norm="pre" if config["pre_lnorm"] else "post",
        layer_norm_epsilon=config["layer_norm_epsilon"],
        dropout=config["dropout"],
        attention_dropout=config["dropatt"],
        memory_length=config["mem_len"],
        memory_start="zeros",
        clamp_length=config["clamp_len"] if config["clamp_len"] > 0 else -1,
        same_length=config["same_length"],
        init_stddev=config["init_std"],
        projection_init_stddev=config["proj_init_std"],
    )


def config_to_huggingface(config: ModelConfig, eos_id: int = 0) -> dict:
    """The `TransfoXLConfig`, as a dictionary, of a model.

    Args:
      config: of the model.
      eos_id: the id of `<eos>`.

    Raises:
      ValueError: if TransfoXL has no such model.
    """
    clusters = Clusters(config.vocab_size, config.cutoffs)
    widths = clusters.widths(config.embedding_dim, config.div_val)
    all_or_none = config.div_val > 1 or config.embedding_dim != config.model_dim
    has = projected(widths, config.model_dim, config.force_projection, config.div_val)
    for name, value, needed in (
        ("a whole div_val, like div_val", config.div_val, round(config.div_val)),
        ("block_pattern", config.block_pattern, "af" * config.num_layers),
        ("final_norm", config.final_norm, False),
        ("projections in each cluster", has, (all_or_none,) * clusters.num_clusters),
    ):
        if value != needed:
            raise ValueError(
                f"HuggingFace's TransfoXL needs {name} = {needed} here. Received: {value}."
            )
    return {
        "architectures": ["TransfoXLLMHeadModel"],
        "model_type": "transfo-xl",
        "vocab_size": config.vocab_size,
        "cutoffs": list(config.cutoffs),
        "d_model": config.model_dim,
        "d_embed": config.embedding_dim,
        "n_head": config.num_heads,
        "d_head": config.head_dim,
        "d_inner": config.feed_forward_dim,
        "div_val": int(config.div_val),  # TransfoXL computes no widths from a float
        "n_layer": config.num_layers,
        "pre_lnorm": config.layer_norm == "pre",
        "untie_r": config.untie_position_biases,
        "tie_projs": list(config.tie_projections),
        "proj_share_all_but_first": config.tie_projections[1:].count(True) > 0,
        "tie_word_embeddings": config.tie_tables,
        "mem_len": config.memory_length,
        "clamp_len": config.clamp_length,
        "same_length": config.same_length,
        "attn_type": 0,
        "sample_softmax": -1,
        "adaptive": True,
        "dropout": config.dropout,
        "dropatt": config.attention_dropout,
        "layer_norm_epsilon": config.layer_norm_epsilon,
        "init": "normal",
        "init_std": config.init_stddev,
        "proj_init_std": config.projection_init_stddev,
        "eos_token_id": eos_id,
    }


def assign_huggingface_weights(
    model: TransformerXL, weights: Mapping[str, np.ndarray], where: str = "the state dict"
):
    """Gives the model the weights of a HuggingFace `TransfoXLLMHeadModel`.

    Args:
      model: built from `config_from_huggingface`.
      weights: the state dict, as arrays. Tied ones may stand there once or under all names.
      where: they are from, for messages.

    Raises:
      ValueError: if weights are missing, left over, of another shape, or differ where they are
        tied. The model is then as it was.
    """
    weights = {name: np.asarray(value) for name, value in weights.items()}
    weights = without_constants(weights, _PREFIX, model.config.model_dim)
    fill(entries_of(model, _PREFIX, repeated_biases=True), weights, where)


def is_huggingface(directory: str) -> bool:
    """Whether a directory looks like one that `save_pretrained` wrote for TransfoXL."""
    try:
        config = _read_config(directory)
    except (OSError, ValueError):
        return False
    return config.get("model_type") in _TYPES or "n_layer" in config


def load_huggingface(directory: str, **arguments) -> tuple[TransformerXL, list[str] | None]:
    """A model that HuggingFace's `save_pretrained` wrote, as `transfo-xl-wt103`.

    The directory has `config.json`, the weights as `model.safetensors`, `tf_model.h5` or
    `pytorch_model.bin` (the first of these that is there is read; no pickled code is run), and
    perhaps a vocabulary, see `vocabulary_files`. As there, memory starts as zeros that are
    attended.

    Args:
      directory: its path.
      **arguments: of `TransformerXL`, as `dtype` and `seed`.

    Returns:
      The pair (model, its tokens in the order of ids or None).

    Raises:
      FileNotFoundError: if configuration or weights are missing.
      ValueError: if a file is damaged, or the weights do not fit the configuration.
    """
    config = _read_config(directory)
    paths = {os.path.join(directory, name): load for name, load in _WEIGHTS.items()}
    path = next(filter(os.path.exists, paths), None)
    if path is None:
        raise FileNotFoundError(
            f"{directory} needs weights: {', '.join(_WEIGHTS)}. It has none of them."
        )
    weights = arrays_in(paths[path](path), path)
    try:
        config = config_from_huggingface(config)
    except (TypeError, AttributeError) as error:
        raise ValueError(
            f"{os.path.join(directory, _CONFIG)} is no configuration of TransfoXL: {error}."
        ) from error
    tokens = load_tokens(directory, config.vocab_size)
    model = TransformerXL(config, **arguments)
    assign_huggingface_weights(model, weights, path)
    return model, tokens


def save_huggingface(model: TransformerXL, directory: str, tokens: Sequence[str] | None = None):
    """Writes a model so that HuggingFace's `TransfoXLLMHeadModel.from_pretrained` loads it.

    `config.json`, `model.safetensors` and, with tokens, `vocab.txt`. TransfoXL always attends to
    zeros before the first segment; a model whose `memory_start` is "empty" gives other numbers
    there until memory is full, and a warning says so.

    Args:
      model: a `TransformerXL`.
      directory: made if need be; files of these names are replaced, each whole or not at all, if
        they are a TransfoXL's. No other weights may be there, nor a vocabulary of other tokens.
      tokens: in the order of their ids.

    Raises:
      ValueError: if TransfoXL has no such model, or the tokens do not fit it.
      FileExistsError: if the directory has files of another model. They are as they were.
    """
    tokens = None if tokens is None else list(tokens)
    if tokens is not None and len(tokens) != model.config.vocab_size:
        raise ValueError(
            f"tokens must be one for each of the {model.config.vocab_size:,} ids. "
            f"Received: {len(tokens):,}."
        )
    wrong = [token for token in tokens or () if not _fits_a_line(token)]
    if wrong:
        raise ValueError(
            "vocab.txt has a token a line, so that a token is a str and has no white space. "
            f"Received: {wrong[0]!r}."
        )
    twice = [token for token, count in collections.Counter(tokens or ()).items() if count > 1]
    if twice:
        raise ValueError(f"Each id needs a token of its own. Received twice: {twice[0]!r}.")
    _check_no_other_model(directory, tokens)
    eos_id = tokens.index("<eos>") if tokens and "<eos>" in tokens else 0
    config = config_to_huggingface(model.config, eos_id)
    entries = entries_of(model, _PREFIX, repeated_biases=True)
    arrays = {**collect(entries), **constants(_PREFIX, model.config.model_dim)}
    for entry in entries:
        # HuggingFace finds tied tables and projections by itself, but not shared biases.
        copies = [name for name in entry.names[1:] if not name.startswith("crit.")]
        arrays.update(dict.fromkeys(copies, arrays[entry.names[0]]))
    if model.config.memory_start == "empty" and model.config.memory_length:
        warnings.warn(
            "TransfoXL starts with a memory of zeros that it attends to, this model with an empty "
            "one: the first memory_length tokens of a text will get other numbers there.",
            stacklevel=2,
        )
    os.makedirs(directory, exist_ok=True)
    save_safetensors(arrays, os.path.join(directory, _SAFETENSORS), {"format": "pt"})
    _write(os.path.join(directory, _CONFIG), json.dumps(config, indent=2) + "\n")
    if tokens is not None:
        _write(os.path.join(directory, "vocab.txt"), "".join(f"{token}\n" for token in tokens))


def _check_no_other_model(directory: str, tokens: Sequence[str] | None):
    """Refuses files that would be read in place of new ones, and settings of something else."""
    replaced = {_CONFIG, _SAFETENSORS} if tokens is None else {_CONFIG, _SAFETENSORS, "vocab.txt"}
    if not is_huggingface(directory) or _read_config(directory).get("model_type") not in _TYPES:
        replaced = set()  # what is there is another's, GPT-2's for instance
    others = [
        name
        for name in (_CONFIG, *_WEIGHTS, *FILES)
        if name not in replaced and os.path.lexists(os.path.join(directory, name))
        if name not in FILES or not _has_tokens(os.path.join(directory, name), tokens)
    ]
    if others:
        raise FileExistsError(
            "A model must not be saved among the files of another one, which would be read with it "
            f"or lost. Received: {directory}, which has {', '.join(others)}. Remove them, or name "
            "another folder" + ("; or give the tokens." if tokens is None else ".")
        )


def _has_tokens(path: str, tokens: Sequence[str] | None) -> bool:
    try:
        return read_tokens(path) == tokens
    except (OSError, ValueError):
        return False


def _fits_a_line(token) -> bool:
    return isinstance(token, str) and token.split() == [token]


def arrays_in(weights, path: str) -> dict[str, np.ndarray]:
    """A state dict's arrays.

    Raises:
      ValueError: if it is none.
    """
    if isinstance(weights, Mapping) and all(
        isinstance(name, str) and isinstance(value, np.ndarray) for name, value in weights.items()
    ):
        return dict(weights)
    keys = f" Its keys: {', '.join(map(str, list(weights)[:8]))}." * isinstance(weights, Mapping)
    raise ValueError(
        f"{path} must hold a state dict, names and tensors, and holds something else.{keys} Save "
        "only model.state_dict()."
    )


def _read_config(directory: str) -> dict:
    path = os.path.join(directory, _CONFIG)
    if not os.path.exists(path):
        raise FileNotFoundError(f"{directory} must hold a {_CONFIG}. There is none.")
    try:
        with open(path, encoding="utf-8") as file:
            config = json.load(file)
    except ValueError as error:
        raise ValueError(f"{path} is not JSON: {error}.") from error
    if not isinstance(config, dict):
        raise ValueError(f"{path} must hold an object with the settings. It does not.")
    return config


def _write(path: str, text: str):
    temporary = f"{path}.tmp"
    with open(temporary, "w", encoding="utf-8") as file:
        file.write(text)
    os.replace(temporary, path)
