"""Plan each limit, in the order in which the guard checks them."""

from __future__ import annotations

from dataclasses import replace

from keyleash.commands import CommandTable
from keyleash.compiler.ir import Guard, LimitPlan
from keyleash.compiler.passes.translate_patterns import lua_pattern
from keyleash.limits import Budget, Limit, Rate, SubjectKind
from keyleash.limits.calendar import window_runs


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
    slot = placed.get(limit.name) or limit.slot()
    at_once = limit.at_once if limit.counter.is_bytes else 0
    plan = LimitPlan(number, limit.counter, slot, at_once=at_once)
    match limit:
        case Budget():
            plan = replace(
                plan, runs=window_runs(limit.period, limit.timezone, guard.calendar_year)
            )
        case Rate():
            plan = replace(plan, tolerance_us=limit.tolerance_us)
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
    names = guard.keyspace
    if limit.subject.kind is SubjectKind.CAPTURE:
        # On a cluster, the segment is the hash tag.
        names = replace(names, tag="")
    return replace(
        plan,
        subject=limit.subject.kind,
        key_prefix=names.limit_prefix(guard.identity.name, limit.name),
        captures=captures,
    )
