"""Counters of rate limits and budgets."""

from __future__ import annotations

from bisect import bisect_right
from collections import deque
from collections.abc import Callable
from datetime import date, datetime, timedelta
from zoneinfo import ZoneInfo

from keyleash.policy import SECOND_US, Budget, Limit, Period, Rate
from keyleash.store.state import COUNTER_KEEP_MS, MOST


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


class RingCount:
    """A plain rate: the call `limit` calls ago must be a whole period old."""

    def __init__(self, limit: Rate) -> None:
        self.limit = limit
        self.calls_us: deque[int] = deque(maxlen=limit.limit)
        self.expires_ms = 0

    @property
    def is_corrupt(self) -> bool:
        """Whether it holds what no guard writes, so that the limit allows no call."""
        is_full = len(self.calls_us) == self.limit.limit
        return is_full and self.calls_us[0] + self.limit.period_us >= MOST

    def free_us(self, now_us: int) -> int:
        if len(self.calls_us) < self.limit.limit:
            return now_us
        return self.calls_us[0] + self.limit.period_us

    def left(self, now_us: int) -> int:
        """How many calls would pass now, one after the other, if the clock never went back."""
        if self.free_us(now_us) > now_us:
            return 0
        # A ring may hold 100,000 calls, and each of as many calls asks.
        old = bisect_right(self.calls_us, now_us - self.limit.period_us)
        # A clock that went back leaves calls out of order.
        return max(1, self.limit.limit - (len(self.calls_us) - old))

    def resets_us(self, now_us: int) -> int | None:
        """When all of it is free again; None if it is, or if only a reset makes it so."""
        ends_us = self.calls_us[-1] + self.limit.period_us if self.calls_us else 0
        return ends_us if now_us < ends_us < MOST else None

    def take(self, now_us: int) -> None:
        self.calls_us.append(now_us)
        self.expires_ms = now_us // 1000 + self.limit.period_us // 1000 + COUNTER_KEEP_MS


class GcraCount:
    """A rate with a burst: each call costs an interval; `burst` may be owed at once."""

    def __init__(self, limit: Rate) -> None:
        self.limit = limit
        self.interval_us = -(-limit.period_us // limit.limit)
        self.tolerance_us = ((limit.burst or 1) - 1) * self.interval_us
        self.tat_us = 0
        self.expires_ms = 0

    @property
    def is_corrupt(self) -> bool:
        """As for a ring."""
        return self.tat_us >= MOST

    def free_us(self, now_us: int) -> int:
        return max(self.tat_us, now_us) - self.tolerance_us

    def left(self, now_us: int) -> int:
        """As for a ring."""
        ahead_us = now_us - self.free_us(now_us)
        return ahead_us // self.interval_us + 1 if ahead_us >= 0 else 0

    def resets_us(self, now_us: int) -> int | None:
        """As for a ring."""
        return self.tat_us if now_us < self.tat_us < MOST else None

    def take(self, now_us: int) -> None:
        self.tat_us = max(self.tat_us, now_us) + self.interval_us
        self.expires_ms = now_us // 1000 - (now_us - self.tat_us) // 1000 + COUNTER_KEEP_MS


class BudgetCount:
    """So many calls until the calendar window ends; a clock that goes back opens no new one."""

    def __init__(self, limit: Budget) -> None:
        self.limit = limit
        self.ends_us = 0
        self.used = 0
        self.expires_ms = 0

    @property
    def is_corrupt(self) -> bool:
        """As for a ring."""
        return self.ends_us >= MOST

    def free_us(self, now_us: int) -> int:
        if now_us >= self.ends_us or self.used < self.limit.limit:
            return now_us
        return self.ends_us

    def left(self, now_us: int) -> int:
        """As for a ring; a limit that was lowered leaves nothing, and not less."""
        return max(0, self.limit.limit - (self.used if now_us < self.ends_us else 0))

    def resets_us(self, now_us: int) -> int | None:
        """As for a ring."""
        return self.ends_us if self.used and now_us < self.ends_us < MOST else None

    def take(self, now_us: int) -> None:
        if now_us >= self.ends_us:
            self.ends_us = window_end_us(self.limit.period, self.limit.timezone, now_us)
            self.used = 0
        self.used += 1
        self.expires_ms = now_us // 1000 - (now_us - self.ends_us) // 1000 + COUNTER_KEEP_MS


Count = RingCount | GcraCount | BudgetCount


def new_count(limit: Limit) -> Count:
    match limit:
        case Budget():
            return BudgetCount(limit)
        case Rate(burst=None):
            return RingCount(limit)
        case Rate():
            return GcraCount(limit)


def corrupt_count(limit: Limit) -> Count:
    """A counter of *limit* that holds what no guard writes."""
    count = new_count(limit)
    match count:
        case RingCount():
            count.calls_us.extend([MOST] * limit.limit)
        case GcraCount():
            count.tat_us = MOST
        case BudgetCount():
            count.ends_us, count.used = MOST, limit.limit
    return count
