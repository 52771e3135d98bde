"""A disk that is full while text is prepared: one error with the room that is needed."""

import errno
import os
import re

import pytest

from data_utils import load_corpus, prepare
from data_utils.blocks import Block
from data_utils.encoding_pool import make_pool
from data_utils.id_arrays import ShardWriter
from tests.corpus_files import write


@pytest.mark.parametrize("num_processes", [1, 2])
def test_each_process_tells_of_a_full_disk(tmp_path, num_processes):
    for number in range(num_processes):
        (tmp_path / f"spool.{number}").symlink_to("/dev/full")
    settings = {"kind": "word", "tokenization": "whitespace"}
    with (
        pytest.raises(OSError, match="No space left on device") as found,
        make_pool(settings, 1, b"", tmp_path, num_processes) as pool,
    ):
        pool.submit(Block(b"a b c\n", 0, False), 0, "text")
        pool.finish()
    assert found.value.errno == errno.ENOSPC


@pytest.mark.parametrize(
    "error",
    [OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)), OSError("9 requested and 0 written")],
)
def test_a_full_disk_is_told_with_what_is_needed(tmp_path, monkeypatch, error):
    for split, lines in {"train": 5_000, "valid": 10, "test": 10}.items():
        write(tmp_path / "text" / f"{split}.txt", "a b c\n" * lines)

    def full(writer, ids):
        raise error

    monkeypatch.setattr(ShardWriter, "write", full)
    with pytest.raises(OSError, match="It takes about") as found:
        prepare(load_corpus("text", tmp_path / "text"), tmp_path / "data")
    assert found.value.errno == errno.ENOSPC
    told = re.search(r"takes about ([\d.]+) MB; [\d.,]+ MB are free, .*Make room", str(found.value))
    # Ids of four bytes, before and after the vocabulary is known, and four tokens a line.
    assert float(told[1]) == pytest.approx(5_020 * 4 * 2 * 4 / 1e6, abs=0.1)
    assert os.listdir(tmp_path) == ["text"]


def test_another_error_is_as_it_was(tmp_path, monkeypatch):
    write(tmp_path / "text.txt", "a b c\n" * 100)

    def denied(writer, ids):
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(ShardWriter, "write", denied)
    with pytest.raises(PermissionError, match="Permission denied"):
        prepare(load_corpus("text", tmp_path / "text.txt"), tmp_path / "data")
