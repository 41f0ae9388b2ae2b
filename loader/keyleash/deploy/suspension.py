"""Why an identity is suspended, and until when."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from keyleash.protocol.state import State

MAX_DIGITS = 16
"""More than a time in milliseconds ever has."""


@dataclass(frozen=True, slots=True)
class Suspension:
    """
    A suspension that is in force; times are server time, Unix milliseconds.

    Attributes:
        until_ms: When it ends by itself; None if somebody has to end it.
        reason: Why; empty if nobody said, or while prefixes are changed.
        by: Who suspended it: an operator, or `itself`, if it was its circuit breaker.
        since_ms: Since when, if that is known.
    """

    until_ms: int | None
    reason: str = ""
    by: str = ""
    since_ms: int | None = None


def suspension_of(
    state: State | None, record: Mapping[bytes, bytes], now_ms: int
) -> Suspension | None:
    """
    Say whether and why an identity is suspended.

    Args:
        state: Its state; None if it has none.
        record: The hash `Keyspace.suspension`; it may be of a suspension that is over.
        now_ms: The server's clock.

    Returns:
        None if it is not suspended.
    """
    if state is None or not state.is_suspended(now_ms * 1000):
        return None
    if state.suspended < 0:
        return Suspension(None)
    fields = {name: value.decode("utf-8", "backslashreplace") for name, value in record.items()}
    since = fields.get(b"since_ms", "")
    return Suspension(
        until_ms=state.suspended_until_ms,
        reason=fields.get(b"reason", ""),
        by=fields.get(b"by", ""),
        # An agent with a circuit breaker may write it.
        since_ms=int(since) if since.isdecimal() and len(since) <= MAX_DIGITS else None,
    )
