"""Turn the guard of a home into that of its shards."""

from __future__ import annotations

from dataclasses import replace

from keyleash.compiler.ir import Guard
from keyleash.limits import SlotKind


def place_on_shards(guard: Guard) -> Guard:
    """Replace the counters of limits, but those per segment, by units that the home leases."""
    limits = tuple(
        replace(plan, slot=replace(plan.slot, kind=SlotKind.CREDIT)) if plan.is_leased else plan
        for plan in guard.limits
    )
    return replace(guard, limits=limits)
