"""Sources in blocks: data_utils/blocks.py."""

import random

import pytest

from data_utils.blocks import cut_characters, cut_lines
from data_utils.sources import FileSpan
from tests.corpus_files import random_text, write


@pytest.fixture
def small_blocks(monkeypatch):
    """Blocks of a few bytes, in this process and those it starts."""
    monkeypatch.setattr("data_utils.blocks.BLOCK_BYTES", 7)
    monkeypatch.setattr("data_utils.sources._BLOCK_BYTES", 3)


def test_blocks_have_every_byte_once_and_cut_no_token(tmp_path, small_blocks):
    generator = random.Random(0)
    path = tmp_path / "x.txt"
    for _ in range(400):
        data = random_text(generator, 60).encode("utf-8")
        path.write_bytes(data)
        blocks = list(cut_lines(FileSpan(path)))
        text = data.removeprefix(b"\xef\xbb\xbf")
        joined = b"".join(block.data for block in blocks)
        assert joined in (text, text + b"\n")
        words = [word for block in blocks for word in block.data.decode("utf-8").split()]
        assert words == text.decode("utf-8").split()
        for block, following in zip(blocks, blocks[1:], strict=False):
            assert following.continues_line == (not block.data.endswith((b"\n", b"\r")))
            assert not (block.data.endswith(b"\r") and following.data.startswith(b"\n"))
        raw = list(cut_characters(FileSpan(path)))
        assert b"".join(block.data for block in raw) == data
        assert "".join(block.data.decode("utf-8") for block in raw) == data.decode("utf-8")


def test_a_token_without_end_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("data_utils.blocks.BLOCK_BYTES", 8)
    monkeypatch.setattr("data_utils.blocks.LARGEST_TOKEN_BYTES", 1 << 20)
    path = write(tmp_path / "x.txt", b"a b\n" + b"x" * (3 << 20))
    with pytest.raises(ValueError, match=r"x\.txt has a longer one at offset 4: is it text\?"):
        list(cut_lines(FileSpan(path)))
