"""Weights to begin with, from wherever they are: `--init_from`."""

import dataclasses
import os
from collections.abc import Mapping

import keras

from adaptive.clusters import Clusters, projected
from transformer_xl.config import ModelConfig
from transformer_xl.model import TransformerXL
from transformer_xl.pretrained.huggingface import is_huggingface, load_huggingface
from transformer_xl.pretrained.original_pytorch import load_pytorch
from transformer_xl.pretrained.original_tensorflow import load_tf1
from transformer_xl.pretrained.vocabulary_files import load_tokens_beside
from transformer_xl.pretrained.weight_map import check_finite
from transformer_xl.training.checkpoints import Checkpoints
from transformer_xl.training.workdir import read_record

KERAS_SUFFIX = ".keras"
# What may be another than where the weights were made: no weight depends on it.
_FREE = {
    "dropout",
    "attention_dropout",
    "memory_length",
    "memory_start",
    "clamp_length",
    "same_length",
    "init_stddev",
    "projection_init_stddev",
    "rematerialize",
    "rematerialize_attention",
    "rematerialize_feed_forward",
}
# What one can ask for in several ways that make the same model.
_BY_EFFECT = {"force_projection", "tie_projections"}


def load_from(path: str, given: Mapping, **arguments) -> tuple[TransformerXL, list[str] | None]:
    """A model from any place that holds one.

    Args:
      path: a directory of HuggingFace's `save_pretrained`; a run's directory, whose best weights
        are taken; a `.keras` file of a `TransformerXL`, as exports have one; a state dict of the
        original PyTorch code; or the prefix of a checkpoint of the original TensorFlow code.
      given: fields of `ModelConfig` by name, what is asked for besides. Lengths, dropout and the
        start of memory may be other than they were; the architecture may not.
      **arguments: of `TransformerXL`, as `dtype` and `seed`.

    Returns:
      The pair (model, tokens in the order of their ids). Tokens are None where none are beside
      the weights, and for a run or an export, whose vocabulary has a format of its own.

    Raises:
      FileNotFoundError: if there is nothing to load.
      ValueError: if it does not fit; see the loaders.
    """
    if os.path.isdir(path):
        if is_huggingface(path):
            return _adapted(*load_huggingface(path, **arguments), given, path, arguments)
        record = read_record(path)
        if record is not None:
            model = TransformerXL(record.model, **arguments)
            Checkpoints(os.path.join(path, "checkpoints"), model).restore_best()
            check_finite(_by_path(model), path)
            return _adapted(model, None, given, path, arguments)
    elif os.path.exists(f"{path}.index"):
        return load_tf1(path, given, **arguments)
    elif path.endswith(KERAS_SUFFIX) and os.path.exists(path):
        model = _load_keras(path, arguments)
        tokens = load_tokens_beside(path, model.config.vocab_size)
        return _adapted(model, tokens, given, path, arguments)
    elif os.path.exists(path):
        return load_pytorch(path, given, **arguments)
    raise FileNotFoundError(
        f"There are no weights at {path}. It must be a directory of HuggingFace's (config.json and "
        "weights), a run's directory, the model.keras of an export, a PyTorch state dict, or the "
        "prefix of a TensorFlow checkpoint, without .index."
    )


def _load_keras(path: str, arguments: Mapping) -> TransformerXL:
    try:
        saved = keras.models.load_model(path, compile=False)
    except Exception as error:  # of a damaged file Keras raises nearly anything
        reason = (str(error).splitlines() or [""])[0][:200]
        raise ValueError(
            f"{path} cannot be read: it is damaged, cut short or no model that this library's "
            f"Keras knows ({type(error).__name__}: {reason})."
        ) from error
    if not isinstance(saved, TransformerXL):
        raise ValueError(
            f"{path} must hold a TransformerXL. Received: a {type(saved).__name__}. Save the "
            "TransformerXL that is in it by itself."
        )
    check_finite(_by_path(saved), path)
    # Not the saved one, which has the data type that it was saved with.
    return _with_weights_of(saved, TransformerXL(saved.config, **arguments))


def _by_path(model: keras.Model) -> dict:
    return {weight.path: weight.numpy() for weight in model.weights}


def _adapted(model, tokens, given, path, arguments):
    """The model with the settings that are given, where they are others than it has."""
    fields = [field.name for field in dataclasses.fields(ModelConfig)]
    unknown = [name for name in given if name not in fields]
    if unknown:
        raise ValueError(
            f"What is given must be fields of ModelConfig: {', '.join(fields)}. Received: "
            f"{', '.join(unknown)}."
        )
    plain = {name: value for name, value in given.items() if name not in _BY_EFFECT}
    _compare(plain, {name: getattr(model.config, name) for name in plain}, path)
    config = dataclasses.replace(model.config, **given)
    _compare(_architecture(config), _architecture(model.config), path)
    if config == model.config:
        return model, tokens
    return _with_weights_of(model, TransformerXL(config, **arguments)), tokens


def _with_weights_of(model: TransformerXL, other: TransformerXL) -> TransformerXL:
    model.trainable = True  # a frozen one has no trainable variables
    for variable, value in zip(other.trainable_variables, model.trainable_variables, strict=True):
        variable.assign(value)
    return other


def _compare(here: Mapping, there: Mapping, path: str):
    differences = [
        f"{name} is {there[name]} there, {here[name]} now"
        for name in here
        if name not in _FREE and here[name] not in (None, there[name])
    ]
    if differences:
        raise ValueError(
            f"The model in {path} has another architecture: {'; '.join(differences)}. Leave these "
            "settings out."
        )


def _architecture(config: ModelConfig) -> dict:
    """The fields that weights depend on, and what else makes the model, by effect."""
    clusters = Clusters(config.vocab_size, config.cutoffs)
    widths = clusters.widths(config.embedding_dim, config.div_val)
    has = projected(widths, config.model_dim, config.force_projection, config.div_val)
    fields = {
        field.name: getattr(config, field.name)
        for field in dataclasses.fields(config)
        if field.name not in _FREE
    }
    ties = tuple(tied and one for tied, one in zip(config.tie_projections, has))
    return {**fields, "force_projection": has, "tie_projections": ties}
