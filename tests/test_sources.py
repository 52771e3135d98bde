"""Reading lines: data_utils/sources.py."""

import io
import random

import pytest

from data_utils import load_corpus, sources
from data_utils.sources import FileSpan, nonblank_lines, read_lines
from tests.corpus_files import write


def test_lines_agree_with_python_for_random_bytes_and_blocks(tmp_path, monkeypatch):
    generator = random.Random(1)
    pieces = [
        "a",
        "b ",
        " ",
        "\n",
        "\r",
        "\r\n",
        "é",
        "\u2028",
        "\x0b",
        "\x0c",
        "\x85",
        "😀",
        "\ufeff",
    ]
    path = tmp_path / "x.txt"
    for trial in range(300):
        text = "".join(generator.choices(pieces, k=generator.randrange(12)))
        path.write_bytes(text.encode("utf-8"))
        monkeypatch.setattr(sources, "_BLOCK_BYTES", generator.randrange(1, 9))
        oracle = io.TextIOWrapper(io.BytesIO(path.read_bytes()), "utf-8-sig", newline=None)
        expected = [line.removesuffix("\n") for line in oracle]
        assert list(read_lines(FileSpan(path))) == expected, (trial, text)

        positions = list(nonblank_lines(FileSpan(path)))
        data = path.read_bytes()
        found = [data[p.start : p.start + p.num_bytes].decode() for p in positions]
        found = [line.rstrip("\r\n") for line in found]
        if found and positions[0].start == 0:
            found[0] = found[0].removeprefix("\ufeff")
        assert found == [line for line in expected if line.strip()], (trial, text)


def test_a_span_reads_only_its_bytes(tmp_path, monkeypatch):
    monkeypatch.setattr(sources, "_BLOCK_BYTES", 4)
    path = write(tmp_path / "x.txt", "eins\nzwei\ndrei\nvier\n")
    assert list(read_lines(FileSpan(path, 5, 15))) == ["zwei", "drei"]
    assert list(read_lines(FileSpan(path, 15))) == ["vier"]


def test_only_three_line_ends_count(tmp_path):
    text = "\ufeffone\u2028still\x0bone\x0cand\x85on\r\ntwo\rthree\n\n\tfour 😀 e\u0301 \ufeff\0"
    path = write(tmp_path / "x.txt", text)
    assert list(read_lines(FileSpan(path))) == [
        "one\u2028still\x0bone\x0cand\x85on",
        "two",
        "three",
        "",
        "\tfour 😀 e\u0301 \ufeff\0",
    ]


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"ok\nna\xefve\n", r"x\.txt is not: byte 0xef at offset 5.*iconv -f WINDOWS-1252"),
        (b"\xef\xbb\xbfok\xff", r"byte 0xff at offset 5"),
        (b"a\n\xed\xa0\x80\n", r"byte 0xed at offset 2"),  # A surrogate.
        (b"a\nb\xf0\x9f\x98", r"byte 0xf0 at offset 3"),  # Half an emoji.
        ("hi\n".encode("utf-16"), r"byte 0xff at offset 0.*iconv -f UTF-16 -t UTF-8"),
    ],
)
def test_text_that_is_not_utf8(tmp_path, monkeypatch, data, message):
    path = write(tmp_path / "x.txt", data)
    for block_bytes in (1, 2, 3, 1 << 20):
        monkeypatch.setattr(sources, "_BLOCK_BYTES", block_bytes)
        with pytest.raises(ValueError, match=message):
            list(read_lines(FileSpan(path)))
    with pytest.raises(ValueError, match=message):
        load_corpus("text", path)
