"""What train.py begins with, by the flags: a recorded run, given weights, a prepared corpus."""

import os
import sys

import flags
from data_utils import (
    ByteVocabulary,
    GivenVocabulary,
    PreparedCorpus,
    WordVocabulary,
    kind_of,
    load_corpus,
    load_vocabulary,
    own_min_count,
    prepare,
)
from modes import init_flags
from transformer_xl import TransformerXL
from transformer_xl.auto_cutoffs import auto_cutoffs
from transformer_xl.pretrained import is_huggingface, load_from
from transformer_xl.pretrained.source import KERAS_SUFFIX
from transformer_xl.training.checkpoints import Checkpoints
from transformer_xl.training.devices import resolve_precision
from transformer_xl.training.workdir import read_record


def recorded_run():
    """The directory and record of a trained model; its flags stand in for those not given."""
    if flags.WORKDIR.value is None:
        raise ValueError(f"--mode={flags.MODE.value} needs --workdir, the directory of a run.")
    directory = flags.workdir()
    record = read_record(directory)
    if record is None:
        raise FileNotFoundError(
            f"--workdir={directory} holds no run (it has no config.json). Train there first."
        )
    _take_flags(directory, record)
    record.check(directory, flags.model_config(record.model.vocab_size, record.model.cutoffs))
    return directory, record


def _take_flags(directory, record):
    """The flags that a run recorded stand in for those not given."""
    path = os.path.join(directory, "flags.txt")
    if not os.path.isfile(path):
        raise FileNotFoundError(
            f"A run's flags are needed. There is no {path}. Bring it back from a copy, or write it "
            "anew, a --flag=value a line, by config.json beside it."
        )
    unsaid = {}
    if flags.VOCABULARY.present or flags.VOCABULARY_MIN_COUNT.present:
        unsaid = _own_vocabulary(directory, record)
    try:
        with open(path, encoding="utf-8") as lines:
            unknown = flags.take_missing_from(lines, unsaid)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    if unknown:
        print(
            f"warning: {path} has flags that this version does not know, and leaves out: "
            f"{', '.join(unknown)}",
            file=sys.stderr,
        )


def _own_vocabulary(directory, record) -> dict[str, str]:
    """What the flags of a run's vocabulary mean where the run was begun without them."""
    vocabulary = load_vocabulary(os.path.join(directory, "vocabulary"))
    kind = kind_of(vocabulary)
    # That of given weights was not counted.
    given = isinstance(vocabulary, GivenVocabulary)
    least = None if given else own_min_count(record.data.get("corpus"), kind)
    return {"vocabulary": kind} | ({} if least is None else {"vocabulary_min_count": str(least)})


def run_vocabulary(directory, record):
    """The vocabulary of a run, if it is the one that its model was trained with.

    Raises:
      FileNotFoundError: if it is gone.
      ValueError: if it is another one, with which every number would be wrong.
    """
    path, prepared_one = (os.path.join(directory, n) for n in ("vocabulary", "data/vocabulary.txt"))
    vocabulary = load_vocabulary(path)
    expected = record.data.get("vocabulary")
    if expected is None and os.path.isfile(prepared_one):  # a run that did not record it
        expected = load_vocabulary(prepared_one).fingerprint()
    found = ""
    if vocabulary.size != record.model.vocab_size:
        found = f"{vocabulary.size:,} tokens, where the model has {record.model.vocab_size:,}"
    elif expected not in (None, vocabulary.fingerprint()):
        found = "as many tokens, but others or in another order"
    if found:
        raise ValueError(
            f"{path} must be the vocabulary that the run was trained with. Received: {found}. "
            f"Bring it back from a copy; {prepared_one} is one, if it is still there."
        )
    return vocabulary


