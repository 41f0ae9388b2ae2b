"""Calendar windows, asked of zoneinfo one instant at a time."""

from __future__ import annotations

from collections.abc import Callable
from datetime import date, datetime, timedelta
from zoneinfo import ZoneInfo

from keyleash.policy import SECOND_US, Period


def window_end_us(period: Period, timezone: str, now_us: int) -> int:
    """The end of the calendar window that *now_us* is in."""
    zone = ZoneInfo(timezone)
    now_s = now_us // SECOND_US
    match period:
        case Period.DAY:
            return SECOND_US * _first_s(zone, now_s, _day)
        case Period.MONTH:
            return SECOND_US * _first_s(zone, now_s, _month)
        case Period.HOUR:
            return SECOND_US * _clock_reaches_s(zone, now_s, 3600)
        case Period.MINUTE:
            return SECOND_US * _clock_reaches_s(zone, now_s, 60)


def _day(local: datetime) -> date:
    return local.date()


def _month(local: datetime) -> date:
    return local.date().replace(day=1)


def _first_s(zone: ZoneInfo, now_s: int, label: Callable[[datetime], date]) -> int:
    """The first second at which the local day, or month, is a later one than now."""
    now = label(datetime.fromtimestamp(now_s, zone))
    before, after = now_s, now_s + 33 * 86_400
    while after - before > 1:
        middle = (before + after) // 2
        if label(datetime.fromtimestamp(middle, zone)) > now:
            after = middle
        else:
            before = middle
    return after


def _clock_reaches_s(zone: ZoneInfo, now_s: int, step_s: int) -> int:
    """The next second at which the clock on the wall comes to a multiple of *step_s*."""
    offset_s = _offset_s(zone, now_s)
    at_s = now_s + step_s - (now_s + offset_s) % step_s
    if _offset_s(zone, at_s - 1) == offset_s:
        return at_s
    at_s = now_s
    while True:
        offset_s = _offset_s(zone, at_s)
        at_s += 1
        # By the time of before a change or by that of after it: both may be a full hour.
        if (at_s + offset_s) % step_s == 0 or (at_s + _offset_s(zone, at_s)) % step_s == 0:
            return at_s


def _offset_s(zone: ZoneInfo, at_s: int) -> int:
    offset = datetime.fromtimestamp(at_s, zone).utcoffset()
    return int((offset or timedelta()).total_seconds())
