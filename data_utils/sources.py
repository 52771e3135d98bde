"""Where text comes from: pieces of files and members of zip archives, read as streams of lines.

Text is UTF-8, and nothing else. A byte order mark at the start of a file is dropped; lines end in
`\\n`, `\\r\\n` or `\\r`, and in nothing else; a last line without an end is a line.
"""

import dataclasses
import hashlib
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from .tokenization import text_lines

_BLOCK_BYTES = 1 << 20
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"


@dataclasses.dataclass(frozen=True)
class FileSpan:
    """The bytes `start` to `stop` (None: to the end) of a file; both stand at line starts."""

    path: Path
    start: int = 0
    stop: int | None = None

    @property
    def name(self) -> str:
        """What messages call it."""
        return str(self.path)

    def blocks(self) -> Iterator[bytes]:
        """Its bytes, in blocks of no particular size."""
        with open(self.path, "rb") as file:
            file.seek(self.start)
            position = self.start
            while True:
                wanted = _BLOCK_BYTES
                if self.stop is not None:
                    wanted = min(wanted, self.stop - position)
                block = file.read(wanted)
                if not block:
                    return
                position += len(block)
                yield block


@dataclasses.dataclass(frozen=True)
class ZipMember:
    """One file inside a zip archive. It is unpacked while it is read, never onto the disk.

    Raises ValueError while reading where the archive is damaged, encrypted or packed in a way that
    Python cannot read.
    """

    path: Path
    member: str
    start = 0

    @property
    def name(self) -> str:
        """What messages call it."""
        return f"{self.path}:{self.member}"

    def blocks(self) -> Iterator[bytes]:
        """Its bytes, in blocks of no particular size."""
        try:
            with zipfile.ZipFile(self.path) as archive, archive.open(self.member) as file:
                while block := file.read(_BLOCK_BYTES):
                    yield block
        # RuntimeError is zipfile's word for an encrypted member, EOFError for a truncated one.
        except (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError) as error:
            raise ValueError(
                f"{self.name} cannot be unpacked: {error}. The archive is damaged or encrypted: "
                "get it again."
            ) from error


Source = FileSpan | ZipMember


class LinePosition(NamedTuple):
    """A line that has more than white space: where it starts in its file and how long it is."""

    start: int
    num_bytes: int


def read_lines(source: Source) -> Iterator[str]:
    """The lines of a source, without their ends.

    Raises ValueError, naming file and byte, where the source is not UTF-8.
    """
    for _, _, lines in _decoded_blocks(source):
        yield from lines


def nonblank_lines(source: Source) -> Iterator[LinePosition]:
    """The positions of all lines of a source that have more than white space.

    Raises ValueError, naming file and byte, where the source is not UTF-8.
    """
    for start, data, lines in _decoded_blocks(source):
        # bytes.splitlines, unlike that of str, knows the same three line ends as this module.
        for raw, line in zip(data.splitlines(keepends=True), lines, strict=True):
            if line and not line.isspace():
                yield LinePosition(start, len(raw))
            start += len(raw)


def digest(source: Source) -> str:
    """The sha256 of a source's bytes, in hexadecimal."""
    sha256 = hashlib.sha256()
    for block in source.blocks():
        sha256.update(block)
    return sha256.hexdigest()


def _decoded_blocks(source: Source) -> Iterator[tuple[int, bytes, list[str]]]:
    """Triples of position, bytes, and the lines in them; only whole lines."""
    for start, data in _whole_lines(source):
        mark = len(_BYTE_ORDER_MARK) if start == 0 and data.startswith(_BYTE_ORDER_MARK) else 0
        try:
            text = data[mark:].decode("utf-8")
        except UnicodeDecodeError as error:
            raise ValueError(_not_utf8(source, data, start, mark, error)) from None
        lines = text_lines(text)
        if not lines[-1]:
            lines.pop()
        # A first line that is nothing but the mark, at the file's end: its bytes are no line.
        yield start, data if lines else b"", lines


def _whole_lines(source: Source) -> Iterator[tuple[int, bytes]]:
    """Cuts a stream of blocks anew, after line ends; pairs of position and bytes.

    Line ends are single bytes in UTF-8 that occur in no other character, so no character is cut.
    """
    start = source.start
    pending: list[bytes] = []
    for block in source.blocks():
        # A `\r` at the very end is left for the next block: it may be the first half of `\r\n`.
        cut = max(block.rfind(b"\n"), block.rfind(b"\r", 0, len(block) - 1)) + 1
        if cut:
            data = b"".join([*pending, block[:cut]])
            yield start, data
            start += len(data)
            pending = []
        if cut < len(block):
            pending.append(block[cut:])
    if pending:
        yield start, b"".join(pending)


def _not_utf8(source: Source, data: bytes, start: int, mark: int, error: UnicodeDecodeError) -> str:
    is_utf16 = start == 0 and data.startswith((b"\xff\xfe", b"\xfe\xff"))
    encoding = "UTF-16" if is_utf16 else "WINDOWS-1252"
    byte = data[mark + error.start]
    return (
        f"Text must be UTF-8. {source.name} is not: byte 0x{byte:02x} at offset "
        f"{start + mark + error.start} ({error.reason}). If it is {encoding}, convert it with: "
        f"iconv -f {encoding} -t UTF-8 OLD > NEW"
    )