def given_weights(config):
    """The model and vocabulary that --init_from names, or two Nones; sets the model's flags."""
    path = flags.INIT_FROM.value
    if path is None:
        return None, None
    model, tokens = load_from(path, init_flags.given_model_values(), **model_settings(config))
    init_flags.set_model(model.config)
    own = os.path.join(path, "vocabulary")  # a run's
    if os.path.isfile(own) and not is_huggingface(path):
        return model, run_vocabulary(path, read_record(path))
    exported = os.path.join(os.path.dirname(path), "vocabulary")
    if path.endswith(KERAS_SUFFIX) and os.path.isfile(exported):
        return model, _exported_vocabulary(exported, model.config.vocab_size)
    if tokens is None:
        raise ValueError(
            f"--init_from={path} needs the model's vocabulary. Put vocab.txt beside the weights, a "
            "token a line in the order of ids."
        )
    # Text for it comes in tokens already, as WikiText does.
    return model, GivenVocabulary(tokens, [0] * len(tokens), "whitespace")


def _exported_vocabulary(path, size):
    vocabulary = load_vocabulary(path)
    if vocabulary.size != size:
        raise ValueError(
            f"{path} must be the vocabulary of the model beside it. Received: {vocabulary.size:,} "
            f"tokens, where the model has {size:,}. Bring the one back that was exported with it."
        )
    return vocabulary


def best_model(directory, record, config):
    """The model of a run, with its best weights."""
    model = TransformerXL(record.model, **model_settings(config))
    Checkpoints(os.path.join(directory, "checkpoints"), model).restore_best()
    return model


def trained_model():
    """Settings, model and vocabulary of --init_from or else of the run in --workdir."""
    if flags.INIT_FROM.value is not None:
        config = resolve_precision(flags.train_config())
        return config, *given_weights(config)
    directory, record = recorded_run()
    config = resolve_precision(flags.train_config(), record.train)
    vocabulary = run_vocabulary(directory, record)
    return config, best_model(directory, record, config), vocabulary


def prepared(directory, vocabulary, say) -> PreparedCorpus:
    """The corpus of the flags, in a given vocabulary or, without, in its own."""
    given = {}
    counted = (flags.VOCABULARY_MIN_COUNT, flags.VOCABULARY_SIZE, flags.PIECE_MODEL)
    needless = [f"--{flag.name}={flag.value}" for flag in counted if flag.value != flag.default]
    if vocabulary is not None and needless:
        raise ValueError(
            "The vocabulary is the one of the weights in --init_from, and none is made from the "
            f"text. Received besides: {' '.join(needless)}. Leave them out."
        )
    if isinstance(vocabulary, WordVocabulary):
        given = {"tokens": vocabulary.tokens, "tokenization": vocabulary.tokenization}
    elif vocabulary is not None:
        given = {"given_vocabulary": vocabulary}
    settings = {**flags.preparation(), **given}
    any_bytes = settings["vocabulary"] == "byte" or isinstance(vocabulary, ByteVocabulary)
    corpus = load_corpus(
        flags.CORPUS.value, flags.DATA_DIR.value, flags.DOWNLOAD_DIR.value, say, any_bytes
    )
    data = prepare(corpus, os.path.join(directory, "data"), progress=say, **settings)
    for warning in data.warnings:
        say(f"warning: {warning}")
    return data


def chosen_cutoffs(data, model_config, train_config, say) -> tuple[int, ...]:
    """What --cutoffs=auto means for a vocabulary."""
    if not flags.cutoffs_are_automatic():
        return ()
    tokens_per_step = train_config.batch_size * train_config.segment_length
    chosen = auto_cutoffs(data.counts, flags.MAX_CLUSTERS.value, model_config, tokens_per_step)
    say(f"cutoffs {','.join(map(str, chosen)) or 'none: one cluster is fastest'}")
    return chosen


def workdir_for_results():
    """A directory for an evaluation that belongs to no run."""
    directory = flags.WORKDIR.value
    if not directory or read_record(directory) is not None:
        raise ValueError(
            f"--mode={flags.MODE.value} with --init_from needs --workdir, a folder without a run, "
            f"for the prepared text and the results. Received: {directory}."
        )
    return directory


def model_settings(config):
    """What a model is made with, besides its configuration."""
    policies = {"bfloat16": "mixed_bfloat16", "float16": "mixed_float16"}
    return {"seed": config.seed, "dtype": policies.get(config.precision, "float32")}
