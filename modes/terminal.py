"""What the program says, and how it ends."""

import sys

# The exit code of a run that a signal stopped after it saved.
STOPPED = 75


def say(line: str):
    """Prints a line at once."""
    print(line, flush=True)


def fail(message: str, code: int):
    """Ends the program with a message on standard error."""
    print(message, file=sys.stderr, flush=True)
    sys.exit(code)
