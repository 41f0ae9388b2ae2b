"""Turn the guard of a home into that of its shards."""

from __future__ import annotations

from dataclasses import replace

from keyleash.compiler.ir import Guard, LimitPlan
from keyleash.limits import SlotKind


def place_on_shards(guard: Guard) -> Guard:
    """Replace the counters of limits, but those per segment, by units that the home leases."""
    limits = tuple(leased(plan) if plan.is_leased else plan for plan in guard.limits)
    return replace(guard, limits=limits)


def leased(plan: LimitPlan) -> LimitPlan:
    """Return the plan of a limit of which a shard has units."""
    return replace(plan, slot=replace(plan.slot, kind=SlotKind.CREDIT))
