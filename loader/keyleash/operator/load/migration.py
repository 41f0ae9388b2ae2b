"""How a state of one layout becomes one of another: what `moved_state.lua` carries out.

Packed, little-endian: the new guard's stamp, the lengths of the new header and the old, and
steps. Each step is a letter and its numbers. Bytes count from 1; an index is a slot's.

    =  first, last                        these bytes as they are
    0  length                               zero bytes: a limit that is new
    b  index, end_us                        a budget's count, until another calendar's end
    p  index, interval_us, new interval_us  what a GCRA owes, at another pace
    o  index, offset, capacity, interval_us
                                            a ring's calls, as a GCRA owes them

    n  capacity                             a ring that is new
    k  offset, capacity                     a ring as it is
    m  index, offset, capacity, new capacity
                                            the newest calls of a ring
    s  index, interval_us, period_us, capacity
                                            what a GCRA may have let through, as a ring

The first five make numbers, the others rings; each kind in the order of the new layout.
A GCRA's numbers are converted as of the moment at which they are: of a state that is staged,
and not called between, that is the staging.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import NamedTuple

from keyleash.limits import COUNTS, Slot, SlotKind
from keyleash.limits.counters import DOUBLE
from keyleash.store.state import FIRST_NUMBER, Layout

_FORMATS = {
    "=": "HH", "0": "H", "b": "Hd", "p": "Hdd", "o": "HIId",
    "n": "I", "k": "II", "m": "HIII", "s": "HddI",
}  # fmt: skip
_NUMBER_STEPS = frozenset("=0bpo")


class MigrationStep(NamedTuple):
    """One step: its letter and its numbers."""

    letter: str
    values: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Moves:
    """
    How one identity's state changes.

    Attributes:
        packed: For `moved_state.lua`.
        rings: The old layout's rings, for `newest_calls.lua`: index, offset, capacity of each.
        in_place: Whether nothing changes but the stamp.
    """

    packed: bytes
    rings: bytes
    in_place: bool

    @property
    def stamp(self) -> bytes:
        """The new guard's stamp, as a state begins."""
        return self.packed[:DOUBLE]


def moves_of(old: Layout, new: Layout, stamp: int, ends_us: Mapping[str, int]) -> Moves:
    """
    Say how a state of *old* becomes one of *new*.

    Args:
        old: The state's layout.
        new: The new guard's layout.
        stamp: The new guard's.
        ends_us: When the open window of each of its budgets ends, by limit name.
    """
    steps = _steps(old, new, ends_us)
    kept_rings = [slot for slot in new.slots if slot.kind is SlotKind.RING]
    return Moves(
        packed=struct.pack("<dHH", stamp, new.header_bytes, old.header_bytes)
        + b"".join(_packed(step) for step in steps),
        rings=b"".join(
            struct.pack("<HII", slot.index, slot.offset, slot.capacity)
            for slot in old.slots
            if slot.kind is SlotKind.RING
        ),
        in_place=new.header_bytes == old.header_bytes
        and steps
        == [
            MigrationStep("=", (DOUBLE + 1, old.header_bytes)),
            *(MigrationStep("k", (slot.offset, slot.capacity)) for slot in kept_rings),
        ],
    )


def _steps(old: Layout, new: Layout, ends_us: Mapping[str, int]) -> list[MigrationStep]:
    by_name = {slot.name: slot for slot in old.slots}
    steps = [
        MigrationStep("=", (DOUBLE + 1, FIRST_NUMBER * DOUBLE))
    ]  # suspended or not, and the sequence
    rings: list[MigrationStep] = []
    for slot in new.slots:
        for step in _slot_steps(by_name.get(slot.name), slot, ends_us.get(slot.name, 0)):
            last = steps[-1]
            if step.letter not in _NUMBER_STEPS:
                rings.append(step)
            elif step.letter == last.letter == "=" and step.values[0] == last.values[1] + 1:
                steps[-1] = MigrationStep("=", (last.values[0], step.values[1]))
            else:
                steps.append(step)
    return steps + rings


def _slot_steps(old: Slot | None, new: Slot, end_us: int) -> Iterator[MigrationStep]:
    """The steps for the numbers of one limit, and for its ring if it has one."""
    length = len(COUNTS[new.kind].numbers) * DOUBLE
    fresh = MigrationStep("0", (length,))
    if old is None:
        yield fresh
        if new.kind is SlotKind.RING:
            yield MigrationStep("n", (new.capacity,))
        return
    first = old.index * DOUBLE + 1
    kept = MigrationStep("=", (first, first + length - 1))
    ring = (old.index, old.offset, old.capacity)
    match old.kind, new.kind:
        case SlotKind.BUDGET, _:
            yield kept if old.calendar == new.calendar else MigrationStep("b", (old.index, end_us))
        case SlotKind.GCRA, SlotKind.GCRA:
            pace = (old.index, old.interval_us, new.interval_us)
            yield kept if old.interval_us == new.interval_us else MigrationStep("p", pace)
        case SlotKind.RING, SlotKind.GCRA:
            yield MigrationStep("o", (*ring, new.interval_us))
        case SlotKind.GCRA, _:
            yield fresh
            period_us = min(old.period_us, new.period_us)
            yield MigrationStep("s", (old.index, old.interval_us, period_us, new.capacity))
        case _ if old.capacity == new.capacity:
            yield kept
            yield MigrationStep("k", (old.offset, old.capacity))
        case _:
            yield fresh
            yield MigrationStep("m", (*ring, new.capacity))


def _packed(step: MigrationStep) -> bytes:
    return step.letter.encode() + struct.pack(f"<{_FORMATS[step.letter]}", *step.values)
