"""Calendar windows of a time zone, as runs of equal length.

A run says: from `start_us` on, a window ends every `step_us`, and the last one at
`until_us` at the latest. A UTC day is one run without end; in a zone with summer
time, each day that is not 24 hours long is a run of its own.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from enum import StrEnum
from functools import cache
from itertools import pairwise
from zoneinfo import ZoneInfo

from keyleash.limits.counters import SECOND_US


class Period(StrEnum):
    """A calendar window."""

    MINUTE = "minute"
    HOUR = "hour"
    DAY = "day"
    MONTH = "month"


PERIOD_US = {
    Period.MINUTE: 60 * SECOND_US,
    Period.HOUR: 3_600 * SECOND_US,
    Period.DAY: 86_400 * SECOND_US,
    Period.MONTH: 31 * 86_400 * SECOND_US,
}
"""Length of a window, µs; months and days may be shorter, and days longer."""


@dataclass(frozen=True, slots=True)
class Run:
    """A stretch of calendar windows of equal length."""

    start_us: int
    until_us: int | None
    step_us: int


YEARS = 6
"""Compiled in from the first of January of the year of compiling: never less than five ahead."""


@cache
def window_runs(period: Period, timezone: str, year: int) -> tuple[Run, ...]:
    """The windows of *period* in *timezone* for `YEARS` years from *year* on.

    Returns:
        Runs in order of time. The first also holds for all time before it. The last
        has no end: after it windows keep the period's length (a month 31 days).
    """
    zone = ZoneInfo(timezone)
    step_us = PERIOD_US[period]
    match period:
        case Period.MONTH:
            return _runs_of_lengths([_instant_us(first, zone) for first in _months(year)], step_us)
        case Period.DAY:
            return _runs_of_lengths([_instant_us(day, zone) for day in _days(year)], step_us)
        case _:
            return _runs_of_offsets(_offset_changes(zone, year, step_us), step_us)


def end_of_runs_us(runs: tuple[Run, ...], now_us: int) -> int:
    """The first end of a window after *now_us*; the same arithmetic as the guard's."""
    run = next(run for run in runs if run.until_us is None or now_us < run.until_us)
    end = run.start_us + ((now_us - run.start_us) // run.step_us + 1) * run.step_us
    return end if run.until_us is None else min(end, run.until_us)


def _runs_of_lengths(starts: list[int], last_step_us: int) -> tuple[Run, ...]:
    """Join neighbouring windows of equal length, given the starts of all windows."""
    lengths = [later - start for start, later in pairwise(starts)] + [last_step_us]
    firsts = [i for i, length in enumerate(lengths) if i == 0 or length != lengths[i - 1]]
    if firsts == [0]:
        return (Run(starts[0] % last_step_us, None, last_step_us),)
    ends = [starts[i] for i in firsts[1:]] + [None]
    return tuple(Run(starts[i], end, lengths[i]) for i, end in zip(firsts, ends, strict=True))


def _runs_of_offsets(changes: list[tuple[int, int]], step_us: int) -> tuple[Run, ...]:
    """Windows that begin at whole local hours or minutes, given (instant, UTC offset) pairs."""
    ends = [instant for instant, _ in changes[1:]] + [None]
    if ends == [None]:
        return (Run(-changes[0][1] % step_us, None, step_us),)
    return tuple(
        Run(instant - (instant + offset) % step_us, end, step_us)
        for (instant, offset), end in zip(changes, ends, strict=True)
    )


def _offset_changes(zone: ZoneInfo, year: int, step_us: int) -> list[tuple[int, int]]:
    """Where the zone's offset changes by other than whole steps (Lord Howe's half hour)."""
    days = [_instant_us(day, ZoneInfo("UTC")) for day in _days(year)]
    changes = [(days[0], _offset_us(days[0], zone))]
    for before, after in pairwise(days):
        offset = changes[-1][1]
        if (_offset_us(after, zone) - offset) % step_us:
            at_s = bisect_left(
                range(before // SECOND_US, after // SECOND_US),
                True,
                key=lambda second: (_offset_us(second * SECOND_US, zone) - offset) % step_us != 0,
            )
            instant = before + at_s * SECOND_US
            changes.append((instant, _offset_us(instant, zone)))
    return changes


def _offset_us(at_us: int, zone: ZoneInfo) -> int:
    offset = datetime.fromtimestamp(at_us / SECOND_US, zone).utcoffset() or timedelta()
    return int(offset.total_seconds()) * SECOND_US


def _months(year: int) -> Iterator[date]:
    for month in range(YEARS * 12 + 1):
        yield date(year + month // 12, month % 12 + 1, 1)


def _days(year: int) -> Iterator[date]:
    day = date(year, 1, 1)
    while day.year < year + YEARS:
        yield day
        day += timedelta(days=1)


def _instant_us(day: date, zone: ZoneInfo) -> int:
    """The first instant of a local day: where midnight is skipped, the end of the gap."""
    local = datetime(day.year, day.month, day.day, tzinfo=zone)
    return int(local.astimezone(UTC).timestamp()) * SECOND_US


def window_end_us(period: Period, timezone: str, now_us: int) -> int:
    """The end of the calendar window that *now_us* is in."""
    year = datetime.fromtimestamp(now_us // SECOND_US, UTC).year
    # Where it is still the year before.
    return end_of_runs_us(window_runs(period, timezone, year - 1), now_us)


def most_windows_within(short: Period, long: Period, timezone: str) -> int:
    """Return the most windows of one period that a window of another has; 1 if it is as long."""
    periods = [*Period]
    if periods.index(short) >= periods.index(long):
        return 1
    if short is Period.DAY:
        return 31
    if long is Period.HOUR:
        return 60
    hours = PERIOD_US[long] // PERIOD_US[Period.HOUR] + _gained_h(timezone)
    return hours if short is Period.HOUR else hours * 60


@cache
def _gained_h(timezone: str) -> int:
    """Return by how many hours, rounded up, the clock goes back at most in the coming years."""
    zone = ZoneInfo(timezone)
    first = datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
    days = (first + timedelta(days=day) for day in range((YEARS - 1) * 366))
    offsets = [day.astimezone(zone).utcoffset() or timedelta() for day in days]
    back = max(before - after for before, after in pairwise(offsets))
    return max(0, -(-int(back.total_seconds()) // 3600))
