"""
Whether one budget lets through what another does not.

Windows of two periods in one time zone lie within each other, so it is enough to know how many
fit. In two time zones they do not: each budget then lets through what the other stops.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from functools import cache
from itertools import pairwise
from zoneinfo import ZoneInfo

from keyleash.policy.model import Budget, Period

_LENGTHS_H = {Period.DAY: 24, Period.MONTH: 31 * 24}
_YEARS = 5
"""So far ahead guards know the calendar."""


def spends_more(one: Budget, other: Budget) -> bool:
    """Whether *one* lets some sequence of calls through that *other* stops."""
    if one.timezone != other.timezone:
        return True
    periods = [*Period]
    if periods.index(one.period) >= periods.index(other.period):
        # All of it may be spent within one window of the other.
        return one.limit > other.limit
    return one.limit * _fitting(one.period, other.period, one.timezone) > other.limit


def _fitting(short: Period, long: Period, timezone: str) -> int:
    """The most windows of a short period that one of a long period can have."""
    if short is Period.DAY:
        return 31
    if long is Period.HOUR:
        return 60
    hours = _LENGTHS_H[long] + _gained_h(timezone)
    return hours if short is Period.HOUR else hours * 60


@cache
def _gained_h(timezone: str) -> int:
    """By how many hours, rounded up, the clock goes back at most in the coming years."""
    zone = ZoneInfo(timezone)
    first = datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
    days = (first + timedelta(days=day) for day in range(_YEARS * 366))
    offsets = [day.astimezone(zone).utcoffset() or timedelta() for day in days]
    back = max(before - after for before, after in pairwise(offsets))
    return max(0, -(-int(back.total_seconds()) // 3600))
