"""Whether a run's directory can be written to, and by one process only.

As root every folder can be written to: see damage_table.
"""

import fcntl
import os
import subprocess
import sys

import pytest

from transformer_xl.training.workdir import check_new, check_writable, write_atomically
from transformer_xl.training.workdir_lock import LOCK, training_alone


def test_checkpoints_without_their_record_are_not_gone_on_from(tmp_path):
    """Their settings would be compared with nothing."""
    (tmp_path / "checkpoints").mkdir()
    check_new(str(tmp_path))
    (tmp_path / "checkpoints" / "step-5").mkdir()
    message = f"--workdir={tmp_path}, which has checkpoints, and no config.json that says they"
    with pytest.raises(FileExistsError, match=message):
        check_new(str(tmp_path))


def test_a_folder_is_left_as_it_is(tmp_path):
    (tmp_path / "run" / "checkpoints" / "best").mkdir(parents=True)
    check_writable(str(tmp_path / "run"))
    check_writable(str(tmp_path / "new" / "run"))
    check_writable(str(tmp_path / "run" / "checkpoints"))
    assert [path.name for path in tmp_path.iterdir()] == ["run"]
    assert os.listdir(tmp_path / "run") == ["checkpoints"]
    assert os.listdir(tmp_path / "run" / "checkpoints") == ["best"]


def test_a_folder_that_cannot_be_made(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(NotADirectoryError, match=r"--workdir=\S+ cannot be written .*file: Not"):
        check_writable(str(tmp_path / "file" / "run"))
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "data").symlink_to(tmp_path / "file")
    check_writable(str(tmp_path / "run"))


def test_a_file_that_cannot_be_written_is_as_it_was(tmp_path, monkeypatch):
    path = tmp_path / "config.json"
    write_atomically(str(path), "old")

    def full(*arguments):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(OSError, match=r"config.json cannot be written: No space left on device"):
        write_atomically(str(path), "new")
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["config.json"]


_HOLDER = """
import fcntl, sys, time
file = open(sys.argv[1], "w")
fcntl.flock(file, fcntl.LOCK_EX)
print("held", flush=True)
time.sleep(60)
"""


def test_one_process_trains_in_a_directory_until_it_is_killed(tmp_path):
    with subprocess.Popen(
        [sys.executable, "-c", _HOLDER, tmp_path / LOCK], stdout=subprocess.PIPE, text=True
    ) as other:
        assert other.stdout.readline() == "held\n"
        told = pytest.raises(BlockingIOError, match=f"Another one trains in {tmp_path}. Wait")
        with told, training_alone(str(tmp_path)):
            pass
        assert os.listdir(tmp_path) == [LOCK]
        other.kill()
    held, told = training_alone(str(tmp_path)), pytest.raises(BlockingIOError)
    with held, told, training_alone(str(tmp_path)):
        pass
    assert os.listdir(tmp_path) == []


def test_a_new_directory_in_which_nothing_was_trained_is_removed(tmp_path):
    with training_alone(str(tmp_path / "runs" / "one")):
        assert (tmp_path / "runs" / "one").is_dir()
    assert os.listdir(tmp_path) == []
    with training_alone(str(tmp_path / "runs" / "one")):
        (tmp_path / "runs" / "one" / "data").mkdir()
    assert os.listdir(tmp_path / "runs" / "one") == ["data"]


def test_a_file_system_without_locks(tmp_path, monkeypatch):
    def unknown(*arguments):
        raise OSError(38, "Function not implemented")

    monkeypatch.setattr(fcntl, "flock", unknown)
    with training_alone(str(tmp_path)):
        pass
