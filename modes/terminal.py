"""What the program says, and how it ends."""

import contextlib
import os
import signal
import sys

# The exit code of a run that a signal stopped after it saved.
STOPPED = 75
# Of a program that Ctrl-C ended, and of one whose output nobody reads: as shells have them.
INTERRUPTED, READER_LEFT = 130, 141


def say(line: str):
    """Prints a line at once."""
    print(line, flush=True)


def fail(message: str, code: int):
    """Ends the program with a message on standard error."""
    print(message, file=sys.stderr, flush=True)
    sys.exit(code)


@contextlib.contextmanager
def signals_end_at_once():
    """While TensorFlow waits for other machines, where Python would hear signals only afterwards.

    TensorFlow also catches SIGTERM from then on, which does nothing: it is given back at the end.
    """
    defaults = {signal.SIGINT: signal.default_int_handler, signal.SIGTERM: signal.SIG_DFL}
    before = {number: signal.getsignal(number) for number in defaults}
    for number, default in defaults.items():
        if before[number] is default:
            signal.signal(number, signal.SIG_DFL)
    try:
        yield
    finally:
        for number, handler in before.items():
            if handler is not None:  # None: not one of Python's
                signal.signal(number, handler)


def reader_has_left():
    """Ends the program without a word, as others do whose output `head` has had enough of."""
    # What is still in the buffer goes nowhere, instead of failing once more when Python ends.
    with contextlib.suppress(OSError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    sys.exit(READER_LEFT)
