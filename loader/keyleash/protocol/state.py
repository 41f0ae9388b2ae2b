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
import struct
from dataclasses import asdict, dataclass
from enum import StrEnum

DOUBLE = 8
STAMP_BYTES = 6
"""48 bits: exact as a double, and short in a script."""
FIRST_NUMBER = 3
MOST = 2**53
"""From here on doubles are not exact."""
UNTIL_RESUMED = 1
"""`suspended` of an identity that is so until somebody resumes it."""


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
    """What one limit of a state holds now; fields that its kind lacks are 0."""

    slot: Slot
    tat_us: int = 0
    ends_us: int = 0
    used: int = 0
    calls_us: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class State:
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


def unpack_state(data: bytes, layout: Layout) -> State:
    """Read a packed state.

    Raises:
        struct.error: *data* is shorter than the layout's header.
    """
    header = struct.unpack_from(f"<{layout.numbers}d", data)
    return State(
        stamp=whole(header[0]),
        # Whatever a guard takes for a suspension is one, also what no operator wrote.
        suspended=whole(header[1]) or int(header[1] != 0),
        sequence=whole(header[2]),
        limits=tuple(_limit_state(slot, header, data) for slot in layout.slots),
    )


def whole(number: float) -> int:
    """A number as guards count; 0 of any other, since a fenced agent may write its own state."""
    return int(number) if abs(number) < MOST else 0


def _limit_state(slot: Slot, header: tuple[float, ...], data: bytes) -> LimitState:
    first = whole(header[slot.index])
    if slot.kind is SlotKind.GCRA:
        return LimitState(slot, tat_us=first)
    if slot.kind is SlotKind.BUDGET:
        return LimitState(slot, ends_us=first, used=whole(header[slot.index + 1]))
    ring = data[slot.offset : slot.offset + slot.capacity * DOUBLE]
    calls = struct.unpack(f"<{len(ring) // DOUBLE}d", ring)
    return LimitState(slot, calls_us=tuple(sorted(whole(at) for at in calls if at)))
