"""What a change of `on_denials` lets through, or stops."""

from __future__ import annotations

from collections.abc import Iterator

from keyleash.policy.diff.changes import Change, Part
from keyleash.policy.limits import RATE_PERIODS_US
from keyleash.policy.model import Breaker


def breaker_changes(before: Breaker | None, after: Breaker | None) -> Iterator[Change]:
    """The circuit breaker, if it differs: calls are refused while it suspends the identity."""
    if before != after:
        yield Change(
            Part.ON_DENIALS,
            "",
            before,
            after,
            widens=not _stops_as_much(after, before),
            narrows=not _stops_as_much(before, after),
        )


def _stops_as_much(one: Breaker | None, other: Breaker | None) -> bool:
    """Whether one suspends whenever the other does, and for as long."""
    if other is None:
        return True
    return (
        one is not None
        and one.threshold <= other.threshold
        and RATE_PERIODS_US[one.period] >= RATE_PERIODS_US[other.period]
        and one.suspend_s >= other.suspend_s
    )
