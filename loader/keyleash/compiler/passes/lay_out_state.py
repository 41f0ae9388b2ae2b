"""Lay out the limits of an identity in its packed state."""

from __future__ import annotations

from dataclasses import replace

from keyleash.commands import CommandTable
from keyleash.compiler.ir import Guard
from keyleash.doubles import DOUBLE
from keyleash.limits import COUNTS, SlotKind, SubjectKind
from keyleash.store.state import FIRST_NUMBER, Layout


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
        slots.append(limit.slot(index))
        index += len(COUNTS[slots[-1].kind].numbers)
    offset = index * DOUBLE
    for place, slot in enumerate(slots):
        if slot.kind is SlotKind.RING:
            slots[place] = replace(slot, offset=offset)
            offset += slot.capacity * DOUBLE
    return replace(guard, layout=Layout(tuple(slots)))
