"""Waiting for a rate: the refused call is made again when the guard says it fits."""

from __future__ import annotations

import math
from collections.abc import Sequence

from keyleash.client.flow import BatchCall, Command, Flow, Pause
from keyleash.errors import RateLimitedError


def bound_of(wait: bool | float) -> float:
    """How long one call may sleep in all, in seconds; 0 is never.

    Raises:
        ValueError: *wait* is negative or no number.
    """
    if wait is True:
        return math.inf
    if not wait >= 0:
        raise ValueError("wait must be True, False or a number of seconds")
    return float(wait)


class Waiting:
    """What one call may still sleep.

    A budget is never waited for: its next window may be a month away.
    """

    def __init__(self, bound_s: float) -> None:
        self._left_s = bound_s

    def within(self, bound_s: float) -> Waiting:
        """The same patience, but for no longer than *bound_s* in all."""
        return Waiting(min(self._left_s, bound_s))

    def pause(self, refused: Sequence[RateLimitedError]) -> Pause:
        """The sleep after which the first of the *refused* fits.

        Raises:
            RateLimitedError: it is longer than what is left.
        """
        first = min(refused, key=lambda one: one.retry_after_ms)
        seconds = first.retry_after_ms / 1000
        if seconds > self._left_s:
            raise first
        self._left_s -= seconds
        return Pause(seconds)

    def patiently(self, call: Command | BatchCall) -> Flow:
        """Make a call, as often as it takes."""
        while True:
            try:
                return (yield call)
            except RateLimitedError as refused:
                yield self.pause([refused])
