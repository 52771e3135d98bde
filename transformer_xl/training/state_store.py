"""Named tensors on the disk: a ring of the last few states, each whole or recognised as not.

A state is a folder `step-<number>` with `state.safetensors` and `manifest.json`, which holds the
SHA-256 of that file and of itself. It is written under another name, brought to the disk with
fsync, and renamed; `index.json` lists the states there should be, so that a lost one is missed.
"""

import contextlib
import hashlib
import json
import math
import os
import re
import shutil
from collections.abc import Callable, Iterator, Mapping
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from transformer_xl.safetensors_files import load_safetensors, write_safetensors

STATE, MANIFEST, INDEX = "state.safetensors", "manifest.json", "index.json"
WRITING = ".writing-"  # begins the name of a state that is not whole yet
_REMOVED = ".removed-"  # and of one that is no longer
_NAME = re.compile(r"step-(\d+)")
_FORMAT = 1


class CheckpointError(ValueError):
    """A checkpoint cannot be written, or none can be read."""


class StoredState(NamedTuple):
    """A state whose checksums are right.

    Attributes:
      step: after which it was written.
      path: its folder.
      sequence: how many states the run had written before.
    """

    step: int
    path: str
    sequence: int

    def read(self) -> dict[str, np.ndarray]:
        """The tensors by name, mapped from the file.

        Raises:
          CheckpointError: if they can no longer be read.
        """
        try:
            return load_safetensors(os.path.join(self.path, STATE))
        except (OSError, ValueError) as error:
            raise CheckpointError(f"The checkpoint {self.path} cannot be read: {error}") from error


class StateStore:
    """The states of one directory.

    Args:
      directory: where they are; made when the first is written.
      kept: how many.
      say: told, in one line, which states cannot be used and which one is used instead.
    """

    def __init__(self, directory: str, kept: int, say: Callable[[str], None]):
        self._directory, self._kept, self._say = directory, kept, say
        self._newest: StoredState | None = None
        self._looked = False
        self._unusable: set[str] = set()

    def newest(self) -> StoredState | None:
        """The newest state that is whole; None if none was ever written.

        Checksums are computed once. States after the one returned cannot be used, which is told.

        Raises:
          CheckpointError: if there are states, or should be, and none is whole.
        """
        if not self._looked:
            problems = []
            self._newest = next(self._whole(problems), None)
            self._unusable = {problem.partition(" ")[0] for problem in problems}
            if problems and self._newest is None:
                raise CheckpointError(
                    f"No checkpoint in {self._directory} can be used: {'; '.join(problems)}. "
                    "Bring one back from a copy, or begin anew in another --workdir."
                )
            if problems:
                self._say(
                    f"warning: in {self._directory}, {'; '.join(problems)}: "
                    f"step-{self._newest.step}, the one before, is used"
                )
            self._looked = True
        return self._newest

    def look_again(self):
        """Forgets what there was, for a process beside the one that writes."""
        self._newest, self._looked = None, False

    def begin_anew(self):
        """Has the next state take the place of all that there are, none of which is whole."""
        self._newest, self._looked = None, True
        self._unusable = {name for name, _ in self._known()}

    def all_whole(self) -> list[StoredState]:
        """The states that are whole, the newest first."""
        return list(self._whole([]))

    def write(self, step: int, values: Mapping):
        """Writes a state, which becomes the newest, and removes those that are too many.

        Args:
          step: after which it is.
          values: tensors, variables or arrays, by name.

        Raises:
          CheckpointError: if it cannot be written; the states before are as they were.
        """
        before = self.newest()
        state = StoredState(
            step,
            os.path.join(self._directory, f"step-{step}"),
            before.sequence + 1 if before else 0,
        )
        temporary = os.path.join(self._directory, f"{WRITING}step-{step}")
        try:
            os.makedirs(self._directory, exist_ok=True)
            self._remove_leftovers()
            os.mkdir(temporary)
            _write_state(temporary, state, values)
            self._publish(temporary, state)
        except OSError as error:
            with contextlib.suppress(OSError):
                shutil.rmtree(temporary)
            there = f"that of step {before.step:,} is whole" if before else "there is none yet"
            raise CheckpointError(
                f"The checkpoint of step {step:,} cannot be written to {self._directory}: "
                f"{error.strerror or error}. {_room(self._directory, values)} Of the checkpoints "
                f"before, {there}: make room and start again."
            ) from error
        self._newest = state
        self._unusable.discard(os.path.basename(state.path))

    def _publish(self, temporary: str, state: StoredState):
        """Gives a written state its name, then lists it, then removes what is too old."""
        name = os.path.basename(state.path)
        if os.path.exists(state.path):  # damaged, or from before the run went back
            os.rename(state.path, os.path.join(self._directory, f"{_REMOVED}{name}"))
        os.rename(temporary, state.path)
        sync_directory(self._directory)
        self._remove_leftovers()
        listed = {name: state.sequence}
        for older, sequence in self._known():
            usable = older not in self._unusable and self._manifest(older) is not None
            if older != name and usable and len(listed) < self._kept:
                listed[older] = sequence
        write_durably(os.path.join(self._directory, INDEX), json.dumps(listed) + "\n")
        for other in self._folders():
            if other not in listed:
                self._remove(other)

    def _remove(self, name: str):
        """Removes a state, renamed first: half of one must not be met under its name."""
        removed = os.path.join(self._directory, f"{_REMOVED}{name}")
        os.rename(os.path.join(self._directory, name), removed)
        shutil.rmtree(removed)

    def _remove_leftovers(self):
        """Removes what a run that was killed was about to write or to remove."""
        for name in os.listdir(self._directory):
            if name.startswith((WRITING, _REMOVED)):
                shutil.rmtree(os.path.join(self._directory, name))

    def _folders(self) -> list[str]:
        if not os.path.isdir(self._directory):
            return []
        return [name for name in os.listdir(self._directory) if _NAME.fullmatch(name)]

    def _known(self) -> list[tuple[str, int]]:
        """Names and sequence numbers of the states there are or should be, the newest first."""
        sequences = {}
        # Damaged, it is as if there were none: the folders tell.
        with contextlib.suppress(OSError, ValueError, AttributeError, TypeError):
            with open(os.path.join(self._directory, INDEX), encoding="utf-8") as file:
                listed = json.load(file)
            sequences = {name: int(n) for name, n in listed.items() if _NAME.fullmatch(name)}
        latest = max(sequences.values(), default=-1) + 1
        for name in self._folders():
            manifest = self._manifest(name)
            if manifest is not None:
                sequences[name] = manifest["sequence"]
            else:
                sequences.setdefault(name, latest)  # not known: it may be the newest
        number = lambda name: int(_NAME.fullmatch(name)[1])  # noqa: E731
        return sorted(sequences.items(), key=lambda item: (item[1], number(item[0])), reverse=True)

    def _manifest(self, name: str) -> dict | None:
        """What a state's manifest says; None if it is not what was written."""
        try:
            with open(os.path.join(self._directory, name, MANIFEST), encoding="utf-8") as file:
                manifest = json.load(file)
            own = manifest.pop("sha256")
        except (OSError, ValueError, KeyError, AttributeError, TypeError):
            return None
        return manifest if own == _digest(manifest) else None

    def _whole(self, problems: list[str]) -> Iterator[StoredState]:
        """The states that are whole, the newest first; appends what is wrong with others."""
        for name, sequence in self._known():
            problem = self._problem(name)
            if problem is None:
                step = int(_NAME.fullmatch(name)[1])
                yield StoredState(step, os.path.join(self._directory, name), sequence)
            else:
                problems.append(f"{name} {problem}")

    def _problem(self, name: str) -> str | None:
        """What is wrong with a state; None if it is whole."""
        folder = os.path.join(self._directory, name)
        if not os.path.isdir(folder):
            return "is gone"
        manifest = self._manifest(name)
        if manifest is None:
            there = os.path.exists(os.path.join(folder, MANIFEST))
            return f"has a damaged {MANIFEST}" if there else f"has no {MANIFEST}"
        if manifest["format"] != _FORMAT:
            return f"is of format {manifest['format']}, and this version reads {_FORMAT}"
        for file, expected in manifest["files"].items():
            path = os.path.join(folder, file)
            if not os.path.exists(path):
                return f"has no {file}"
            size = os.path.getsize(path)
            if size != expected["bytes"]:
                return f"has a {file} of {size:,} bytes instead of {expected['bytes']:,}"
            try:
                with open(path, "rb") as opened:
                    found = hashlib.file_digest(opened, "sha256").hexdigest()
            except OSError as error:
                return f"has a {file} that cannot be read ({error.strerror or error})"
            if found != expected["sha256"]:
                return f"has a {file} with a wrong checksum"
        return None


