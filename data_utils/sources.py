"""Where text comes from: pieces of files, compressed or not, and members of zip archives.

Text is UTF-8, and nothing else. A byte order mark at the start of a file is dropped; lines end in
`\\n`, `\\r\\n` or `\\r`, and in nothing else; a last line without an end is a line.
"""

import dataclasses
import gzip
import hashlib
import lzma
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, NamedTuple, Protocol

import pyarrow

from .tokenization import text_lines

_BLOCK_BYTES = 1 << 20
# gzip and zstd raise an OSError without a number for bytes that are not theirs.
_UNPACKING_ERRORS = (EOFError, zlib.error, lzma.LZMAError, OSError)
BYTE_ORDER_MARK = b"\xef\xbb\xbf"


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

    @property
    def num_bytes(self) -> int:
        """How many bytes it has, or, where it is compressed, a guess."""
        if (packed := compression(self.path)) and self.stop is None:
            return 4 * self.path.stat().st_size if packed else 0
        stop = self.path.stat().st_size if self.stop is None else self.stop
        return max(stop - self.start, 0)

    def blocks(self) -> Iterator[bytes]:
        """Its bytes, unpacked where the file is compressed, in blocks of no particular size.

        Raises ValueError for a compressed file that is damaged.
        """
        try:
            yield from self._blocks()
        except _UNPACKING_ERRORS as error:
            if isinstance(error, OSError) and error.errno:
                raise
            raise ValueError(
                f"{self.path} cannot be unpacked: {error}. It is damaged, or cut short: get it "
                "again."
            ) from error

    def _blocks(self) -> Iterator[bytes]:
        with open_unpacked(self.path) as file:
            yield from _span(file, self.start, self.stop)


@dataclasses.dataclass(frozen=True)
class ZipMember:
    """One file inside a zip archive, or its bytes `start` to `stop` (None: to the end).

    It is unpacked while it is read, never onto the disk. Raises ValueError while reading where the
    archive is damaged, encrypted or packed in a way that Python cannot read.
    """

    path: Path
    member: str
    start: int = 0
    stop: int | None = None

    @property
    def name(self) -> str:
        """What messages call it."""
        return f"{self.path}:{self.member}"

    @property
    def num_bytes(self) -> int:
        """How many bytes it has, as the archive says."""
        with zipfile.ZipFile(self.path) as archive:
            size = archive.getinfo(self.member).file_size
        return (size if self.stop is None else self.stop) - self.start

    def blocks(self) -> Iterator[bytes]:
        """Its bytes, in blocks of no particular size."""
        try:
            with zipfile.ZipFile(self.path) as archive, archive.open(self.member) as file:
                yield from _span(file, self.start, self.stop)
        # RuntimeError is zipfile's word for an encrypted member, EOFError for a truncated one.
        except (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError) as error:
            raise ValueError(
                f"{self.name} cannot be unpacked: {error}. The archive is damaged or encrypted: "
                "get it again."
            ) from error


class Source(Protocol):
    """Where bytes come from: a `FileSpan`, a `ZipMember`, or examples of a dataset.

    Attributes:
        name: what messages call it.
        start: of its first byte, in a file.
        num_bytes: how many there are, or a guess.
    """

    @property
    def name(self) -> str: ...

    @property
    def start(self) -> int: ...

    @property
    def num_bytes(self) -> int: ...

    def blocks(self) -> Iterator[bytes]:
        """Its bytes, in blocks of no particular size."""


def _span(file: BinaryIO, start: int, stop: int | None) -> Iterator[bytes]:
    """The bytes `start` to `stop` of a file that may only be readable from its beginning."""
    if start:
        if file.seekable():
            file.seek(start)
        else:
            left = start
            while left and (skipped := file.read(min(left, _BLOCK_BYTES))):
                left -= len(skipped)
    position = start
    while True:
        wanted = _BLOCK_BYTES if stop is None else min(_BLOCK_BYTES, stop - position)
        block = file.read(wanted)
        if not block:
            return
        position += len(block)
        yield block


COMPRESSIONS = (".gz", ".xz", ".zst")


def compression(path: Path) -> str:
    """The suffix of a compressed file, or nothing."""
    suffix = path.suffix.lower()
    return suffix if suffix in COMPRESSIONS else ""


def open_unpacked(path: Path) -> BinaryIO:
    """Opens a file for reading its bytes, unpacked where its name ends in one of `COMPRESSIONS`.

    Raises ModuleNotFoundError for zstandard without its package.
    """
    packed = compression(path)
    if packed == ".gz":
        return gzip.open(path, "rb")
    if packed == ".xz":
        return lzma.open(path, "rb")
    if packed == ".zst":
        return pyarrow.CompressedInputStream(pyarrow.OSFile(str(path)), "zstd")
    return open(path, "rb")


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


def nonblank_lines(source: Source, any_bytes: bool = False) -> Iterator[LinePosition]:
    """The positions of all lines of a source that have more than white space.

    Raises ValueError, naming file and byte, where the source is not UTF-8, unless it may have
    `any_bytes`.
    """
    for start, data, lines in _decoded_blocks(source, "replace" if any_bytes else "strict"):
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


def _decoded_blocks(
    source: Source, errors: str = "strict"
) -> Iterator[tuple[int, bytes, list[str]]]:
    """Triples of position, bytes, and the lines in them; only whole lines."""
    for start, data in _whole_lines(source):
        mark = len(BYTE_ORDER_MARK) if start == 0 and data.startswith(BYTE_ORDER_MARK) else 0
        try:
            text = data[mark:].decode("utf-8", errors)
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
        f"iconv -f {encoding} -t UTF-8 OLD > NEW. Or use --vocabulary=byte, which reads any file."
    )
