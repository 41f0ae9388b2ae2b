"""Generated pairs of limits: `allows_more_than` agrees with their counters."""

from __future__ import annotations

from datetime import datetime
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keyleash.limits import SECOND_US, Budget, Counter, Limit, Period, Rate
from support.thorough import thorough

CALLS = 600
RATES = st.builds(
    Rate,
    counter=st.just(Counter.REQUESTS),
    limit=st.integers(1, 6),
    period_us=st.integers(1, 12).map(lambda units: units * 60),
    burst=st.none() | st.integers(1, 8),
)
NOW_US = 10**15


def stops(limit: Limit, other: Limit, start_us: int, calls: int = CALLS) -> bool:
    """Return whether *limit* denies a call that *other* allows, with calls as early as possible."""
    judge, source = limit.new_count(), other.new_count()
    now_us = start_us
    for _ in range(calls):
        now_us = max(now_us, source.free_us(now_us))
        if judge.free_us(now_us) > now_us:
            return True
        source.take(now_us)
        judge.take(now_us)
    return False


@thorough(150)
@given(RATES, RATES, st.lists(st.integers(0, 200), max_size=30))
def test_rate_allows_more_if_the_other_denies_one_of_its_calls(
    rate: Rate, other: Rate, waits_us: list[int]
) -> None:
    """Calls as early as possible decide it; other calls show no difference beyond that."""
    assert rate.allows_more_than(other) == stops(other, rate, NOW_US)

    judge, source, now_us = other.new_count(), rate.new_count(), NOW_US
    for wait_us in waits_us:
        now_us = max(now_us + wait_us, source.free_us(now_us + wait_us))
        if judge.free_us(now_us) > now_us:
            assert rate.allows_more_than(other)
            return
        source.take(now_us)
        judge.take(now_us)


PERIODS = [
    (Period.MINUTE, Period.HOUR, 60),
    (Period.HOUR, Period.DAY, 25),
    (Period.DAY, Period.MONTH, 31),
    (Period.HOUR, Period.MONTH, 745),
]


@pytest.mark.parametrize(("short", "long", "fitting"), PERIODS)
def test_budget_of_a_short_period_is_multiplied_by_its_windows_in_a_long_one(
    short: Period, long: Period, fitting: int
) -> None:
    """In Berlin, a day in October has 25 hours."""
    zone = "Europe/Berlin"
    often = Budget(Counter.REQUESTS, 2, short, zone)
    start_us = int(
        datetime(2027, 10, 31 if fitting == 25 else 1, tzinfo=ZoneInfo(zone)).timestamp()
    )
    start_us *= SECOND_US
    for limit in (2 * fitting - 1, 2 * fitting):
        seldom = Budget(Counter.REQUESTS, limit, long, zone)
        more = limit < 2 * fitting
        assert often.allows_more_than(seldom) is more
        assert stops(seldom, often, start_us, 2 * fitting) is more
        assert seldom.allows_more_than(often)
        assert stops(often, seldom, start_us, 3)


def test_budget_in_a_zone_whose_clock_never_goes_back_has_days_of_24_hours() -> None:
    """An hourly budget of 10 equals a daily one of 240 there."""
    for zone in ("UTC", "Asia/Tokyo"):
        hourly = Budget(Counter.WRITES, 10, Period.HOUR, zone)
        assert not hourly.allows_more_than(Budget(Counter.WRITES, 240, Period.DAY, zone))
        assert hourly.allows_more_than(Budget(Counter.WRITES, 239, Period.DAY, zone))


@thorough(25)
@given(st.integers(1, 9), st.integers(1, 9), st.sampled_from([*Period]))
def test_budgets_of_one_calendar_compare_by_number(first: int, other: int, period: Period) -> None:
    """A higher number allows more."""
    budgets = [Budget(Counter.WRITES, limit, period) for limit in (first, other)]
    assert budgets[0].allows_more_than(budgets[1]) == (first > other)


def test_budgets_of_two_time_zones_each_allow_more_than_the_other() -> None:
    """Only one of the windows ends at a time."""
    there = Budget(Counter.WRITES, 5, Period.DAY, "Asia/Tokyo")
    here = Budget(Counter.WRITES, 5, Period.DAY)
    assert there.allows_more_than(here)
    assert here.allows_more_than(there)
