"""Durations and times as callers give them."""

from __future__ import annotations

from collections.abc import Collection
from datetime import datetime, timedelta
from typing import TypeVar

from keyleash.policy.quantities import parse_moment

Duration = str | timedelta
"""A duration as text, such as `90s` or `1h30m`, or as a `timedelta`."""

N = TypeVar("N", int, float, int | None, float | None)

Moment = str | timedelta | datetime
"""A time: an aware `datetime`, ISO 8601, or how long before now: `10m` or a `timedelta`."""


def time_ms_of(name: str, value: Moment | None, now_ms: int) -> int | None:
    """Return a time in Unix milliseconds; None for None.

    Args:
        name: The parameter, for errors.
        value: The time.
        now_ms: The server's clock.

    Raises:
        TypeError: it has another type.
        ValueError: it is a naive `datetime`, or text that is neither a duration nor a time.
    """
    match value:
        case None:
            return None
        case datetime():
            if value.tzinfo is None:
                raise ValueError(f"`{name}` must be an aware datetime; give it a `tzinfo`")
            return max(0, round(value.timestamp() * 1000))
        case timedelta():
            return max(0, now_ms - round(value.total_seconds() * 1000))
        case str():
            try:
                return parse_moment(value, now_ms)
            except ValueError as error:
                raise ValueError(f"`{name}`: {error}") from None
    raise TypeError(f"`{name}` must be a str, timedelta or datetime, not {type(value).__name__}")


def positive(name: str, value: N) -> N:
    """Return a number or None.

    Raises:
        ValueError: it is not over 0.
    """
    if value is not None and value <= 0:
        raise ValueError(f"`{name}` must be over 0")
    return value


def names_of(names: str | Collection[str] | None) -> Collection[str] | None:
    """Return one name or several as several; None for None."""
    return [names] if isinstance(names, str) else names
