"""The parts that all kinds of limit share: counters, subjects, and the stored form."""

from __future__ import annotations

import struct
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from copy import copy
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, ClassVar, NamedTuple, Self, cast

from keyleash.commands import OperationClass
from keyleash.doubles import DOUBLE
from keyleash.errors import ReplyCode, Span

SECOND_US = 1_000_000
COUNTER_KEEP_MS = 2 * 86_400_000
"""The time by which a counter per token outlives its window; one per capture does not.

A server clock that is ahead for a while expires keys by the wrong time. Two days are more than a
wrong date, or any wrong time zone, is ahead.
"""


class Counter(StrEnum):
    """The unit of a limit: all calls, those that need a class on some key, or bytes of these."""

    REQUESTS = "requests"
    READS = "reads"
    WRITES = "writes"
    DELETES = "deletes"
    BYTES_READ = "bytes_read"
    BYTES_WRITTEN = "bytes_written"

    @property
    def is_bytes(self) -> bool:
        """Return whether it counts bytes: of the replies of reads, or the arguments of writes."""
        return self in (Counter.BYTES_READ, Counter.BYTES_WRITTEN)

    @property
    def calls(self) -> Counter:
        """The counter of the calls whose bytes it counts; itself if it counts calls."""
        return _CALLS.get(self, self)

    def counts(self, needs: Collection[OperationClass]) -> bool:
        """Return whether a call that needs these classes counts."""
        if self is Counter.REQUESTS:
            return True
        calls = self.calls
        return any(COUNTED.get(cls) is calls for cls in needs)

    def shown(self, amount: int) -> str:
        """Return an amount as a policy has it, such as `600` or `1gb`."""
        if not self.is_bytes:
            return str(amount)
        unit = next(unit for unit in reversed(BYTES) if amount % BYTES[unit] == 0)
        return f"{amount // BYTES[unit]}{unit}"

    def rounded(self, amount: int) -> str:
        """Return an amount for a table, such as `600` or `1.5gb`."""
        if not self.is_bytes:
            return str(amount)
        unit = next((unit for unit in BYTES if round(amount / BYTES[unit], 1) < 1024), "tb")
        return f"{round(amount / BYTES[unit], 1):g}{unit}"


_CALLS = {Counter.BYTES_READ: Counter.READS, Counter.BYTES_WRITTEN: Counter.WRITES}
BYTES = {"b": 1, "kb": 1024, "mb": 1024**2, "gb": 1024**3, "tb": 1024**4}
"""The units of amounts of bytes."""


def counter_of(name: str) -> Counter:
    """Return the counter of a limit by the limit's name, such as `budget.writes`."""
    return Counter(name.rpartition(".")[2])


COUNTED = {
    OperationClass.READ: Counter.READS,
    OperationClass.WRITE: Counter.WRITES,
    OperationClass.DELETE: Counter.DELETES,
}
"""The counter of each class, besides `Counter.REQUESTS`."""


class SubjectKind(StrEnum):
    """The kind of subject for which a limit has one counter."""

    IDENTITY = "identity"
    TOKEN = "token"
    CAPTURE = "capture"


@dataclass(frozen=True, slots=True)
class Subject:
    """`per:` of a limit; `capture` is the captured segment's name for that kind, else None."""

    kind: SubjectKind = SubjectKind.IDENTITY
    capture: str | None = None

    def __str__(self) -> str:
        return f"{{{self.capture}}}" if self.capture else str(self.kind)


IDENTITY = Subject()


@dataclass(frozen=True, slots=True)
class LimitProblem:
    """A value of a limit that is out of range.

    Attributes:
        field: The field of the limit's document that has it.
        choices: The values that are allowed, if they can be listed.
    """

    code: str
    field: str
    message: str
    help: str
    choices: Collection[str] = ()


class SlotKind(StrEnum):
    """The way in which a limit stores what it counted."""

    GCRA = "gcra"
    BUDGET = "budget"
    RING = "ring"
    CREDIT = "credit"
    """At a shard of a cluster: units that its home has leased to it."""


