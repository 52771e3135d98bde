"""The flags of train.py, and the configurations made of them.

What to do and with which data is here; the flags of model, training and text are in
`flag_groups/`. A flag has the name of the configuration's field and the field's default. Values
are read only inside functions, after parsing.
"""

import os
import re
from collections.abc import Mapping

from absl import flags

from data_utils import VOCABULARY_KINDS, is_of_sentences
from flag_groups import inspection, text
from flag_groups.model import MAX_CLUSTERS, MODEL_FLAGS
from flag_groups.training import TRAIN_FLAGS
from transformer_xl import ModelConfig, TrainConfig

MODES = ("train", "eval", "generate", "score", "export", "explore", "prepare")
SPLITS = ("all", "train", "valid", "test")

MODE = flags.DEFINE_enum(
    "mode",
    "train",
    MODES,
    "train: train, or go on, and evaluate; eval: evaluate a trained model; generate: write text; "
    "score: log-probabilities of lines; export: write a SavedModel for serving; explore: write a "
    "page that shows how well a text was predicted; prepare: prepare the corpus for training, and "
    "report what it has.",
)
WORKDIR = flags.DEFINE_string(
    "workdir", None, "Folder of the run: everything is written there. Default: runs/<corpus>."
)
INIT_FROM = flags.DEFINE_string(
    "init_from",
    None,
    "Weights to begin with, instead of a run's: a folder of HuggingFace's TransfoXL, a "
    "run's folder, an export's model.keras, a state dict of the original PyTorch code or a "
    "checkpoint of the original TensorFlow code. They bring architecture and vocabulary.",
)
OUTPUT = flags.DEFINE_string(
    "output",
    None,
    "Where --mode=export writes its folder and --mode=explore its page; neither is written over. "
    "Default: export and explore.html in --workdir, where the page may be replaced. Other modes "
    "write to standard output or into --workdir.",
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


# What the ids of a run's text, and so its weights, depend on.
_TEXT_FLAGS = (
    CORPUS,
    DATA_DIR,
    VOCABULARY_MIN_COUNT,
    VOCABULARY_SIZE,
    VOCABULARY,
    LOWERCASE,
    PIECE_MODEL,
)
# What would be missed where it is not heeded, and the modes that do.
_OF_MODES = (
    (OUTPUT, ("export", "explore")),
    (text.INPUT_FILE, ("generate", "score", "explore")),
    *((holder, ("generate",)) for holder in text.OF_WRITING),
    (text.SCORE_FORMAT, ("score",)),
    (text.SCORE_CONTEXT, ("score",)),
    (SPLIT, ("eval",)),
    (inspection.DRY_RUN, ("train",)),
    (inspection.PROFILE_STEPS, ("train",)),
)
# What a run directory repeats; the others say what to do with it.
_RUN_FLAGS = (
    INIT_FROM,
    *_TEXT_FLAGS,
    DOWNLOAD_DIR,
    MAX_CLUSTERS,
    *MODEL_FLAGS,
    *TRAIN_FLAGS,
)


def check_mode():
    """Refuses what the mode would not do, though a flag asks for it.

    Raises:
      ValueError: if there is such a flag.
    """
    for holder, modes in _OF_MODES:
        if holder.value != holder.default and MODE.value not in modes:
            hint = ""
            if holder is OUTPUT and MODE.value in ("generate", "score"):
                hint = ", and let the shell write: > FILE"
            # A line for each time that it was given.
            given = " ".join(flags.FLAGS[holder.name].serialize().splitlines())
            raise ValueError(
                f"--{holder.name} is for {' and '.join(f'--mode={mode}' for mode in modes)}. "
                f"Received: {given} with --mode={MODE.value}. Leave it out{hint}."
            )


def workdir() -> str:
    """The run's directory.

    Raises:
      ValueError: for an empty name, which an unset variable of a script leaves.
    """
    if WORKDIR.value == "":
        raise ValueError(
            "--workdir must be a folder. Received: nothing. Leave the flag out for the default."
        )
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
    if min(values["cutoffs"], default=1) < 1:
        raise ValueError(
            "--cutoffs must be ids that are at least 1, where a new cluster begins; the first "
            f"begins at 0 by itself. Received: {','.join(cutoffs)}."
        )
    return values


def train_config() -> TrainConfig:
    """The training's configuration.

    Raises:
      ValueError: as `TrainConfig`.
    """
    return TrainConfig(**{holder.name: holder.value for holder in TRAIN_FLAGS})


def check_streams(kind: str | None = None):
    """The rule on how a corpus may be read in training, known before it is read.

    Args:
      kind: of a given vocabulary; None where the flags say it.

    Raises:
      ValueError: if it is broken.
    """
    sentences = is_of_sentences(CORPUS.value, kind or VOCABULARY.value)
    if sentences and flags.FLAGS["roll_streams"].value:
        raise ValueError(
            f"--roll_streams is not for --corpus={CORPUS.value}, whose sentences stand in another "
            "order in every epoch anyway. Received: both. Leave it out."
        )


def as_flagfile() -> str:
    """A flagfile that repeats the run; flags whose value is None are left out."""
    lines = [f"--workdir={workdir()}"]
    for holder in _RUN_FLAGS:
        if holder.value is not None:
            lines.append(flags.FLAGS[holder.name].serialize())
    return "\n".join(line for line in lines if line) + "\n"


def take_missing_from(flagfile_lines, unsaid: Mapping[str, str] | None = None) -> list[str]:
    """Sets the flags that the command line does not give to the values of a recorded run.

    Args:
      flagfile_lines: of the run.
      unsaid: what flags mean by name that the run does not give, where it is the corpus' own; None
        where the command line does not give them either.

    Returns:
      The flags of the run that there are none of here, which are left out.

    Raises:
      ValueError: if a value is none of its flag, or the command line gives another text than the
        run's.
    """
    recorded, unknown = {}, []
    for line in map(str.strip, flagfile_lines):
        if not line or line.startswith(("#", "//")):
            continue
        name, equals, value = line.removeprefix("--").partition("=")
        negated = name.startswith("no") and name.removeprefix("no") in flags.FLAGS
        name = name.removeprefix("no") if negated else name
        if name in flags.FLAGS:
            recorded[name] = "false" if negated else value if equals else "true"
        else:
            unknown.append(name)
    _check_text({**(unsaid or {}), **recorded})
    for name, value in recorded.items():
        if not flags.FLAGS[name].present:
            try:
                flags.FLAGS[name].parse(value)
            except flags.Error as error:
                raise ValueError(str(error)) from error
    return unknown


def _check_text(recorded: dict):
    """Refuses flags of the command line that ask for another text than a recorded run's."""
    differences = []
    for holder in _TEXT_FLAGS:
        there, here = recorded.get(holder.name), str(holder.value)
        if not flags.FLAGS[holder.name].present:
            continue
        if holder.name in ("data_dir", "piece_model") and there is not None:
            same = os.path.realpath(there) == os.path.realpath(here)
        else:
            same = str(there).lower() == here.lower()
        if not same:
            differences.append(f"{holder.name} is {there or 'not given'} there, {here} now")
    if differences:
        raise ValueError(
            f"the text is the run's, and another is asked for: {'; '.join(differences)}. Leave "
            "these flags out. Its weights are evaluated on another text with --init_from and "
            "another --workdir, and --mode=score reads any."
        )
