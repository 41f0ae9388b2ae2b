"""Sliding-window rates: exact, as a ring of the last calls, or with a burst, as GCRA."""

from __future__ import annotations

import math
import struct
from bisect import bisect_right
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

from keyleash.doubles import DOUBLE, MOST, is_time, whole_us
from keyleash.errors import ReplyCode, Span
from keyleash.limits.counters import (
    IDENTITY,
    SECOND_US,
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
    emission_interval_us,
    keep_numbers,
)

RATE_PERIODS_US = {
    "second": SECOND_US,
    "minute": 60 * SECOND_US,
    "hour": 3600 * SECOND_US,
    "day": 86_400 * SECOND_US,
}
PERIOD_NAMES = {period_us: name for name, period_us in RATE_PERIODS_US.items()}
RATE_SHARES = 10
"""A lease of a rate is at most the limit divided by this, for each shard of a cluster."""
MAX_RING_SLOTS = 100_000
"""A plain rate remembers each call of its window, so its limit is bounded."""
MIN_EMISSION_US = 10
MAX_EMISSION_US = RATE_PERIODS_US["day"]
"""The bounds of GCRA's emission interval."""
MAX_BURST = 1_000_000
MAX_BURST_US = 366 * RATE_PERIODS_US["day"]
"""A TAT lies this far ahead at most, so that a double still holds it to the microsecond."""


