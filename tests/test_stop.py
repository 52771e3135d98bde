"""A signal is remembered, and the next one ends the program, whichever of the two it is."""

import signal

import pytest

from transformer_xl.training.stop import StoppedError, StopSignal

BOTH = (signal.SIGTERM, signal.SIGINT)


@pytest.fixture(autouse=True)
def _handlers():
    """The signals are given back, also where a test fails."""
    before = {number: signal.getsignal(number) for number in BOTH}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.parametrize("first", BOTH)
def test_after_one_signal_the_other_ends_the_program_too(first):
    stop = StopSignal()
    assert not stop.requested()
    stop.check("progress")
    signal.raise_signal(first)
    assert stop.requested()
    with pytest.raises(StoppedError):
        stop.check()
    assert [signal.getsignal(number) for number in BOTH] == [signal.SIG_DFL] * 2


def test_handlers_from_before_are_given_back():
    before = [signal.getsignal(number) for number in BOTH]
    stop = StopSignal()
    signal.raise_signal(signal.SIGTERM)
    stop.restore()
    assert [signal.getsignal(number) for number in BOTH] == before
