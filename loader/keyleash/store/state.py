"""The packed state of an identity: one Redis string, little-endian doubles.

    stamp · suspended · sequence · each limit's numbers, in the order of the policy · rings

`stamp` names the one guard that may use this state. It is derived from the guard's rules, not
counted, so that a guard from before a flush or a restored backup never matches. `suspended` is 0,
or 1 until an operator resumes the identity, or the server time (µs) at which the suspension
ends. `sequence` is the number of the newest event in the identity's audit stream.

A GCRA limit has one number (`tat_us`), a budget two (`ends_us`, `used`), a ring
one (`head`, the slot of its oldest call) and `capacity` slots at `offset`, one
timestamp (µs) each. A slot beyond the end of the string was never used.
"""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace

from keyleash.doubles import DOUBLE, MOST, whole
from keyleash.errors import ArgumentError
from keyleash.limits import COUNTS, Limit, LimitState, Slot, SlotKind, SubjectKind
from keyleash.store.token import reject_tokens

STAMP_BYTES = 6
"""48 bits: exact as a double, and short in a script."""
FIRST_NUMBER = 3
UNTIL_RESUMED = 1
"""The value of `suspended` for a suspension without an end."""
MAX_REASON_BYTES = 128
"""Maximum length of a suspension's reason, which denials repeat."""


def check_reason(name: str, reason: str) -> None:
    """Check a reason that is stored and shown.

    Raises:
        SecretInTextError: It contains a token.
        ArgumentError: It is blank or too long.
    """
    reject_tokens(**{name: reason})
    if not reason.strip():
        raise ArgumentError(f"`{name}` must not be blank")
    if len(reason.encode()) > MAX_REASON_BYTES:
        raise ArgumentError(f"`{name}` must have at most {MAX_REASON_BYTES} bytes")


@dataclass(frozen=True, slots=True)
class Layout:
    """The order of the numbers and rings in one identity's state."""

    slots: tuple[Slot, ...] = ()

    @property
    def numbers(self) -> int:
        """Number of doubles in the header, with the three before those of limits."""
        return FIRST_NUMBER + sum(len(COUNTS[slot.kind].numbers) for slot in self.slots)

    @property
    def header_bytes(self) -> int:
        """Length of the part before the rings."""
        return self.numbers * DOUBLE

    @property
    def has_rings(self) -> bool:
        """Return whether rings follow the header."""
        return any(slot.kind is SlotKind.RING for slot in self.slots)

    def to_json(self) -> str:
        """Return the layout as stored in `Keyspace.layouts`."""
        return json.dumps([asdict(slot) for slot in self.slots], separators=(",", ":"))

    @classmethod
    def from_json(cls, text: str | bytes) -> Layout:
        """Read a layout that `to_json` wrote."""
        return cls(
            tuple(Slot(**{**slot, "kind": SlotKind(slot["kind"])}) for slot in json.loads(text))
        )


EMPTY_LAYOUT = Layout()


def layout_of(limits: Iterable[Limit]) -> Layout:
    """Return the layout of the state: numbers in the order of the policy, rings after all numbers.

    Limits per token or per captured segment have keys of their own: they come and
    go with their subject, and a reload must not have to visit them all.
    """
    slots = []
    index = FIRST_NUMBER
    for limit in limits:
        if limit.subject.kind is SubjectKind.IDENTITY:
            slots.append(limit.slot(index))
            index += len(COUNTS[slots[-1].kind].numbers)
    offset = index * DOUBLE
    for place, slot in enumerate(slots):
        if slot.kind is SlotKind.RING:
            slots[place] = replace(slot, offset=offset)
            offset += slot.capacity * DOUBLE
    return Layout(tuple(slots))


def token_layout(limits: Iterable[Limit]) -> Layout:
    """Return the limits per token, of which a cluster leases units to each token at each shard."""
    return Layout(
        tuple(limit.slot() for limit in limits if limit.subject.kind is SubjectKind.TOKEN)
    )


def is_in_effect(suspended: int, now_us: int) -> bool:
    """Return whether the number of a suspension denies calls at *now_us*, server time."""
    return suspended != 0 and not UNTIL_RESUMED < suspended <= now_us


@dataclass(frozen=True, slots=True)
class IdentityState:
    """An unpacked state."""

    stamp: int
    suspended: int
    sequence: int
    limits: tuple[LimitState, ...]

    def is_suspended(self, now_us: int) -> bool:
        """Return whether the identity is suspended at *now_us*, server time."""
        return is_in_effect(self.suspended, now_us)

    @property
    def suspended_until_ms(self) -> int | None:
        """The end of the suspension in Unix milliseconds; None if an operator must end it."""
        return -(-self.suspended // 1000) if self.suspended > UNTIL_RESUMED else None


def unpack_state(data: bytes, layout: Layout) -> IdentityState:
    """Read a packed state.

    Raises:
        struct.error: *data* is shorter than the layout's header.
    """
    header = struct.unpack_from(f"<{layout.numbers}d", data)
    return IdentityState(
        stamp=whole(header[0]),
        suspended=read_suspended(header[1]),
        sequence=whole(header[2]),
        limits=tuple(COUNTS[slot.kind].unpack(slot, header, data) for slot in layout.slots),
    )


def read_suspended(number: float) -> int:
    """Return the number as a guard reads it: any value but 0, also a corrupt one, suspends."""
    if number > 0 or math.isnan(number):
        return math.ceil(number) if number < MOST else UNTIL_RESUMED
    return math.floor(number) if number > -MOST else -1
