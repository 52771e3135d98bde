"""Whether a run's directory can be written to. As root every folder can: see damage_table."""

import os

import pytest

from transformer_xl.training.workdir import check_writable, write_atomically


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
