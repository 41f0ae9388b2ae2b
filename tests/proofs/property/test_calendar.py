"""The compiled-in calendar against a walk over zoneinfo, quarter of an hour by quarter."""

from __future__ import annotations

from array import array
from bisect import bisect_right
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from functools import cache
from itertools import pairwise
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keyleash.limits import SECOND_US, Period, calendar
from keyleash.limits.calendar import window_end_us
from support.thorough import thorough

YEAR = 2026
ZONES = (
    "UTC",
    "Europe/Berlin",
    "America/New_York",
    "America/Sao_Paulo",
    "Australia/Lord_Howe",  # half an hour of summer time
    "Asia/Kathmandu",  # 5:45 ahead
    "Pacific/Apia",
    "Africa/Cairo",  # springs over midnight
    "Africa/Casablanca",  # four changes around Ramadan
    "America/Santiago",  # springs over midnight, falls back across it
    "Asia/Beirut",  # so does this
)
ODD_HOURS = ("UTC", "Europe/Berlin", "Australia/Lord_Howe", "Asia/Kathmandu")
QUARTER_S = 900
FIRST_S = int(datetime(YEAR, 1, 2, tzinfo=UTC).timestamp())
LAST_S = int(datetime(YEAR + calendar.YEARS - 1, 12, 30, tzinfo=UTC).timestamp())


@cache
def local_clock_s(zone: str) -> tuple[array[int], array[int]]:
    """The wall clock at every quarter of an hour of all the years, and just before it."""
    info = ZoneInfo(zone)
    before, after = array("q"), array("q")
    offset_s = 0
    for at_s in range(FIRST_S, LAST_S, QUARTER_S):
        before.append(at_s + offset_s)
        offset = datetime.fromtimestamp(at_s, info).utcoffset() or timedelta()
        offset_s = int(offset.total_seconds())
        after.append(at_s + offset_s)
    return before, after


def changes(zone: str, label: Callable[[int], object]) -> list[int]:
    """The instants at which *label* of the wall clock changes."""
    labels = [label(local_s) for local_s in local_clock_s(zone)[1]]
    return [
        FIRST_S + QUARTER_S * place
        for place, (item, next_one) in enumerate(pairwise(labels), start=1)
        if item != next_one
    ]


def local_day(local_s: int) -> int:
    return local_s // 86_400


def local_month(local_s: int) -> int:
    return datetime.fromtimestamp(local_s, UTC).month


def whole_hours(zone: str) -> list[int]:
    """The instants at which the wall clock comes to a whole hour, or starts again at one."""
    return [
        FIRST_S + QUARTER_S * place
        for place, (before_s, after_s) in enumerate(zip(*local_clock_s(zone), strict=True))
        if place and (before_s % 3600 == 0 or after_s % 3600 == 0)
    ]


def compiled(period: Period, zone: str) -> Iterator[int]:
    """Window ends in the same stretch of time, by the runs that a guard is compiled from."""
    runs = calendar.window_runs(period, zone, YEAR)
    at_us = FIRST_S * SECOND_US
    while True:
        at_us = calendar.end_of_runs_us(runs, at_us)
        if at_us >= LAST_S * SECOND_US - QUARTER_S * SECOND_US:
            return
        assert at_us % SECOND_US == 0
        yield at_us // SECOND_US


def until_the_last(instants: list[int]) -> list[int]:
    return [at for at in instants if at < LAST_S - QUARTER_S]


@pytest.mark.parametrize("zone", ZONES)
def test_day_ends_where_the_local_date_changes(zone: str) -> None:
    """Days of 23, 24 and 25 hours, and midnights that do not exist."""
    assert list(compiled(Period.DAY, zone)) == until_the_last(changes(zone, local_day))


@pytest.mark.parametrize("zone", ZONES)
def test_month_ends_where_the_local_month_changes(zone: str) -> None:
    """Months have 28 to 31 local days."""
    expected = until_the_last(changes(zone, local_month))

    assert list(compiled(Period.MONTH, zone)) == expected


@pytest.mark.parametrize("zone", ODD_HOURS)
def test_hour_ends_where_the_local_clock_shows_a_whole_hour(zone: str) -> None:
    """Also where the hour on the wall is not an hour of UTC, or changes by half of one."""
    assert list(compiled(Period.HOUR, zone)) == until_the_last(whole_hours(zone))


@pytest.mark.parametrize("zone", ZONES)
def test_minute_ends_with_every_minute_of_utc(zone: str) -> None:
    """No zone is a part of a minute off."""
    runs = calendar.window_runs(Period.MINUTE, zone, YEAR)

    for at_us in range(FIRST_S * SECOND_US, LAST_S * SECOND_US, 9_999_999_999_999):
        assert calendar.end_of_runs_us(runs, at_us) == at_us - at_us % 60_000_000 + 60_000_000


@cache
def ends_of(period: Period, zone: str) -> list[int]:
    """The instants at which windows end by the wall clock."""
    match period:
        case Period.MINUTE:
            return [*range(FIRST_S - FIRST_S % 60, LAST_S, 60)]
        case Period.HOUR:
            return whole_hours(zone)
        case Period.DAY:
            return changes(zone, local_day)
        case Period.MONTH:
            return changes(zone, local_month)


@thorough(100)
@given(
    st.sampled_from(ZONES),
    st.sampled_from(Period),
    st.integers(FIRST_S * SECOND_US, (LAST_S - 32 * 86_400) * SECOND_US),
)
def test_window_of_any_microsecond_is_that_of_the_wall_clock(
    zone: str, period: Period, now_us: int
) -> None:
    """The runs of its own year and of an earlier one end it at the same time."""
    ends_s = ends_of(period, zone)
    end_us = ends_s[bisect_right(ends_s, now_us // SECOND_US)] * SECOND_US

    assert calendar.end_of_runs_us(calendar.window_runs(period, zone, YEAR), now_us) == end_us
    assert window_end_us(period, zone, now_us) == end_us


@pytest.mark.parametrize("zone", ZONES)
@pytest.mark.parametrize("period", list(Period))
def test_windows_continue_after_the_last_compiled_year(zone: str, period: Period) -> None:
    """A guard that is not recompiled for years still opens new windows."""
    runs = calendar.window_runs(period, zone, YEAR)
    after_us = int(datetime(YEAR + 20, 5, 5, tzinfo=UTC).timestamp()) * SECOND_US

    ends_us = calendar.end_of_runs_us(runs, after_us)
    assert after_us < ends_us <= after_us + 31 * 86_400 * SECOND_US
