"""Downloads that resume, try one mirror after the other, and are checked by their sha256."""

import contextlib
import dataclasses
import fcntl
import hashlib
import http.client
import os
import shutil
import socket
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path

_BLOCK_BYTES = 1 << 18
_ATTEMPTS = 4
_REPORT_SECONDS = 2.0
# Some mirrors refuse programs that say what they are.
_USER_AGENT = "Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko)"

Progress = Callable[[str], None]


@dataclasses.dataclass(frozen=True)
class Download:
    """One file as it was published.

    Attributes:
        file: its name.
        urls: mirrors, the best first.
        sha256: of the file, in hexadecimal.
        num_bytes: its size.
    """

    file: str
    urls: tuple[str, ...]
    sha256: str
    num_bytes: int


class DownloadError(OSError):
    """No mirror gave the file; the message says what each did and what to do by hand."""


class _MirrorError(Exception):
    """Why one mirror is of no use."""


class _CutError(Exception):
    """The connection broke; what came can be kept."""


def fetch(
    download: Download,
    folder: Path,
    progress: Progress | None = None,
    timeout: float = 30.0,
) -> Path:
    """Gets a file, unless it is there already, into `folder`.

    What is received goes into `NAME.partial`, from which a later call goes on. The file itself
    appears only when its sha256 is right.

    Args:
        download: what to get.
        folder: is made if need be.
        progress: is called with short messages.
        timeout: seconds of silence after which a connection counts as broken.

    Returns:
        The path of the file.

    Raises:
        DownloadError: no mirror gave it.
    """
    report = progress or (lambda message: None)
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / download.file
    with _only_one(folder / f".{download.file}.lock"):
        if path.is_file():
            if _sha256(path) == download.sha256:
                return path
            # Perhaps someone put it there: it stays until there is another to take its place.
            report(f"{path} is not the published file (its sha256 differs); getting it again")
        _check_room(download, folder)
        failures = []
        for url in download.urls:
            try:
                _from_mirror(url, download, path, report, timeout)
                return path
            except _MirrorError as error:
                failures.append(f"  {url}: {error}")
                report(f"{url}: {error}")
    raise DownloadError(by_hand(download, folder, failures))


def by_hand(download: Download, folder: Path, failures: list[str]) -> str:
    """What to tell someone who must get a file in another way."""
    tried = "\n".join(failures) or "  no mirror is known"
    return (
        f"{download.file} could not be downloaded:\n{tried}\n"
        f"Get it in another way ({download.num_bytes:,} bytes, sha256 {download.sha256}) and put "
        f"it at {folder / download.file}, or say with --data_dir where it is."
    )


@contextlib.contextmanager
def _only_one(lock: Path):
    """Lets one process at a time write the same file."""
    with open(lock, "wb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _check_room(download: Download, folder: Path) -> None:
    free = shutil.disk_usage(folder).free
    if free < download.num_bytes:
        raise DownloadError(
            f"{download.file} has {download.num_bytes:,} bytes. {folder} has room for {free:,}: "
            "make room, or choose another folder."
        )


def _from_mirror(
    url: str, download: Download, path: Path, report: Progress, timeout: float
) -> None:
    partial = path.with_name(path.name + ".partial")
    resumed = partial.exists()
    attempts = _ATTEMPTS
    while True:
        before = partial.stat().st_size if partial.exists() else 0
        try:
            _receive(url, download, partial, report, timeout)
        except _CutError as error:
            received = partial.stat().st_size if partial.exists() else 0
            # As long as something comes, it is worth going on.
            attempts = _ATTEMPTS if received > before else attempts - 1
            if not attempts:
                raise _MirrorError(f"{error}, {_ATTEMPTS} times; {received:,} bytes kept") from None
            report(f"{url}: {error} after {received:,} bytes; going on")
            resumed = received > 0
            continue
        if _sha256(partial) == download.sha256:
            partial.replace(path)
            report(f"{download.file}: downloaded and verified")
            return
        size = partial.stat().st_size
        partial.unlink()
        if not resumed:
            raise _MirrorError(f"another file of {size:,} bytes (its sha256 differs)")
        # The beginning may be of another mirror, or damaged: once more, from nothing.
        report(f"{url}: the resumed file is damaged; starting over")
        resumed = False


def _receive(url: str, download: Download, partial: Path, report: Progress, timeout: float):
    """Appends to `partial` what is missing. Raises _CutError and _MirrorError."""
    start = partial.stat().st_size if partial.exists() else 0
    if start >= download.num_bytes:
        return  # Its sha256 says what it is.
    headers = {"User-Agent": _USER_AGENT, "Accept-Encoding": "identity"}
    if start:
        headers["Range"] = f"bytes={start}-"
    request = urllib.request.Request(url, headers=headers)  # noqa: S310, fixed addresses
    try:
        with urllib.request.urlopen(request, timeout=timeout) as response:  # noqa: S310
            if start and not (
                response.status == 206
                and response.headers.get("Content-Range", "").startswith(f"bytes {start}-")
            ):
                start = 0  # The server sends everything, whatever was asked for.
            length = response.headers.get("Content-Length")
            end = start + int(length) if length and length.isdecimal() else None
            with open(partial, "ab" if start else "wb") as file:
                _copy(response, file, start, end, download, report)
    except urllib.error.HTTPError as error:
        if error.code == 416 and start:
            partial.unlink()  # Longer than the file there: of no use.
            raise _CutError("the partial file does not fit") from None
        if error.code in (429, 500, 502, 503, 504):
            time.sleep(min(0.2, timeout))
            raise _CutError(f"status {error.code} {error.reason}") from None
        raise _MirrorError(f"status {error.code} {error.reason}") from None
    except TimeoutError:
        raise _CutError(f"nothing came for {timeout:g} seconds") from None
    except urllib.error.URLError as error:
        if isinstance(error.reason, (TimeoutError, socket.timeout)):
            raise _CutError(f"nothing came for {timeout:g} seconds") from None
        raise _MirrorError(f"cannot be reached ({error.reason})") from None
    except (http.client.HTTPException, ConnectionError) as error:
        raise _CutError(f"the connection broke ({type(error).__name__})") from None


def _copy(response, file, start: int, end: int | None, download: Download, report: Progress):
    position = start
    shown = time.monotonic()
    while block := response.read1(_BLOCK_BYTES):  # What is there, without waiting for more.
        position += len(block)
        if position > download.num_bytes + (1 << 20):
            raise _MirrorError(f"sends more than the {download.num_bytes:,} bytes of the file")
        file.write(block)
        if time.monotonic() - shown >= _REPORT_SECONDS:
            shown = time.monotonic()
            share = position / download.num_bytes
            report(f"{download.file}: {position / 1e6:,.0f} MB, {share:.0%}")
    file.flush()
    os.fsync(file.fileno())
    if end is not None and position < end:
        raise _CutError("the connection broke")


def _sha256(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
