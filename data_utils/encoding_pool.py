"""The processes of a preparation: blocks go out, provisional ids end in a file for each process.

Which process takes which block depends on chance, and nothing in the result depends on it.
"""

import abc
import contextlib
import json
import subprocess
import sys
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from multiprocessing.connection import Connection, Pipe, wait
from pathlib import Path
from typing import NamedTuple

import numpy as np

from .block_encoders import Measures, NotUtf8Error, Types, make_encoder, unpack_types
from .blocks import Block

_BLOCKS_AHEAD = 2
_PROGRAM = (
    "import sys; sys.path = {path!r}; from data_utils.encoding_process import serve; serve({fd})"
)


class Entry(NamedTuple):
    """Where the provisional ids of one block are."""

    split: int
    process: int
    num_tokens: int


class EncodingPool(abc.ABC):
    """Encodes blocks; the order of `entries` is that of the calls of `submit`.

    A context manager: its processes end with it, and its files are removed.

    Attributes:
        entries: an `Entry` for each block.
        measures: list of the totals of each split, as `Measures`.
        dtype: of the provisional ids.
    """

    def __init__(self, settings: Mapping, num_splits: int, model: bytes):
        self.entries: list[Entry | None] = []
        self.measures = [Measures(0, 0, 0) for _ in range(num_splits)]
        self._encoder = make_encoder(settings, num_splits, model)
        self.dtype = self._encoder.dtype

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    @abc.abstractmethod
    def submit(self, block: Block, split: int, name: str) -> None:
        """Encodes a block, now or later. May wait until there is room.

        Args:
            block: of the text.
            split: its number.
            name: of its source, for errors.

        Raises:
            ValueError: this block, or one before it, is not UTF-8.
            ChildProcessError: a process has died.
            OSError: ids cannot be written.
        """

    @abc.abstractmethod
    def finish(self) -> list[Types]:
        """Waits for all blocks; what each process has met. Raises as `submit`."""

    @abc.abstractmethod
    def close(self) -> None:
        """Ends the processes and removes the files."""

    @abc.abstractmethod
    def spool_paths(self) -> list[Path]:
        """The files with the provisional ids of each process, one block after the other."""

    def ids(self) -> Iterator[tuple[Entry, np.ndarray]]:
        """The provisional ids of all blocks, in order, after `finish`."""
        # Read, not mapped: pages of mapped files would count as memory of this process.
        with contextlib.ExitStack() as stack:
            files = [stack.enter_context(open(path, "rb")) for path in self.spool_paths()]
            for entry in self.entries:
                yield entry, np.fromfile(files[entry.process], self.dtype, entry.num_tokens)

    def _done(self, number: int, split: int, process: int, measures: Measures) -> None:
        self.entries[number] = Entry(split, process, measures.tokens)
        totals = self.measures[split]
        self.measures[split] = Measures(*(a + b for a, b in zip(totals, measures, strict=True)))


def make_pool(
    settings: Mapping, num_splits: int, model: bytes, folder: Path, num_processes: int
) -> EncodingPool:
    """A pool of so many processes, the caller's own included where it is one."""
    if num_processes == 1:
        return _HerePool(settings, num_splits, model, folder)
    return _ProcessPool(settings, num_splits, model, folder, num_processes)


class _HerePool(EncodingPool):
    """Encodes in the caller's process."""

    def __init__(self, settings, num_splits, model, folder):
        super().__init__(settings, num_splits, model)
        self._path = folder / "spool.0"
        self._file = open(self._path, "wb")  # noqa: SIM115, closed by close()

    def submit(self, block, split, name):
        try:
            ids, measures = self._encoder.encode(block, split)
        except NotUtf8Error as error:
            raise ValueError(not_utf8_message(name, block.offset, *error.args)) from None
        self._file.write(memoryview(ids).cast("B"))
        self.entries.append(None)
        self._done(len(self.entries) - 1, split, 0, measures)

    def finish(self):
        self._file.flush()
        return [self._encoder.types()]

    def spool_paths(self):
        return [self._path]

    def close(self):
        self._file.close()
        self._path.unlink(missing_ok=True)


