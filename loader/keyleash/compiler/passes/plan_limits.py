"""What the guard does for each limit, in the order in which it checks them."""

from __future__ import annotations

from dataclasses import replace

from keyleash.commands import CommandTable
from keyleash.compiler.calendar import window_runs
from keyleash.compiler.ir import Guard, LimitPlan
from keyleash.compiler.passes.lay_out_state import slot_of
from keyleash.compiler.passes.translate_patterns import lua_pattern
from keyleash.policy.model import Budget, Limit, Rate, SubjectKind


def plan_limits(guard: Guard, _table: CommandTable) -> Guard:
    """Fill `limits`."""
    return replace(
        guard,
        limits=tuple(
            _plan(guard, number, limit) for number, limit in enumerate(guard.identity.limits, 1)
        ),
    )


def _plan(guard: Guard, number: int, limit: Limit) -> LimitPlan:
    placed = {slot.name: slot for slot in guard.layout.slots}
    slot = placed.get(limit.name) or slot_of(limit)
    plan = LimitPlan(number, limit.counter, slot)
    match limit:
        case Budget():
            plan = replace(
                plan, runs=window_runs(limit.period, limit.timezone, guard.calendar_year)
            )
        case Rate(burst=int(burst)):
            plan = replace(plan, tolerance_us=(burst - 1) * slot.interval_us)
    return _with_subject(guard, plan, limit)


def _with_subject(guard: Guard, plan: LimitPlan, limit: Limit) -> LimitPlan:
    if limit.subject.kind is SubjectKind.IDENTITY:
        return plan
    captures = tuple(
        dict.fromkeys(
            lua_pattern(pattern, limit.subject.capture)
            for grant in guard.identity.grants
            for pattern in grant.keys
            if limit.subject.capture in pattern.captures
        )
    )
    return replace(
        plan,
        subject=limit.subject.kind,
        key_prefix=guard.keyspace.limit_prefix(guard.identity.name, limit.name),
        captures=captures,
    )
