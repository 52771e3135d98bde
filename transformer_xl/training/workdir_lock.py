"""One process at a time trains in a run's directory."""

import contextlib
import fcntl
import os
from collections.abc import Iterator

LOCK = ".lock"


@contextlib.contextmanager
def training_alone(directory: str) -> Iterator[None]:
    """Makes a run's directory and holds it against other processes that would train there.

    Two that did would remove each other's checkpoints. The kernel lets go of the lock however this
    process ends, so that a run which was killed can be started again. Where the file system has no
    locks, training goes on without.

    Args:
      directory: of the run; if it is new and stays empty it is removed again.

    Raises:
      BlockingIOError: if another process holds it.
      OSError: if it cannot be made.
    """
    made, folder = [], os.path.abspath(directory)
    while not os.path.isdir(folder):
        made.append(folder)
        folder = os.path.dirname(folder)
    os.makedirs(directory, exist_ok=True)
    path = os.path.join(directory, LOCK)
    try:
        descriptor = _locked(path, directory)
        try:
            yield
        finally:
            # While it is still held: nobody else's can be removed.
            with contextlib.suppress(OSError):
                os.remove(path)
            os.close(descriptor)
    finally:
        for folder in made:
            with contextlib.suppress(OSError):
                os.rmdir(folder)


def _locked(path: str, directory: str) -> int:
    """The descriptor of the file, locked where locks are known."""
    while True:
        # Written to by nobody, but network file systems lock only what may be.
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            raise BlockingIOError(
                "One process at a time trains in a run's directory. Another one trains in "
                f"{directory}. Wait until it has ended, stop it, or choose another --workdir."
            ) from None
        except OSError:
            return descriptor
        with contextlib.suppress(FileNotFoundError):
            if os.path.samestat(os.stat(path), os.fstat(descriptor)):
                return descriptor
        # The one before removed it in the meantime.
        os.close(descriptor)
