"""Ending in good order when a signal asks for it."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import NoReturn

ENDING_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
RETRY_S = 0.01


class Ended(BaseException):
    """A signal asked for the end. Not an Exception: nothing may take it for a failure."""


@contextmanager
def ended_by_signals() -> Iterator[None]:
    """Turn the signals that end a program into `Ended`, so that a command can tidy up."""

    def end(number: int, _frame: FrameType | None) -> NoReturn:
        # A second one must not interrupt the good order in which the first is carried out.
        for one in ENDING_SIGNALS:
            signal.signal(one, signal.SIG_IGN)
        raise Ended(number)

    def again(lost: sys.UnraisableHookArgs) -> None:
        # What is raised while an object is being deleted goes nowhere, and nobody would end.
        if not isinstance(lost.exc_value, Ended):
            hook(lost)
            return
        for one in ENDING_SIGNALS:
            signal.signal(one, end)
        threading.Timer(RETRY_S, os.kill, (os.getpid(), lost.exc_value.args[0])).start()

    before = {number: signal.signal(number, end) for number in ENDING_SIGNALS}
    hook, sys.unraisablehook = sys.unraisablehook, again
    try:
        yield
    finally:
        sys.unraisablehook = hook
        for number, handler in before.items():
            signal.signal(number, handler)
