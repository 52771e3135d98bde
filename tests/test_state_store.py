"""States on the disk: what is whole, what is damaged, and what is done then."""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf

from tests.conftest import ROOT
from transformer_xl.training import state_store
from transformer_xl.training.state_store import CheckpointError, StateStore


def values(step):
    return {
        "weights": tf.Variable(np.full((3, 5), step, "float32")),
        "half": tf.cast(tf.fill([4], step / 8), tf.bfloat16),
        "step": tf.Variable(step, dtype=tf.int64),
        "none": np.zeros((0, 2), "int32"),
    }


@pytest.fixture
def written(tmp_path):
    """A directory with the states of steps 2, 4 and 6, of which 3 are kept."""
    store = StateStore(str(tmp_path / "states"), 3, print)
    for step in (1, 2, 4, 6):
        store.write(step, values(step))
    return tmp_path / "states"


def opened(directory):
    """A store of another process, and what it says."""
    said = []
    return StateStore(str(directory), 3, said.append), said


def truncate(path):
    path.write_bytes(path.read_bytes()[:-7])


def flip(path):
    content = bytearray(path.read_bytes())
    content[-3] ^= 1
    path.write_bytes(content)


def empty(path):
    path.write_bytes(b"")


def remove(path):
    path.unlink()


def test_what_is_written_is_read(written):
    store, said = opened(written)
    state = store.newest()
    assert state.step == 6
    read = state.read()
    for name, value in values(6).items():
        np.testing.assert_array_equal(read[name], np.asarray(value), err_msg=name)
        assert read[name].dtype == np.asarray(value).dtype
    assert said == []
    names = {"index.json", "step-2", "step-4", "step-6"}
    assert {path.name for path in written.iterdir()} == names


@pytest.mark.parametrize("file", ["state.safetensors", "manifest.json"])
@pytest.mark.parametrize("damage", [truncate, flip, empty, remove])
def test_a_damaged_state_is_recognised_and_the_one_before_used(written, damage, file):
    damage(written / "step-6" / file)
    store, said = opened(written)
    assert store.newest().step == 4
    assert len(said) == 1
    assert "\n" not in said[0]
    assert f"step-6 has {'no' if damage is remove else 'a'}" in said[0]
    assert file in said[0]
    assert "step-4, the one before, is used" in said[0]
    # Written again, it is the newest; a state that was never damaged is not given up for it.
    store.write(6, values(7))
    store, said = opened(written)
    assert store.newest().read()["step"] == 7
    assert [state.step for state in store.all_whole()] == [6, 4, 2]
    assert said == []


def test_two_damaged_ones_and_a_lost_one(written):
    truncate(written / "step-4" / "state.safetensors")
    shutil.rmtree(written / "step-6")
    store, said = opened(written)
    assert store.newest().step == 2
    assert "step-6 is gone" in said[0]
    assert "step-4 has a state.safetensors of" in said[0]


def test_a_manifest_that_was_changed_is_not_believed(written):
    """As by hand, to make a wrong checksum right."""
    path = written / "step-6" / "manifest.json"
    path.write_text(path.read_text().replace('"step": 6', '"step": 8'))
    store, said = opened(written)
    assert store.newest().step == 4
    assert "damaged manifest.json" in said[0]


@pytest.mark.parametrize("content", ["", "{", "[1]", '{"step-6": "x"}', None])
def test_without_an_index_the_folders_tell(written, content):
    if content is None:
        (written / "index.json").unlink()
    else:
        (written / "index.json").write_text(content)
    store, said = opened(written)
    assert store.newest().step == 6
    assert said == []


def test_with_none_that_is_whole_nothing_begins_anew(written):
    for folder in written.glob("step-*"):
        flip(folder / "state.safetensors")
    store, _ = opened(written)
    for attempt in (store.newest, lambda: store.write(1, values(1))):
        with pytest.raises(CheckpointError, match=r"step-6 has .* checksum; step-4 .*; step-2 "):
            attempt()
    assert len(list(written.glob("step-*"))) == 3
    for folder in written.glob("step-*"):
        shutil.rmtree(folder)
    with pytest.raises(CheckpointError, match="step-6 is gone; step-4 is gone; step-2 is gone"):
        opened(written)[0].newest()


def test_a_directory_that_never_had_one_is_empty(tmp_path):
    store, said = opened(tmp_path / "none")
    assert store.newest() is None
    assert store.all_whole() == []
    assert said == []
    # So is one where the first was being written.
    (tmp_path / "none" / ".writing-step-2").mkdir(parents=True)
    assert opened(tmp_path / "none")[0].newest() is None


