"""Bound the values of keys by the grants that match them."""

from __future__ import annotations

from dataclasses import replace

from keyleash.commands import CommandTable
from keyleash.compiler.ir import ByteBound, Guard, Matcher, ValuePlan
from keyleash.policy.model import KeyState, ValueRules


def bound_values(guard: Guard, _table: CommandTable) -> Guard:
    """Fill `value_bounds` and `value_plans`.

    The smallest of the former come first: the first one that matches a key counts.
    """
    bounds = [
        ByteBound(matchers, grant.values.max_bytes)
        for matchers, grant in zip(guard.matchers, guard.identity.grants, strict=True)
        if grant.values.max_bytes is not None
    ]
    plans = (
        _plan(matchers, grant.values)
        for matchers, grant in zip(guard.matchers, guard.identity.grants, strict=True)
        if grant.values != ValueRules()
    )
    return replace(
        guard,
        value_bounds=tuple(sorted(bounds, key=lambda bound: bound.max_bytes)),
        value_plans=tuple(plans),
    )


def _plan(matchers: tuple[Matcher, ...], rules: ValueRules) -> ValuePlan:
    ttl = rules.ttl
    return ValuePlan(
        matchers,
        rules.max_bytes,
        rules.max_elements,
        default_ms=ttl.forced_s * 1000 if ttl else None,
        max_ms=ttl.max_s * 1000 if ttl and ttl.max_s else None,
        is_absent=rules.only is KeyState.ABSENT,
    )