class _Worker:
    """A process, its connection, and the blocks it has not answered yet."""

    def __init__(self, number: int, path: Path, start: dict, model: bytes):
        self.number, self.path = number, path
        self.pending: deque[tuple[int, int, str, int]] = deque()
        self.connection, theirs = Pipe()
        # Not multiprocessing.Process: it would import the caller's main module, and with it
        # perhaps TensorFlow, in every process.
        root = str(Path(__file__).resolve().parents[1])
        program = _PROGRAM.format(path=[root, *sys.path], fd=theirs.fileno())
        self.process = subprocess.Popen(  # noqa: S603
            [sys.executable, "-c", program],
            stdin=subprocess.DEVNULL,
            pass_fds=[theirs.fileno()],
        )
        theirs.close()
        self.connection.send_bytes(json.dumps({**start, "spool": str(path)}).encode())
        self.connection.send_bytes(model)

    def close(self) -> None:
        self.connection.close()
        self.process.kill()
        self.process.wait()
        self.path.unlink(missing_ok=True)


class _ProcessPool(EncodingPool):
    """Encodes in processes of its own."""

    def __init__(self, settings, num_splits, model, folder, num_processes):
        super().__init__(settings, num_splits, model)
        start = {"settings": dict(settings), "num_splits": num_splits}
        self._workers: list[_Worker] = []
        try:
            for number in range(num_processes):
                path = folder / f"spool.{number}"
                self._workers.append(_Worker(number, path, start, model))
        except BaseException:
            self.close()
            raise

    def submit(self, block, split, name):
        worker = min(self._workers, key=lambda worker: len(worker.pending))
        while len(worker.pending) >= _BLOCKS_AHEAD:
            worker = self._receive()
        self._take_waiting()
        message = {
            "do": "encode",
            "split": split,
            "offset": block.offset,
            "continues_line": block.continues_line,
        }
        self._talk(worker, lambda connection: connection.send_bytes(json.dumps(message).encode()))
        self._talk(worker, lambda connection: connection.send_bytes(block.data))
        worker.pending.append((len(self.entries), split, name, block.offset))
        self.entries.append(None)

    def finish(self):
        while any(worker.pending for worker in self._workers):
            self._receive()
        finish = json.dumps({"do": "finish"}).encode()
        for worker in self._workers:
            self._talk(worker, lambda connection: connection.send_bytes(finish))
        return [
            unpack_types([self._talk(worker, Connection.recv_bytes) for _ in range(3)])
            for worker in self._workers
        ]

    def spool_paths(self):
        return [worker.path for worker in self._workers]

    def close(self):
        for worker in self._workers:
            worker.close()

    def _take_waiting(self) -> None:
        for worker in self._workers:
            while worker.pending and worker.connection.poll():
                self._answer(worker)

    def _receive(self) -> _Worker:
        """Waits for an answer, takes it, and returns the process that gave it."""
        busy = {worker.connection: worker for worker in self._workers if worker.pending}
        worker = busy[wait(list(busy))[0]]
        self._answer(worker)
        return worker

    def _answer(self, worker: _Worker) -> None:
        answer = json.loads(self._talk(worker, Connection.recv_bytes))
        number, split, name, offset = worker.pending.popleft()
        if "not_utf8" in answer:
            raise ValueError(not_utf8_message(name, offset, *answer["not_utf8"]))
        if "error" in answer:
            raise ValueError(answer["error"])
        if "unwritten" in answer:
            raise OSError(*answer["unwritten"])
        self._done(number, split, worker.number, Measures(*answer["measures"]))

    def _talk(self, worker: _Worker, do: Callable):
        try:
            return do(worker.connection)
        except (EOFError, OSError):
            code = worker.process.wait()
            raise ChildProcessError(
                f"A process of the preparation ended with code {code}, -9 where the system killed "
                "it, often for want of memory. Start again, with fewer processes if it was that."
            ) from None


def not_utf8_message(name: str, offset: int, place: int, byte: int, reason: str) -> str:
    """The error for a source that is not UTF-8 at a place of its block."""
    is_utf16 = offset == place == 0 and byte in (0xFF, 0xFE)
    encoding = "UTF-16" if is_utf16 else "WINDOWS-1252"
    return (
        f"Text must be UTF-8. {name} is not: byte 0x{byte:02x} at offset {offset + place} "
        f"({reason}). If it is {encoding}, convert it with: iconv -f {encoding} -t UTF-8 OLD > "
        "NEW. Or use --vocabulary=byte, which reads any file."
    )
