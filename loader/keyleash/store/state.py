"""The packed state of an identity: one Redis string, little-endian doubles.

    stamp · suspended · sequence · each limit's numbers, in the order of the policy · rings

`stamp` names the one guard that may use this state. It is made from the guard's
own rules, not counted, so that a guard from before a flush or a restored backup
can never pass for the active one. `suspended` is 0, or 1 until somebody resumes the
identity, or else the server time (µs) at which it may act again by itself. Below 0 it is
`-1 - suspended`: held while prefixes are changed. `sequence` is the number of the newest
event in the identity's trail.

A GCRA limit has one number (`tat_us`), a budget two (`ends_us`, `used`), a ring
one (`head`, the slot of its oldest call) and `capacity` slots at `offset`, one
timestamp (µs) each. A slot beyond the end of the string was never used.
"""

from __future__ import annotations

import json
import math
import struct
from dataclasses import asdict, dataclass
from enum import StrEnum

DOUBLE = 8
STAMP_BYTES = 6
"""48 bits: exact as a double, and short in a script."""
FIRST_NUMBER = 3
MOST = 2**53
"""From here on doubles are not exact. A time that is as late, or no number, is corrupt."""
UNTIL_RESUMED = 1
"""`suspended` of an identity that is so until somebody resumes it."""
MAX_REASON_BYTES = 128
"""Most bytes of the reason of a suspension: as much as a denial repeats."""
COUNTER_KEEP_MS = 2 * 86_400_000
"""How long a counter per token or per capture outlives its window.

A server clock that is ahead for a while expires keys by the wrong time. Two days are more than a
wrong date, or any wrong time zone, is ahead.
"""


class SlotKind(StrEnum):
    """How a limit keeps what it counted."""

    GCRA = "gcra"
    BUDGET = "budget"
    RING = "ring"


NUMBERS = {
    SlotKind.GCRA: ("tat",),
    SlotKind.BUDGET: ("ends", "used"),
    SlotKind.RING: ("head",),
}
"""The names of a kind's numbers, in packed order."""


@dataclass(frozen=True, slots=True)
class Slot:
    """Where one limit stands in a state.

    Attributes:
        name: The limit's name; a reload moves what was counted by it.
        index: Place of its first number among the doubles of the header, from 0.
        limit: What the policy allows per window.
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
    def interval_us(self) -> int:
        """GCRA's emission interval, rounded up so that the rate is never exceeded."""
        return -(-self.period_us // self.limit)

    @property
    def pace_us(self) -> int:
        """What makes one rate's numbers unlike another's: GCRA's interval, a ring's period."""
        return self.interval_us if self.kind is SlotKind.GCRA else self.period_us


@dataclass(frozen=True, slots=True)
class Layout:
    """The order of the numbers and rings in one identity's state."""

    slots: tuple[Slot, ...] = ()

    @property
    def numbers(self) -> int:
        """How many doubles the header has, the three in front of the limits' among them."""
        return FIRST_NUMBER + sum(len(NUMBERS[slot.kind]) for slot in self.slots)

    @property
    def header_bytes(self) -> int:
        """Length of the part before the rings."""
        return self.numbers * DOUBLE

    @property
    def has_rings(self) -> bool:
        """Whether anything follows the header."""
        return any(slot.kind is SlotKind.RING for slot in self.slots)

    def to_json(self) -> str:
        """The layout as stored beside the state."""
        return json.dumps([asdict(slot) for slot in self.slots], separators=(",", ":"))

    @classmethod
    def from_json(cls, text: str | bytes) -> Layout:
        """Read back what `to_json` wrote."""
        return cls(
            tuple(Slot(**{**slot, "kind": SlotKind(slot["kind"])}) for slot in json.loads(text))
        )


EMPTY_LAYOUT = Layout()


@dataclass(frozen=True, slots=True)
class LimitState:
    """
    What one limit of a state holds now; fields that its kind lacks are 0.

    Attributes:
        calls_us: Of a ring, oldest first, without slots that were never used.
        is_corrupt: Whether its numbers are none that a guard writes; it then denies the calls
            that count towards the limit.
    """

    slot: Slot
    tat_us: int = 0
    ends_us: int = 0
    used: int = 0
    calls_us: tuple[int, ...] = ()
    is_corrupt: bool = False


@dataclass(frozen=True, slots=True)
class IdentityState:
    """A state, unpacked for people."""

    stamp: int
    suspended: int
    sequence: int
    limits: tuple[LimitState, ...]

    def is_suspended(self, now_us: int) -> bool:
        """Whether every call is refused as suspended at *now_us* of the server's clock."""
        return self.suspended != 0 and not UNTIL_RESUMED < self.suspended <= now_us

    @property
    def suspended_until_ms(self) -> int | None:
        """When that ends by itself, Unix milliseconds; None if somebody has to end it."""
        return -(-self.suspended // 1000) if self.suspended > UNTIL_RESUMED else None


def unpack_state(data: bytes, layout: Layout) -> IdentityState:
    """Read a packed state.

    Raises:
        struct.error: *data* is shorter than the layout's header.
    """
    header = struct.unpack_from(f"<{layout.numbers}d", data)
    return IdentityState(
        stamp=whole(header[0]),
        suspended=_suspended(header[1]),
        sequence=whole(header[2]),
        limits=tuple(_limit_state(slot, header, data) for slot in layout.slots),
    )


def whole(number: float) -> int:
    """A number as guards count; 0 of any other, since a fenced agent may write its own state."""
    return int(number) if abs(number) < MOST else 0


def is_time(number: float) -> bool:
    """Return whether a guard takes *number* for a time; it denies the call if not."""
    return number < MOST


def whole_us(number: float) -> int:
    """A time in whole µs, rounded up, as guards compare it; `MOST` of what is none."""
    return math.ceil(max(number, 0)) if is_time(number) else MOST


def is_count(number: float) -> bool:
    """Return whether a budget may have counted *number* calls; a guard denies the call if not."""
    return 0 <= number < MOST


def ordered_calls(head: float, ring: bytes, capacity: int) -> tuple[int, ...] | None:
    """
    The calls of a ring, oldest first, without slots that were never used.

    Args:
        head: The slot of the oldest call.
        ring: The slots; those at the end may be missing if they were never used.
        capacity: How many slots there are.

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


def _suspended(number: float) -> int:
    """As a guard reads it: whatever is not 0 is a suspension, also what no operator wrote."""
    if number > 0 or math.isnan(number):
        return math.ceil(number) if number < MOST else UNTIL_RESUMED
    return math.floor(number) if number > -MOST else -1


def _limit_state(slot: Slot, header: tuple[float, ...], data: bytes) -> LimitState:
    first = header[slot.index]
    if slot.kind is SlotKind.GCRA:
        return LimitState(slot, tat_us=whole_us(first), is_corrupt=not is_time(first))
    if slot.kind is SlotKind.BUDGET:
        used = header[slot.index + 1]
        is_corrupt = not (is_time(first) and is_count(used))
        return LimitState(slot, ends_us=whole_us(first), used=whole(used), is_corrupt=is_corrupt)
    ring = data[slot.offset : slot.offset + slot.capacity * DOUBLE]
    calls_us = ordered_calls(first, ring, slot.capacity)
    return LimitState(slot, calls_us=calls_us or (), is_corrupt=calls_us is None)
