"""Stopping by a signal without losing anything."""

import signal

_SIGNALS = (signal.SIGTERM, signal.SIGINT)


class StoppedError(Exception):
    """What was under way is left undone, for a signal came; it is done when the run goes on."""


class StopSignal:
    """Remembers SIGTERM and SIGINT, so that a step ends before the run does."""

    def __init__(self):
        self._received = False
        self._previous = {number: signal.signal(number, self._receive) for number in _SIGNALS}

    def _receive(self, number, frame):
        del number, frame
        self._received = True
        # A second one ends the program at once, be it the other of the two.
        for one in _SIGNALS:
            signal.signal(one, signal.SIG_DFL)

    def requested(self) -> bool:
        """Whether one came."""
        return self._received

    def check(self, *progress):
        """Leaves what takes long and can be done again.

        Raises:
          StoppedError: if one came.
        """
        del progress
        if self._received:
            raise StoppedError

    def restore(self):
        """Gives the signals back to whoever handled them before."""
        for number, handler in self._previous.items():
            signal.signal(number, handler)