def test_a_run_that_went_back_goes_on_from_there(written):
    """From step 2, say: what it writes is newer than the state of step 6."""
    store, _ = opened(written)
    store.write(3, values(3))
    again, said = opened(written)
    assert again.newest().step == 3
    assert [state.step for state in again.all_whole()] == [3, 6, 4]
    assert said == []


class _KilledError(Exception):
    pass


@pytest.mark.parametrize("again", [False, True], ids=["a new step", "the same step"])
def test_killed_at_every_call_that_changes_the_disk(written, tmp_path, monkeypatch, again):
    """Whatever was done when the process ended, one of the two newest states is found whole."""
    step = 6 if again else 8
    survived = []
    for number in range(100):
        directory = tmp_path / f"killed{number}"
        shutil.copytree(written, directory)
        store, _ = opened(directory)
        store.newest()
        with monkeypatch.context() as patched:
            count = _kill_at(number, patched)
            with contextlib.suppress(_KilledError):
                store.write(step, values(9))
        if count[0] <= number:
            break
        store, said = opened(directory)
        found = int(store.newest().read()["step"])
        assert found in ((9, 6, 4) if again else (9, 6)), said
        assert again or said == []
        survived.append(found)
        # And then it goes on.
        store.write(10, values(10))
        assert opened(directory)[0].newest().read()["step"] == 10
        assert not [name for name in os.listdir(directory) if name.startswith(".")]
    assert number > 10
    assert set(survived) >= {6, 9}


def _kill_at(number, monkeypatch):
    """Makes the call of this number, of those that change the disk, and all after it, raise."""
    count = [0]

    def wrapped(function):
        def call(*arguments, **keywords):
            count[0] += 1
            if count[0] > number:
                raise _KilledError
            return function(*arguments, **keywords)

        return call

    for module, names in (
        (os, ("mkdir", "rename", "replace", "fsync")),
        (shutil, ("rmtree",)),
        (state_store, ("write_safetensors",)),
    ):
        for name in names:
            monkeypatch.setattr(module, name, wrapped(getattr(module, name)))
    return count


def test_a_full_disk_leaves_what_was_there(written, monkeypatch):
    """The real thing, on a small file system, is in test_survival."""

    def full(*arguments):
        raise OSError(28, "No space left on device")

    store, _ = opened(written)
    with monkeypatch.context() as patched:
        patched.setattr(state_store, "write_safetensors", full)
        message = r"step 8 cannot be written.*No space left.*takes 0.0 MB.*step 6 is whole"
        with pytest.raises(CheckpointError, match=message):
            store.write(8, values(8))
    assert opened(written)[0].newest().step == 6
    assert not [name for name in os.listdir(written) if name.startswith(".")]
    store.write(8, values(8))
    assert opened(written)[0].newest().step == 8


@pytest.mark.slow
def test_killed_while_it_writes(tmp_path):
    """A process that writes without end, killed at a moment chosen by chance."""
    program = (
        "import sys, numpy as np\n"
        "from transformer_xl.training.state_store import StateStore\n"
        "store = StateStore(sys.argv[1], 3, print)\n"
        "step = 0\n"
        "while True:\n"
        "    step += 1\n"
        "    store.write(step, {'x': np.full(200_000, step), 'step': np.array(step)})\n"
        "    print(step, flush=True)\n"
    )
    command = [sys.executable, "-c", program, str(tmp_path)]
    environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "2"}
    with subprocess.Popen(
        command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True
    ) as process:
        for _ in range(np.random.default_rng(1).integers(20, 40)):
            last = int(process.stdout.readline())
        process.send_signal(signal.SIGKILL)
    store, said = opened(tmp_path)
    state = store.newest()
    assert state.step in (last, last + 1)
    assert (state.read()["x"] == state.step).all()
    assert said == []
    # And it goes on from there.
    store.write(state.step + 1, values(5))
    store, said = opened(tmp_path)
    assert store.newest().read()["step"] == 5
    assert said == []


def test_the_format_is_what_is_documented(written):
    manifest = json.loads((written / "step-6" / "manifest.json").read_text())
    assert manifest["format"] == 1
    assert manifest["step"] == 6
    assert set(manifest["files"]) == {"state.safetensors"}
    manifest["format"] = 2
    del manifest["sha256"]
    manifest["sha256"] = state_store._digest(manifest)
    (written / "step-6" / "manifest.json").write_text(json.dumps(manifest))
    store, said = opened(written)
    assert store.newest().step == 4
    assert "step-6 is of format 2, and this version reads 1" in said[0]