@dataclass(frozen=True, slots=True)
class Rate(BaseLimit):
    """A sliding-window rate limit.

    Attributes:
        limit: Calls per period; at most `MAX_RING_SLOTS` without burst.
        period_us: Length of the window, µs.
        burst: None means exact: never more than `limit` in any window. Else GCRA:
            steady `limit` a period, at most `burst` back to back.
    """

    FIELD: ClassVar = "rate"
    PERIODS: ClassVar = RATE_PERIODS_US
    OPTIONS: ClassVar = {"burst": int}

    counter: Counter
    limit: int
    period_us: int
    burst: int | None = None
    subject: Subject = IDENTITY
    span: Span | None = field(default=None, compare=False, repr=False)

    def problems(self) -> Iterator[LimitProblem]:
        shown, is_bytes = self.counter.shown, self.counter.is_bytes
        written = f"{shown(self.limit)}/{PERIOD_NAMES[self.period_us]}"
        if self.burst is None:
            if is_bytes:
                yield LimitProblem(
                    "missing-burst",
                    "limit",
                    f"the rate `{written}` has no `burst`, and a rate of bytes needs one",
                    f"write the most bytes at once, as in `{{limit: {written}, burst: 1mb}}`",
                )
            elif self.limit > MAX_RING_SLOTS:
                yield LimitProblem(
                    "limit-out-of-range",
                    "limit",
                    f"the limit `{self.limit}` is over {MAX_RING_SLOTS}, the most that a rate"
                    " without `burst` can remember",
                    f"add a `burst`, as in `{{limit: {written}, burst: 1000}}`,"
                    " or use a shorter period",
                )
            return
        if not (is_bytes or 1 <= self.burst <= MAX_BURST):
            yield LimitProblem(
                "burst-out-of-range",
                "burst",
                f"the burst `{self.burst}` is not between 1 and {MAX_BURST}",
                "write how many calls may come back to back, such as `burst: 60`",
            )
        elif self.burst * self.period_us > MAX_BURST_US * self.limit:
            yield LimitProblem(
                "burst-out-of-range",
                "burst",
                f"the burst `{shown(self.burst)}` takes longer than 366 days to earn back",
                f"write `burst: {shown(MAX_BURST_US * self.limit // self.period_us)}` or less",
            )
        if not is_bytes and self.limit * MIN_EMISSION_US > self.period_us:
            yield LimitProblem(
                "limit-out-of-range",
                "limit",
                f"the rate `{written}` is over 100000 a second",
                "write a lower limit, or a longer period",
            )

    @property
    def kind(self) -> SlotKind:
        """The way in which it counts."""
        return SlotKind.RING if self.burst is None else SlotKind.GCRA

    @property
    def at_once(self) -> int:
        return self.limit if self.burst is None else self.burst

    @property
    def interval_us(self) -> float:
        """GCRA's emission interval."""
        return emission_interval_us(self.limit, self.period_us, is_bytes=self.counter.is_bytes)

    @property
    def tolerance_us(self) -> int:
        """GCRA's burst tolerance; 0 of an exact rate. For bytes, what the whole burst takes."""
        if self.counter.is_bytes:
            return self.cost_us(self.burst or 1)
        return int(((self.burst or 1) - 1) * self.interval_us)

    def cost_us(self, amount: int) -> int:
        """Return by how much *amount* calls or bytes move GCRA's theoretical arrival time."""
        return math.ceil(amount * self.interval_us)

    def describe(self) -> str:
        burst = "" if self.burst is None else f", {self.counter.shown(self.burst)} at once"
        return a_period(PERIOD_NAMES[self.period_us], self.counter.shown(self.limit)) + burst

    def slot(self, index: int = 0) -> Slot:
        capacity = self.limit if self.burst is None else 0
        return Slot(self.name, self.kind, index, self.limit, self.period_us, capacity)

    def new_count(self) -> RingCount | GcraCount:
        return RingCount(self) if self.burst is None else GcraCount(self)

    def _read_record(
        self, number: float, second: float, pace_us: float, *, ring: bytes, now_us: int
    ) -> RingCount | GcraCount | None:
        count = self.new_count()
        if second > 0 if self.burst is not None else second == 0:
            # It counted in the other way.
            count.exhaust(now_us)
            return count
        if (second, pace_us) != self.slot().record_form and not _is_rate_record(
            number, second, pace_us, len(ring), is_bytes=self.counter.is_bytes
        ):
            return None
        if isinstance(count, GcraCount):
            if not is_time(number):
                return None
            if pace_us != self.interval_us:
                # A rate of one call in each interval; only its interval matters.
                period: Any = pace_us if self.counter.is_bytes else int(pace_us)
                count = GcraCount(replace(self, limit=1, period_us=period, burst=1))
            count.tat_us = whole_us(number)
            return count
        calls_us = ordered_calls(number, ring, int(second))
        if calls_us is None:
            return None
        count = RingCount(replace(self, limit=int(second)))
        count.calls_us.extend(calls_us)
        return count

    def denial(self, free_us: int, now_us: int) -> tuple[ReplyCode, str, int]:
        return ReplyCode.RATE_LIMITED, "retry_after_ms", -(-(free_us - now_us) // 1000)

    def allows_more_than(self, other: Rate) -> bool:
        """
        Return whether it allows some sequence of calls that *other* denies.

        A rate is characterised by the most calls that it allows in a closed interval of time: a
        ring, `limit` for each period begun; a GCRA, `burst` and one for each emission interval.
        """
        if other.burst is None:
            # A ring looks at intervals of its period, and their ends are not both in one.
            return self._most_within(other.period_us - 1) > other.limit
        if self.at_once > other.burst:
            return True
        # In the long run.
        if self.burst is None:
            return self.limit * other.interval_us > self.period_us
        return self.interval_us < other.interval_us

    def _most_within(self, length_us: int) -> int:
        """Return the most calls in a closed interval of *length_us*."""
        if self.burst is None:
            return self.limit * (length_us // self.period_us + 1)
        return self.burst + int(length_us // self.interval_us)


class RingCount(BaseCount):
    """An exact rate: the call `limit` calls ago must be a whole period old."""

    numbers = ("head",)

    limit: Rate

    def __init__(self, limit: Rate) -> None:
        super().__init__(limit)
        self.calls_us: deque[int] = deque(maxlen=limit.limit)

    @property
    def is_corrupt(self) -> bool:
        is_full = len(self.calls_us) == self.limit.limit
        return is_full and self.calls_us[0] + self.limit.period_us >= MOST

    def free_us(self, now_us: int, amount: int = 1) -> int:
        if len(self.calls_us) < self.limit.limit:
            return now_us
        return self.calls_us[0] + self.limit.period_us

    def left(self, now_us: int) -> int:
        if self.free_us(now_us) > now_us:
            return 0
        # A ring may hold 100,000 calls, and each of as many calls asks.
        old = bisect_right(self.calls_us, now_us - self.limit.period_us)
        # A clock that went back leaves calls out of order.
        return max(1, self.limit.limit - (len(self.calls_us) - old))

    def resets_us(self, now_us: int) -> int | None:
        ends_us = self.calls_us[-1] + self.limit.period_us if self.calls_us else 0
        return ends_us if now_us < ends_us < MOST else None

    def take(self, now_us: int, amount: int = 1) -> None:
        self.calls_us.append(now_us)
        self._extend_life(now_us, now_us + self.limit.period_us)

    def carry(self, old: RingCount, now_us: int) -> None:
        """Continue with the newest calls of another ring."""
        self.calls_us.extend(old.calls_us)
        self._extend_life(now_us, now_us + self.limit.period_us)

    def restore(self, state: LimitState) -> None:
        self.calls_us.extend(state.calls_us)

    def corrupt(self) -> None:
        self.calls_us.extend([MOST] * self.limit.limit)

    @classmethod
    def migration(cls, old: Slot, new: Slot, start: float) -> tuple[MigrationStep, ...]:
        if old.capacity == new.capacity:
            return keep_numbers(old, 1), MigrationStep("k", (old.offset, old.capacity))
        ring = (old.index, old.offset, old.capacity, new.capacity)
        return MigrationStep("0", (DOUBLE,)), MigrationStep("m", ring)

    @classmethod
    def unpack(cls, slot: Slot, header: Sequence[float], data: bytes) -> LimitState:
        ring = data[slot.offset : slot.offset + slot.capacity * DOUBLE]
        calls_us = ordered_calls(header[slot.index], ring, slot.capacity)
        return LimitState(slot, calls_us=calls_us or (), is_corrupt=calls_us is None)

    @staticmethod
    def used(state: LimitState, now_us: int) -> tuple[int, int | None]:
        return sum(at_us > now_us - state.slot.period_us for at_us in state.calls_us), None


class GcraCount(BaseCount):
    """A rate with a burst: each call costs an interval; `burst` may be owed at once."""

    numbers = ("tat",)

    limit: Rate
    tat_us = 0

    @property
    def is_corrupt(self) -> bool:
        return self.tat_us >= MOST

    def free_us(self, now_us: int, amount: int = 1) -> int:
        cost_us = self.limit.cost_us(amount) if self.limit.counter.is_bytes else 0
        return max(self.tat_us, now_us) + cost_us - self.limit.tolerance_us

    def left(self, now_us: int) -> int:
        if self.limit.counter.is_bytes:
            ahead_us = now_us - self.free_us(now_us, 0)
            return int(max(0, ahead_us) // self.limit.interval_us)
        ahead_us = now_us - self.free_us(now_us)
        return int(ahead_us // self.limit.interval_us) + 1 if ahead_us >= 0 else 0

    def resets_us(self, now_us: int) -> int | None:
        return self.tat_us if now_us < self.tat_us < MOST else None

    def take(self, now_us: int, amount: int = 1) -> None:
        self.tat_us = max(self.tat_us, now_us) + self.limit.cost_us(amount)
        self._extend_life(now_us, self.tat_us)

    def carry(self, old: GcraCount, now_us: int) -> None:
        """Owe as many calls as *old* did, each at the new interval."""
        self.tat_us = old.tat_us
        if old.limit.interval_us != self.limit.interval_us and now_us < old.tat_us < MOST:
            owed = (old.tat_us - now_us) / old.limit.interval_us
            self.tat_us = now_us + math.ceil(owed * self.limit.interval_us)
        if self.tat_us > now_us:
            self._extend_life(now_us, self.tat_us)

    def restore(self, state: LimitState) -> None:
        self.tat_us = state.tat_us

    def corrupt(self) -> None:
        self.tat_us = MOST

    @classmethod
    def migration(cls, old: Slot, new: Slot, start: float) -> tuple[MigrationStep, ...]:
        if old.interval_us == new.interval_us:
            return (keep_numbers(old, 1),)
        return (MigrationStep("p", (old.index, old.interval_us, new.interval_us)),)

    @classmethod
    def unpack(cls, slot: Slot, header: Sequence[float], data: bytes) -> LimitState:
        tat_us = header[slot.index]
        return LimitState(slot, tat_us=whole_us(tat_us), is_corrupt=not is_time(tat_us))

    @staticmethod
    def used(state: LimitState, now_us: int) -> tuple[int, int | None]:
        """Return the calls that are not free again."""
        return int(-(-max(0, state.tat_us - now_us) // state.slot.interval_us)), None


def ordered_calls(head: float, ring: bytes, capacity: int) -> tuple[int, ...] | None:
    """
    Return the calls of a ring, oldest first, without slots that were never used.

    Args:
        head: The slot of the oldest call.
        ring: The slots; those at the end may be missing if they were never used.
        capacity: The number of slots.

    Returns:
        None if the oldest call is no time, or *head* is no slot.
    """
    if not (0 <= head < capacity and head == int(head)):
        return None
    first = int(head)
    oldest = ring[first * DOUBLE : (first + 1) * DOUBLE]
    if oldest and (len(oldest) < DOUBLE or not is_time(struct.unpack("<d", oldest)[0])):
        return None
    size = capacity * DOUBLE
    slots = struct.unpack(f"<{capacity}d", ring[:size].ljust(size, b"\0"))
    calls = [*slots[first:], *slots[:first]]
    used = next((place for place, at_us in enumerate(calls) if at_us), capacity)
    return tuple(map(whole_us, calls[used:]))


def _is_rate_record(
    number: float, capacity: float, pace_us: float, ring_bytes: int, *, is_bytes: bool
) -> bool:
    """Return whether the guard of some policy can have written a record of a rate."""
    if not (0 <= number < MOST and number.is_integer()):
        return False
    if is_bytes:
        return capacity == 0 and 0 < pace_us <= MAX_EMISSION_US
    if capacity == 0:
        is_interval = MIN_EMISSION_US <= pace_us <= MAX_EMISSION_US
        return is_interval and pace_us.is_integer()
    is_ring = number < capacity <= MAX_RING_SLOTS and capacity.is_integer()
    # A ring grows slot by slot until it wraps around.
    return is_ring and ring_bytes in {DOUBLE * int(slots) for slots in (number, capacity)}
