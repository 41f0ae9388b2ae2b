"""Ending in good order when a signal asks for it."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import NoReturn

ENDING_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Ended(BaseException):
    """A signal asked for the end. Not an Exception: nothing may take it for a failure."""


@contextmanager
def ended_by_signals() -> Iterator[None]:
    """Turn the signals that end a program into `Ended`, so that a command can tidy up."""

    def end(_signal: int, _frame: FrameType | None) -> NoReturn:
        # A second one must not interrupt the good order in which the first is carried out.
        for number in ENDING_SIGNALS:
            signal.signal(number, signal.SIG_IGN)
        raise Ended

    before = {number: signal.signal(number, end) for number in ENDING_SIGNALS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
