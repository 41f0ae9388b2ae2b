"""Ending in good order when a signal asks for it."""

from __future__ import annotations

import os
import signal
import time

import pytest

from keyleash.cli.terminal import ENDING_SIGNALS, Ended, ended_by_signals


class Dying:
    """An object that is being deleted when the signal comes."""

    def __init__(self, number: signal.Signals) -> None:
        self.number = number

    def __del__(self) -> None:
        os.kill(os.getpid(), self.number)
        time.sleep(0)


@pytest.mark.parametrize("number", ENDING_SIGNALS)
def test_signal_that_comes_while_an_object_is_deleted_is_not_lost(number: signal.Signals) -> None:
    """Python drops what is raised there, and a second signal would have been ignored."""
    before = signal.getsignal(number)

    def be_told() -> None:
        with ended_by_signals():
            Dying(number)
            time.sleep(30)

    with pytest.raises(Ended):
        be_told()

    assert signal.getsignal(number) is before
