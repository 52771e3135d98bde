"""Sources cut into blocks of a few megabytes, which can be encoded apart from each other.

A block never ends inside a token. It ends where a line ends, wherever there is a line end within
reach; a longer line is cut at white space, and its next block knows that it goes on. Text without
white space is cut between characters where tokens are characters, and makes one large block where
they are words.
"""

import hashlib
from collections.abc import Iterator
from typing import NamedTuple

from .sources import BYTE_ORDER_MARK, Source

BLOCK_BYTES = 4 << 20
LARGEST_TOKEN_BYTES = 256 << 20

_SPACES = (b" ", b"\t", b"\x0b", b"\x0c")


class Block(NamedTuple):
    """Some of the bytes of a source.

    Attributes:
        data: whole tokens; where the source's last line has no end, one was added, unless blocks
            are raw.
        offset: where `data` stands in the source, for messages.
        continues_line: whether the line that `data` begins with has text in the block before.
    """

    data: bytes
    offset: int
    continues_line: bool


def cut_lines(source: Source, sha256: "hashlib._Hash | None" = None) -> Iterator[Block]:
    """Blocks of text for tokens that hold no white space; `sha256` is updated with all bytes.

    A byte order mark at the start of a file is left out.

    Raises ValueError for a token of more than `LARGEST_TOKEN_BYTES`.
    """
    pending = bytearray()
    offset = source.start
    searched = 0  # So many bytes of `pending` have no place to cut.
    continues = False
    for piece in _pieces(source, sha256):
        pending += piece
        if offset == 0 and pending.startswith(BYTE_ORDER_MARK):
            del pending[: len(BYTE_ORDER_MARK)]
            offset = len(BYTE_ORDER_MARK)
        if len(pending) < BLOCK_BYTES:
            continue
        # A carriage return at the very end may be the first half of a line's end.
        last = len(pending) - 1
        cut = max(pending.rfind(b"\n", searched), pending.rfind(b"\r", searched, last)) + 1
        goes_on = False
        if not cut:
            # Only right after text: the rest of the line must know whether it has some.
            cut = max(pending.rfind(space, searched) for space in _SPACES) + 1
            goes_on = bool(pending[:cut].strip())
            cut = cut if goes_on else 0
        if cut:
            yield Block(bytes(pending[:cut]), offset, continues)
            del pending[:cut]
            offset, searched, continues = offset + cut, 0, goes_on
        else:
            searched = last
            if len(pending) > LARGEST_TOKEN_BYTES:
                raise ValueError(
                    f"A token has at most {LARGEST_TOKEN_BYTES >> 20} MB. {source.name} has a "
                    f"longer one at offset {offset}: is it text? Or prepare it as characters or "
                    "bytes."
                )
    if pending or continues:
        end = b"" if pending.endswith((b"\n", b"\r")) else b"\n"
        yield Block(bytes(pending) + end, offset, continues)


def cut_characters(source: Source, sha256: "hashlib._Hash | None" = None) -> Iterator[Block]:
    """Blocks of all bytes of a source, none added and none left out; no character is cut.

    Blocks end at white space where there is some, so that words can be counted too.
    """
    pending = b""
    offset = source.start
    for piece in _pieces(source, sha256):
        pending += piece
        if len(pending) < BLOCK_BYTES:
            continue
        space = max(pending.rfind(b" "), pending.rfind(b"\n")) + 1
        cut = space if 2 * space > len(pending) else _character_boundary(pending)
        yield Block(pending[:cut], offset, False)
        pending, offset = pending[cut:], offset + cut
    if pending:
        yield Block(pending, offset, False)


def _pieces(source: Source, sha256) -> Iterator[bytes]:
    for piece in source.blocks():
        if sha256 is not None:
            sha256.update(piece)
        yield piece


def _character_boundary(data: bytes) -> int:
    """The last place where UTF-8 may be cut; anywhere, if it is none."""
    for place in range(len(data) - 1, max(len(data) - 4, 1) - 1, -1):
        if data[place] & 0xC0 != 0x80:
            return place
    return len(data)
