"""Ending in good order when a signal asks for it."""

from __future__ import annotations

import os
import signal
import threading
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


def wait_for_end(number: signal.Signals) -> None:
    with ended_by_signals():
        Dying(number)
        time.sleep(30)


@pytest.mark.parametrize("number", ENDING_SIGNALS)
def test_signal_that_comes_while_an_object_is_deleted_is_not_lost(number: signal.Signals) -> None:
    """Python drops what is raised there, and a second signal would have been ignored."""
    before = signal.getsignal(number)

    with pytest.raises(Ended):
        wait_for_end(number)

    assert signal.getsignal(number) is before


def test_signal_that_is_sent_again_before_its_hook_returns_is_not_lost(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """On a busy machine a thread takes long to start, and the hook drops exceptions as well."""
    start = threading.Thread.start

    def start_slowly(thread: threading.Thread) -> None:
        start(thread)
        time.sleep(0.1)

    monkeypatch.setattr(threading.Thread, "start", start_slowly)

    with pytest.raises(Ended):
        wait_for_end(signal.SIGTERM)


def test_signal_after_one_that_could_not_be_sent_again_ends_the_command(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Where no thread can be started, the next signal still counts."""

    def refuse(_thread: threading.Thread) -> None:
        raise RuntimeError("no thread can be started")

    def lose_one_and_get_another() -> None:
        with ended_by_signals():
            Dying(signal.SIGTERM)
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(1)

    monkeypatch.setattr(threading.Thread, "start", refuse)
    with pytest.raises(Ended):
        lose_one_and_get_another()
