"""What a preparation says where the disk is full: how much it takes, and how much there is."""

import contextlib
import errno
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

# A full disk, and a full share of one.
NO_ROOM = frozenset({errno.ENOSPC, errno.EDQUOT})


@contextlib.contextmanager
def told_where_full(directory: Path, bytes_needed: Callable[[], float]) -> Iterator[None]:
    """Says in an OSError of a full disk what is needed; what was written is removed by then.

    Args:
        directory: what was to be written, whose parent exists.
        bytes_needed: of the disk, as far as it is known when the disk is full.

    Raises OSError, its `errno` as it was.
    """
    try:
        yield
    except OSError as error:
        # NumPy says so, without a number, where it could not write all of an array.
        if error.errno not in NO_ROOM and "requested and" not in str(error):
            raise
        free = shutil.disk_usage(directory.parent).free
        told = OSError(
            f"The corpus cannot be prepared in {directory}: {error.strerror or 'the disk is full'}."
            f" It takes about {bytes_needed() / 1e6:,.1f} MB; {free / 1e6:,.1f} MB are free, now "
            "that what was written is removed. Make room, or choose another folder, and start "
            "again."
        )
        told.errno = error.errno or errno.ENOSPC
        raise told from error
