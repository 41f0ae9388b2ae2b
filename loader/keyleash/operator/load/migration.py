"""The migration of a state to another layout, which `moved_state.lua` carries out.

Packed, little-endian: the new guard's stamp, the lengths of the new header and the old, and
steps. Each step is a letter and its numbers. Bytes count from 1; an index is a slot's.

    =  first, last                          these bytes as they are
    0  length                               zero bytes: a limit that is new
    b  index, end_us                        a budget's count, until another calendar's end
    p  index, interval_us, new interval_us  the calls that a GCRA owes, at another interval
    f  ahead_us                             a GCRA whose burst is used up now

    n  capacity                             a ring that is new
    k  offset, capacity                     a ring as it is
    m  index, offset, capacity, new capacity
                                            the newest calls of a ring
    u  capacity                             a ring that is used up now

The first five make numbers, the others rings; each kind in the order of the new layout.
"Now" is the moment of the migration: of a state that is staged, and not called between, that
is the staging.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from keyleash.compiler.ir import LimitPlan
from keyleash.doubles import DOUBLE
from keyleash.limits import COUNTS, Slot, SlotKind
from keyleash.limits.calendar import end_of_runs_us
from keyleash.limits.counters import MigrationStep
from keyleash.store.state import FIRST_NUMBER, Layout

_FORMATS = {
    "=": "HH", "0": "H", "b": "Hd", "p": "Hdd", "f": "d",
    "n": "I", "k": "II", "m": "HIII", "u": "I",
}  # fmt: skip
_NUMBER_STEPS = frozenset("=0bpf")


@dataclass(frozen=True, slots=True)
class Migration:
    """The change of one identity's state.

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


def migration_of(
    old: Layout, new: Layout, stamp: int, plans: Iterable[LimitPlan], now_us: int
) -> Migration:
    """Return the steps by which a state of *old* becomes one of *new*."""
    steps = _steps(old, new, {plan.slot.name: plan for plan in plans}, now_us)
    return Migration(
        packed=struct.pack("<dHH", stamp, new.header_bytes, old.header_bytes)
        + b"".join(
            step.letter.encode() + struct.pack(f"<{_FORMATS[step.letter]}", *step.values)
            for step in steps
        ),
        rings=b"".join(
            struct.pack("<HII", slot.index, slot.offset, slot.capacity)
            for slot in old.slots
            if slot.kind is SlotKind.RING
        ),
        in_place=new.header_bytes == old.header_bytes
        and steps
        == [
            MigrationStep("=", (DOUBLE + 1, old.header_bytes)),
            *(
                MigrationStep("k", (slot.offset, slot.capacity))
                for slot in new.slots
                if slot.kind is SlotKind.RING
            ),
        ],
    )


def _steps(
    old: Layout, new: Layout, plans: Mapping[str, LimitPlan], now_us: int
) -> list[MigrationStep]:
    by_name = {slot.name: slot for slot in old.slots}
    # Suspended or not, and the sequence.
    steps = [MigrationStep("=", (DOUBLE + 1, FIRST_NUMBER * DOUBLE))]
    rings: list[MigrationStep] = []
    for slot in new.slots:
        for step in _slot_steps(by_name.get(slot.name), slot, plans[slot.name], now_us):
            last = steps[-1]
            if step.letter not in _NUMBER_STEPS:
                rings.append(step)
            elif step.letter == last.letter == "=" and step.values[0] == last.values[1] + 1:
                steps[-1] = MigrationStep("=", (last.values[0], step.values[1]))
            else:
                steps.append(step)
    return steps + rings


def _slot_steps(
    old: Slot | None, new: Slot, plan: LimitPlan, now_us: int
) -> Iterator[MigrationStep]:
    """Yield the steps for the numbers of one limit, and for its ring if it has one."""
    if old is not None and old.kind is new.kind:
        end_us = end_of_runs_us(plan.runs, now_us) if plan.runs else 0
        yield from COUNTS[new.kind].migration(old, new, end_us)
    elif old is not None and new.kind is SlotKind.GCRA:
        yield MigrationStep("f", (plan.full_us,))
    else:
        yield MigrationStep("0", (len(COUNTS[new.kind].numbers) * DOUBLE,))
        if new.kind is SlotKind.RING:
            yield MigrationStep("n" if old is None else "u", (new.capacity,))