def emission_interval_us(limit: int, period_us: int, *, is_bytes: bool = False) -> float:
    """Return GCRA's interval: of calls rounded up, so that the rate is never exceeded."""
    return period_us / limit if is_bytes else -(-period_us // limit)


@dataclass(frozen=True, slots=True)
class Slot:
    """The place of one limit in a state.

    Attributes:
        name: The limit's name; a reload finds what was counted by it.
        index: Place of its first number among the doubles of the header, from 0.
        limit: The calls that the policy allows per window.
        period_us: The window's length; for a month, 31 days.
        capacity: Slots of the ring; 0 for other kinds.
        offset: Byte offset of the ring; 0 for other kinds.
        calendar: A budget's period and time zone; empty for other kinds.
    """

    name: str
    kind: SlotKind
    index: int
    limit: int
    period_us: int
    capacity: int = 0
    offset: int = 0
    calendar: str = ""

    @property
    def period_ms(self) -> int:
        """The window's length in milliseconds, rounded up."""
        return -(-self.period_us // 1000)

    @property
    def interval_us(self) -> float:
        """GCRA's emission interval: whole µs for a call; for a byte it may be less than one."""
        is_bytes = counter_of(self.name).is_bytes
        return emission_interval_us(self.limit, self.period_us, is_bytes=is_bytes)

    @property
    def pace_us(self) -> float:
        """The value that decides how a rate's number is read: GCRA's interval, a ring's period."""
        return self.interval_us if self.kind is SlotKind.GCRA else self.period_us

    @property
    def record_form(self) -> tuple[int, float]:
        """The values in the record of a token or segment that decide how its number is read."""
        return self.capacity, self.pace_us


@dataclass(frozen=True, slots=True)
class LimitState:
    """
    The numbers of one limit in a state; fields that its kind lacks are 0.

    Attributes:
        calls_us: The calls of a ring, oldest first, without slots that were never used.
        is_corrupt: Whether no guard writes such numbers; the guard then denies the calls that
            count towards the limit.
    """

    slot: Slot
    tat_us: int = 0
    ends_us: int = 0
    used: int = 0
    calls_us: tuple[int, ...] = ()
    is_corrupt: bool = False


class MigrationStep(NamedTuple):
    """One step that a reload applies to a packed state: its letter and its numbers.

    `operator/load/migration.py` lists the letters.
    """

    letter: str
    values: tuple[float, ...]


def keep_numbers(old: Slot, count: int) -> MigrationStep:
    """Return the step that keeps *count* numbers of a limit."""
    first = old.index * DOUBLE + 1
    return MigrationStep("=", (first, first + count * DOUBLE - 1))


_RECORD = struct.Struct("<ddd")


class BaseLimit(ABC):
    """
    A number of calls per period.

    Attributes:
        FIELD: The field of an identity that has limits of this class.
        PERIODS: The values of `period` or `period_us`, by their names in a policy.
        OPTIONS: The other fields in a policy, with the function that reads their text.
    """

    __slots__ = ()

    FIELD: ClassVar[str]
    PERIODS: ClassVar[Mapping[str, Any]]
    OPTIONS: ClassVar[Mapping[str, Callable[[str], Any]]]

    counter: Counter
    limit: int
    subject: Subject

    @classmethod
    def read(
        cls,
        counter: Counter,
        limit: int,
        period: str,
        options: Mapping[str, str],
        subject: Subject,
        span: Span | None,
    ) -> Self:
        """Return a limit of a policy's document; its values may be out of range."""
        values = {name: cls.OPTIONS[name](text) for name, text in options.items()}
        make: Any = cls
        return cast(
            Self, make(counter, limit, cls.PERIODS[period], subject=subject, span=span, **values)
        )

    @abstractmethod
    def problems(self) -> Iterator[LimitProblem]:
        """Yield the values that are out of range."""

    @property
    def name(self) -> str:
        """The limit's name in denials, states and reloads."""
        return f"{self.FIELD}.{self.counter}"

    @property
    @abstractmethod
    def at_once(self) -> int:
        """The most calls that it allows at one moment."""

    @abstractmethod
    def describe(self) -> str:
        """Return the limit in words, such as `600 a minute, 60 at once`."""

    @abstractmethod
    def slot(self, index: int = 0) -> Slot:
        """Return its place in a state; the offset of a ring is not set."""

    @abstractmethod
    def new_count(self) -> BaseCount:
        """Return a counter of it that has counted nothing."""

    def count_of(self, state: LimitState) -> BaseCount:
        """Return the count that a state holds."""
        count = self.new_count()
        if state.is_corrupt:
            count.corrupt()
        else:
            count.restore(state)
        return count

    @abstractmethod
    def denial(self, free_us: int, now_us: int) -> tuple[ReplyCode, str, int]:
        """Return the code of a denial until *free_us*, and the name and value of its time, ms."""

    def read_record(self, record: bytes, now_us: int) -> BaseCount:
        """
        Return the count in the record of a token or captured segment.

        The record itself has the form in which it was counted; if a reload has changed that since,
        `BaseCount.migrated` converts the count, as a guard does when it next sees the subject. A
        record that no guard writes is a corrupt count.
        """
        count = None
        if len(record) >= _RECORD.size:
            header = _RECORD.unpack_from(record)
            count = self._read_record(*header, ring=record[_RECORD.size :], now_us=now_us)
        if count is None:
            count = self.new_count()
            count.corrupt()
        # The record exists, so it has not expired.
        count.expires_ms = now_us // 1000
        return count

    @abstractmethod
    def _read_record(
        self, number: float, second: float, pace_us: float, *, ring: bytes, now_us: int
    ) -> BaseCount | None:
        """Return the count in a record, or None if no guard writes such a record."""


class BaseCount(ABC):
    """
    The count of a limit for one subject, in the reference evaluator.

    Attributes:
        numbers: The names of the kind's numbers, in packed order.
        expires_ms: When the record of a token or of a captured segment expires.
    """

    numbers: ClassVar[tuple[str, ...]]
    expires_ms = 0

    def __init__(self, limit: Any) -> None:
        self.limit = limit

    def migrated(self, limit: Any, now_us: int) -> BaseCount:
        """Return the count after a reload that replaced the limit by one of the same name.

        A limit that counts in another way starts as if it were used up.
        """
        old, slot = self.limit.slot(), limit.slot()
        # The record of a token or a segment does not have its calendar.
        is_record = limit.subject.kind is not SubjectKind.IDENTITY
        if old.record_form == slot.record_form and (is_record or old.calendar == slot.calendar):
            same = copy(self)
            same.limit = limit
            return same
        new: BaseCount = limit.new_count()
        new.expires_ms = self.expires_ms
        if type(new) is type(self):
            new.carry(self, now_us)
        else:
            new.exhaust(now_us)
        return new

    def exhaust(self, now_us: int) -> None:
        """Count the most calls that the limit allows at *now_us*."""
        if self.limit.counter.is_bytes:
            self.take(now_us, self.limit.at_once)
            return
        for _ in range(self.limit.at_once):
            self.take(now_us)

    def _extend_life(self, now_us: int, until_us: int) -> None:
        kept_ms = 0 if self.limit.subject.kind is SubjectKind.CAPTURE else COUNTER_KEEP_MS
        self.expires_ms = now_us // 1000 - (now_us - until_us) // 1000 + kept_ms

    @property
    @abstractmethod
    def is_corrupt(self) -> bool:
        """Return whether it holds numbers that no guard writes, so that no call is allowed."""

    @abstractmethod
    def free_us(self, now_us: int, amount: int = 1) -> int:
        """Return when the next call is allowed; not after *now_us* if it is allowed now.

        Args:
            amount: The bytes that it counts, for a counter of bytes.
        """

    @abstractmethod
    def left(self, now_us: int) -> int:
        """Return the number of calls that are allowed now, if the clock never goes back."""

    @abstractmethod
    def resets_us(self, now_us: int) -> int | None:
        """Return when all of it is free again; None if it is, or if only a reset frees it."""

    @abstractmethod
    def take(self, now_us: int, amount: int = 1) -> None:
        """Count one call, or *amount* bytes."""

    @abstractmethod
    def carry(self, old: Any, now_us: int) -> None:
        """Continue with the numbers of another limit of the same kind."""

    @abstractmethod
    def restore(self, state: LimitState) -> None:
        """Continue with the numbers of a state."""

    @abstractmethod
    def corrupt(self) -> None:
        """Hold numbers that no guard writes."""

    @classmethod
    @abstractmethod
    def migration(cls, old: Slot, new: Slot, start: float) -> tuple[MigrationStep, ...]:
        """Return the steps by which a limit keeps what it counted with other values.

        Args:
            old: The place in the old layout, of the same kind.
            new: The place in the new layout.
            start: When a budget's open window ends, Unix µs.
        """

    @classmethod
    @abstractmethod
    def unpack(cls, slot: Slot, header: Sequence[float], data: bytes) -> LimitState:
        """Read the numbers of a limit from the header and the bytes of a packed state."""

    @staticmethod
    @abstractmethod
    def used(state: LimitState, now_us: int) -> tuple[int, int | None]:
        """Return the calls that count at *now_us*, and when the window ends, Unix µs."""


def a_period(period: str, limit: Any) -> str:
    """Return a limit in words, such as `600 a minute`."""
    return f"{limit} an {period}" if period == "hour" else f"{limit} a {period}"
