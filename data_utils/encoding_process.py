"""One process of a preparation: reads blocks from a connection, writes provisional ids to a file.

Started by `encoding_pool.py` as `python -c "..."`, so that it imports neither the caller's main
module nor TensorFlow. Messages are one JSON object each, a block's bytes follow in a second one.
It ends when the connection does.
"""

import json
import os
import signal
from multiprocessing.connection import Connection

from .block_encoders import NotUtf8Error, make_encoder, pack_types
from .blocks import Block


def serve(descriptor: int) -> None:
    """Answers messages on a connection until it ends."""
    # Ctrl-C reaches all processes of a terminal; the first one stops the others.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    connection = Connection(descriptor)
    try:
        start = json.loads(connection.recv_bytes())
        model = connection.recv_bytes()
        encoder = make_encoder(start["settings"], start["num_splits"], model)
        with open(start["spool"], "wb") as spool:
            _answer(connection, encoder, spool)
    except (EOFError, BrokenPipeError, ConnectionResetError):
        os._exit(1)


def _answer(connection: Connection, encoder, spool) -> None:
    while True:
        message = json.loads(connection.recv_bytes())
        if message["do"] == "finish":
            for part in pack_types(encoder.types()):
                connection.send_bytes(part)
            return
        block = Block(connection.recv_bytes(), message["offset"], message["continues_line"])
        try:
            ids, measures = encoder.encode(block, message["split"])
        except NotUtf8Error as error:
            answer = {"not_utf8": error.args}
        except ValueError as error:
            answer = {"error": str(error)}
        else:
            answer = {"measures": measures}
            try:
                spool.write(memoryview(ids).cast("B"))
                spool.flush()  # A full disk is noticed now, or never told of.
            except OSError as error:
                answer = {"unwritten": [error.errno, error.strerror]}
        connection.send_bytes(json.dumps(answer).encode())
