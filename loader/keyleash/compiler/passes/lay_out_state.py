"""Where each limit of the identity stands in its packed state."""

from __future__ import annotations

from dataclasses import replace

from keyleash.commands import CommandTable
from keyleash.compiler.ir import Guard
from keyleash.policy.model import PERIOD_US, Budget, Limit, Rate, SubjectKind
from keyleash.store.state import DOUBLE, FIRST_NUMBER, NUMBERS, Layout, Slot, SlotKind


def lay_out_state(guard: Guard, _table: CommandTable) -> Guard:
    """Fill `layout`: numbers in the order of the policy, rings after all numbers.

    Limits per token or per captured segment have keys of their own: they come and
    go with their subject, and a reload must not have to visit them all.
    """
    shared = [
        limit for limit in guard.identity.limits if limit.subject.kind is SubjectKind.IDENTITY
    ]
    slots = []
    index = FIRST_NUMBER
    for limit in shared:
        slots.append(slot_of(limit, index))
        index += len(NUMBERS[slots[-1].kind])
    offset = index * DOUBLE
    for place, slot in enumerate(slots):
        if slot.kind is SlotKind.RING:
            slots[place] = replace(slot, offset=offset)
            offset += slot.capacity * DOUBLE
    return replace(guard, layout=Layout(tuple(slots)))


def slot_of(limit: Limit, index: int = 0) -> Slot:
    """The slot of *limit*, its ring not yet placed."""
    match limit:
        case Budget():
            return Slot(
                limit.name,
                SlotKind.BUDGET,
                index,
                limit.limit,
                PERIOD_US[limit.period],
                calendar=f"{limit.period} {limit.timezone}",
            )
        case Rate(burst=None):
            return Slot(limit.name, SlotKind.RING, index, limit.limit, limit.period_us, limit.limit)
        case Rate():
            return Slot(limit.name, SlotKind.GCRA, index, limit.limit, limit.period_us)
