"""The record of a run in its directory, and whether another start fits it."""

import contextlib
import dataclasses
import json
import os
import tempfile

from transformer_xl.config import ModelConfig, TrainConfig

_FILE = "config.json"
_FOLDERS = ("checkpoints", "checkpoints/best", "data", "tensorboard")
# What a run writes over beside the record.
_WRITTEN = ("flags.txt", "vocabulary", "metrics.jsonl", "loss.png", "result.json", "sample.txt")
# What a checkpoint's contents or the order of the data depend on; the rest may change on the way.
_FIXED = (
    "seed",
    "batch_size",
    "segment_length",
    "variable_length",
    "roll_streams",
    "reset_memory",
    "optimizer",
    "ema_decay",
    "precision",
)


@dataclasses.dataclass(frozen=True)
class RunRecord:
    """What a run is made of.

    Attributes:
      model: its `ModelConfig`.
      train: its `TrainConfig`, with the precision that "auto" became; other fields that are "auto"
        mean what each start's devices make of them.
      data: what the vocabulary and the training text are, as JSON values.
    """

    model: ModelConfig
    train: TrainConfig
    data: dict

    def write(self, directory: str):
        """Records the run."""
        os.makedirs(directory, exist_ok=True)
        write_atomically(
            os.path.join(directory, _FILE),
            json.dumps(dataclasses.asdict(self), indent=2) + "\n",
        )

    def check(self, directory: str, model: ModelConfig, train: TrainConfig | None = None):
        """Refuses other settings than those recorded.

        Args:
          directory: of the record, for the message.
          model: the `ModelConfig` asked for; its vocabulary size is not compared.
          train: the `TrainConfig` asked for, where training is to go on.

        Raises:
          ValueError: if they differ where they must not.
        """
        pairs = [
            (field.name, getattr(model, field.name), getattr(self.model, field.name))
            for field in dataclasses.fields(ModelConfig)
            if field.name != "vocab_size"
        ]
        if train is not None:
            pairs += [(name, getattr(train, name), getattr(self.train, name)) for name in _FIXED]
        differences = [
            f"{name} is {_shown(there)} there, {_shown(here)} now"
            for name, here, there in pairs
            if here != there and not (name == "precision" and here == "auto")
        ]
        if differences:
            raise ValueError(
                f"{directory} holds a run with other settings: {'; '.join(differences)}. Choose "
                "another --workdir, or give the same flags to go on with this run."
            )

    def check_data(self, directory: str, data: dict):
        """Refuses to go on with another text or vocabulary.

        Args:
          directory: of the record, for the message.
          data: what is there now, of what was recorded.

        Raises:
          ValueError: if they differ.
        """
        if any(self.data.get(name) != value for name, value in data.items()):
            raise ValueError(
                f"{directory} holds a run on other data: {self.data} there, {data} now. Choose "
                "another --workdir, or give the same data to go on with this run."
            )


def read_record(directory: str) -> RunRecord | None:
    """The record of a directory; None if no run was begun there.

    Raises:
      ValueError: if it cannot be read.
    """
    path = os.path.join(directory, _FILE)
    if not os.path.exists(path):
        return None
    try:
        with open(path, encoding="utf-8") as file:
            record = json.load(file)
        _check_fields(record)
        return RunRecord(
            ModelConfig(**record["model"]), TrainConfig(**record["train"]), record["data"]
        )
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"{path}, which records a run's settings, cannot be read: "
            f"{str(error).removesuffix('.')}. Choose another --workdir."
        ) from error


def _check_fields(record: dict):
    configs = {"model": ModelConfig, "train": TrainConfig}
    unknown = [
        f"{part}.{name}"
        for part, config in configs.items()
        for name in set(record[part]) - {field.name for field in dataclasses.fields(config)}
    ]
    if unknown:
        raise ValueError(
            f"this version does not know {', '.join(sorted(unknown))}, so that another one wrote "
            "it, which can go on with the run"
        )


def check_new(directory: str):
    """Refuses to begin a run where files of no run have the names of its own.

    They would be lost, or, checkpoints, gone on from with settings that nobody compared.

    Raises:
      FileExistsError: if there are some.
    """
    names = [name for name in _WRITTEN if os.path.lexists(os.path.join(directory, name))]
    states = os.path.join(directory, _FOLDERS[0])
    if os.path.isdir(states) and os.listdir(states):
        names.append(_FOLDERS[0])
    if names:
        raise FileExistsError(
            f"A run writes {', '.join((*_WRITTEN, _FOLDERS[0]))} and must not lose another's, nor "
            "go on from it. Received: "
            f"--workdir={directory}, which has {', '.join(names)}, and no {_FILE} that says they "
            "are a run's. Choose another --workdir, or move them."
        )


def check_writable(directory: str, given: str | None = None, parts: tuple = _FOLDERS):
    """Refuses a directory that cannot be written to; leaves it as it is.

    Args:
      directory: of a run, or for something else.
      given: how it was asked for; None: as --workdir.
      parts: its folders that must be writable, too, where they are there.

    Raises:
      OSError: if it, or one of these, cannot.
    """
    given = given or f"--workdir={directory}"
    if os.path.isdir(directory):
        folders = [directory, *(os.path.join(directory, name) for name in parts)]
        folders = [folder for folder in folders if os.path.isdir(folder)]
    else:
        # The folder that it will be made in.
        folder = os.path.abspath(directory)
        while not os.path.lexists(folder):
            folder = os.path.dirname(folder)
        folders = [folder]
    for folder in folders:
        try:
            with tempfile.TemporaryFile(dir=folder):
                pass
        except OSError as error:
            flag = given.partition("=")[0]
            raise _told(
                error,
                f"{given} cannot be written to: {folder}: {error.strerror}. Choose another {flag}, "
                "or make it one that this user may write to.",
            ) from error


def write_atomically(path: str, text: str):
    """Writes a file that appears whole or not at all.

    Raises:
      OSError: if it cannot; what was there is as it was.
    """
    temporary = f"{path}.tmp"
    try:
        with open(temporary, "w", encoding="utf-8") as file:
            file.write(text)
        os.replace(temporary, path)
    except OSError as error:
        with contextlib.suppress(OSError):
            os.remove(temporary)
        raise _told(error, f"{path} cannot be written: {error.strerror or error}.") from error


def _told(error: OSError, message: str) -> OSError:
    """An error of the same kind and number with another message."""
    told = type(error)(message)
    told.errno = error.errno
    return told


def _shown(value):
    return ",".join(map(str, value)) or "none" if isinstance(value, tuple) else value
