"""Budgets: a number of calls per calendar window."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from typing import ClassVar
from zoneinfo import available_timezones

from keyleash.doubles import MOST, is_count, is_time, whole, whole_us
from keyleash.errors import ReplyCode, Span
from keyleash.limits.calendar import PERIOD_US, Period, most_windows_within, window_end_us
from keyleash.limits.counters import (
    IDENTITY,
    BaseCount,
    BaseLimit,
    Counter,
    LimitProblem,
    LimitState,
    MigrationStep,
    Slot,
    SlotKind,
    Subject,
    a_period,
    keep_numbers,
)

MAX_BUDGET = 10**15
"""Counters are doubles, exact to 2^53."""
UTC = "UTC"


@cache
def timezones() -> frozenset[str]:
    """Return the names of the time zones that a budget may have."""
    # `localtime` is whatever the loading machine happens to be set to.
    return frozenset(available_timezones() - {"localtime", "Factory"})


@dataclass(frozen=True, slots=True)
class Budget(BaseLimit):
    """A quota per calendar window in a time zone (an IANA name)."""

    FIELD: ClassVar = "budget"
    PERIODS: ClassVar = {str(period): period for period in Period}
    OPTIONS: ClassVar = {"timezone": str}

    counter: Counter
    limit: int
    period: Period
    timezone: str = UTC
    subject: Subject = IDENTITY
    span: Span | None = field(default=None, compare=False, repr=False)

    def problems(self) -> Iterator[LimitProblem]:
        if self.timezone != UTC and self.timezone not in timezones():
            yield LimitProblem(
                "unknown-timezone",
                "timezone",
                "unknown time zone",
                "write an IANA name, such as `Europe/Berlin` or `UTC`",
                timezones(),
            )
        if self.limit > MAX_BUDGET:
            yield LimitProblem(
                "limit-out-of-range",
                "limit",
                f"the budget `{self.limit}` is over {MAX_BUDGET}",
                "leave the budget out if there is to be none",
            )

    @property
    def kind(self) -> SlotKind:
        """The way in which it counts."""
        return SlotKind.BUDGET

    @property
    def at_once(self) -> int:
        return self.limit

    @property
    def period_us(self) -> int:
        """The usual length of its window; for a month, 31 days."""
        return PERIOD_US[self.period]

    def describe(self) -> str:
        zone = "" if self.timezone == UTC else f", {self.timezone}"
        return a_period(self.period, self.counter.shown(self.limit)) + zone

    def slot(self, index: int = 0) -> Slot:
        calendar = f"{self.period} {self.timezone}"
        return Slot(self.name, self.kind, index, self.limit, self.period_us, calendar=calendar)

    def new_count(self) -> BudgetCount:
        return BudgetCount(self)

    def _read_record(
        self, number: float, second: float, pace_us: float, *, ring: bytes, now_us: int
    ) -> BudgetCount | None:
        period = next((item for item, length in PERIOD_US.items() if length == pace_us), None)
        if period is None or not (is_time(number) and is_count(second)):
            return None
        count = BudgetCount(replace(self, period=period))
        count.ends_us, count.count = whole_us(number), int(second)
        return count

    def denial(self, free_us: int, now_us: int) -> tuple[ReplyCode, str, int]:
        return ReplyCode.BUDGET_EXHAUSTED, "resets_at_ms", -(-free_us // 1000)

    def allows_more_than(self, other: Budget) -> bool:
        """
        Return whether it allows some sequence of calls that *other* denies.

        Windows of two periods in one time zone lie within each other, so the number of windows
        that fit decides. In two time zones they do not: each allows what the other denies.
        """
        if self.timezone != other.timezone:
            return True
        windows = most_windows_within(self.period, other.period, self.timezone)
        return self.limit * windows > other.limit


class BudgetCount(BaseCount):
    """The calls of the open calendar window; a clock that goes back opens no new one."""

    numbers = ("ends", "used")

    limit: Budget
    ends_us = 0
    count = 0

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.limit.name}: {self.count} of {self.limit.limit}>"

    @property
    def is_corrupt(self) -> bool:
        return self.ends_us >= MOST

    def free_us(self, now_us: int, amount: int = 1) -> int:
        if now_us >= self.ends_us or self.count + amount <= self.limit.limit:
            return now_us
        return self.ends_us

    def left(self, now_us: int) -> int:
        """Return the calls that are left; 0 if the limit was lowered below what is used."""
        return max(0, self.limit.limit - (self.count if now_us < self.ends_us else 0))

    def resets_us(self, now_us: int) -> int | None:
        return self.ends_us if self.count and now_us < self.ends_us < MOST else None

    def take(self, now_us: int, amount: int = 1) -> None:
        if now_us >= self.ends_us:
            self.ends_us = window_end_us(self.limit.period, self.limit.timezone, now_us)
            self.count = 0
        self.count += amount
        self._extend_life(now_us, self.ends_us)

    def carry(self, old: BudgetCount, now_us: int) -> None:
        """Keep the count of the open window; the new calendar decides when it ends."""
        calendars = {(item.limit.period, item.limit.timezone) for item in (self, old)}
        if old.is_corrupt or len(calendars) == 1:
            self.ends_us, self.count = old.ends_us, old.count
        elif now_us < old.ends_us:
            self.ends_us = window_end_us(self.limit.period, self.limit.timezone, now_us)
            self.count = old.count
        if now_us < self.ends_us:
            self._extend_life(now_us, self.ends_us)

    def restore(self, state: LimitState) -> None:
        self.ends_us, self.count = state.ends_us, state.used

    def corrupt(self) -> None:
        self.ends_us, self.count = MOST, self.limit.limit

    @classmethod
    def migration(cls, old: Slot, new: Slot, start: float) -> tuple[MigrationStep, ...]:
        if old.calendar == new.calendar:
            return (keep_numbers(old, 2),)
        return (MigrationStep("b", (old.index, start)),)

    @classmethod
    def unpack(cls, slot: Slot, header: Sequence[float], data: bytes) -> LimitState:
        ends_us, used = header[slot.index : slot.index + 2]
        is_corrupt = not (is_time(ends_us) and is_count(used))
        return LimitState(slot, ends_us=whole_us(ends_us), used=whole(used), is_corrupt=is_corrupt)

    @staticmethod
    def used(state: LimitState, now_us: int) -> tuple[int, int | None]:
        is_free = now_us >= state.ends_us or not state.used
        return (0, None) if is_free else (state.used, state.ends_us)
