"""Workers meet before TensorFlow looks for them, where any signal ends the wait."""

import contextlib
import socket
import time
from collections.abc import Sequence

_PAUSE, _PATIENCE = 0.2, 5.0  # seconds between two looks, and until one is given up


def meet(workers: Sequence[str], index: int):
    """Waits until each of the other workers has been there.

    TensorFlow waits in its own code, holds Python's lock meanwhile, and takes SIGTERM for a notice
    that it only passes on. So little is left for it to wait for: each worker listens at its own
    address until it sees that all others listen at theirs. From then on TensorFlow's server
    listens there, so that a worker which has gone on is still seen by those that come later. One
    that was there and has left is waited for again.

    Args:
      workers: their addresses, HOST:PORT.
      index: of this one.

    Raises:
      OSError: if this one cannot listen at its address.
    """
    others = [address for place, address in enumerate(workers) if place != index]
    with _listening(workers[index]) as server:
        while not all(map(_listens, others)):
            with contextlib.suppress(BlockingIOError):
                while True:
                    server.accept()[0].close()
            time.sleep(_PAUSE)


def host_and_port(address: str) -> tuple[str, int]:
    """The parts of HOST:PORT or [HOST]:PORT.

    Raises:
      ValueError: if it is neither.
    """
    host, _, port = address.rpartition(":")
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    elif set(host) & set("[]:"):
        host = ""
    try:
        named = host and "/" not in host and host.encode("idna")
    except UnicodeError:  # a part of the name is empty, or too long
        named = False
    if not (named and port.isascii() and port.isdecimal() and 0 < int(port) < 1 << 16):
        raise ValueError(f"An address must be HOST:PORT. Received: {address!r}.")
    return host, int(port)


def _listening(address: str) -> socket.socket:
    # At all of the machine's addresses, as TensorFlow's server: the one in TF_CONFIG may be a name
    # that only the others know.
    both = socket.has_dualstack_ipv6()
    family = socket.AF_INET6 if both else socket.AF_INET
    try:
        place = ("", host_and_port(address)[1])
        server = socket.create_server(place, family=family, dualstack_ipv6=both, backlog=128)
    except OSError as error:
        told = type(error)(
            f"This worker must be able to listen at its address in TF_CONFIG. Received: {address}: "
            f"{error.strerror}. End what listens there, or name another port on all machines."
        )
        told.errno = error.errno
        raise told from error
    server.setblocking(False)
    return server


def _listens(address: str) -> bool:
    try:
        with socket.create_connection(host_and_port(address), _PATIENCE) as connection:
            # On one machine a connection may by chance be one with itself, where nobody listens.
            return connection.getsockname() != connection.getpeername()
    except OSError:  # not there yet, or its name not known yet
        return False