class _HashedFile:
    """Counts and hashes what is written to a file."""

    def __init__(self, file):
        self._file, self._hash, self.bytes = file, hashlib.sha256(), 0

    def write(self, content):
        self._file.write(content)
        self._hash.update(content)
        self.bytes += len(content)

    def record(self) -> dict:
        return {"bytes": self.bytes, "sha256": self._hash.hexdigest()}


def write_durably(path: str, text: str):
    """Writes a file that appears whole or not at all, also if the machine fails."""
    temporary = f"{path}.tmp"
    with open(temporary, "w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)
    sync_directory(os.path.dirname(path))


def sync_directory(directory: str):
    """Brings the names in a directory to the disk."""
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _write_state(folder: str, state: StoredState, values: Mapping):
    with open(os.path.join(folder, STATE), "wb") as file:
        hashed = _HashedFile(file)
        write_safetensors(values, hashed, {"step": str(state.step)})
        file.flush()
        os.fsync(file.fileno())
    manifest = {
        "format": _FORMAT,
        "step": state.step,
        "sequence": state.sequence,
        "files": {STATE: hashed.record()},
    }
    manifest["sha256"] = _digest(manifest)
    write_durably(os.path.join(folder, MANIFEST), json.dumps(manifest, indent=2) + "\n")


def _digest(manifest: dict) -> str:
    return hashlib.sha256(json.dumps(manifest, sort_keys=True).encode()).hexdigest()


def _room(directory: str, values: Mapping) -> str:
    """How much a state needs and how much there is, in a sentence."""
    needed = sum(math.prod(v.shape) * tf.as_dtype(v.dtype).size for v in values.values())
    with contextlib.suppress(OSError):
        free = shutil.disk_usage(directory).free
        return f"It takes {needed / 1e6:,.1f} MB; {free / 1e6:,.1f} MB are free."
    return f"It takes {needed / 1e6:,.1f} MB."
