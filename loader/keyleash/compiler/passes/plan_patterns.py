"""Plan the check of patterns of keys in calls, such as SORT … GET."""

from __future__ import annotations

from dataclasses import replace

from keyleash.commands import CommandTable, OperationClass
from keyleash.compiler.delegation import written
from keyleash.compiler.ir import Exclusion, Guard, Matcher, PatternPlan, Usage
from keyleash.compiler.passes.protect_control_keys import control_patterns
from keyleash.policy.keysets import KeySet
from keyleash.policy.model import Pattern
from keyleash.policy.patterns import beginning, ending, is_open, keys_under
from keyleash.store.keyspace import CONTROL_PREFIX


def plan_patterns(guard: Guard, _table: CommandTable) -> Guard:
    """Fill `patterns`: one plan for all commands with the same granted patterns."""
    if any(usage.spec.index for usage in guard.usages):
        protected = [keys_under(CONTROL_PREFIX.encode())] if guard.identity.filters_indexes else []
        denied = dict.fromkeys([*_denied(guard), *protected])
        with_sources = ((written(pattern), pattern.source) for pattern in denied)
        guard = replace(guard, index_excluded=tuple(with_sources))
    names: dict[tuple[Matcher, ...], list[str]] = {}
    for usage in guard.usages:
        if usage.spec.patterns and usage.missing is None:
            names.setdefault(_opens(guard, usage), []).append(usage.spec.name)
    if not names:
        return guard
    excluded = _excluded(guard)
    plans = (PatternPlan(f",{','.join(some)},", opens, excluded) for opens, some in names.items())
    return replace(guard, patterns=tuple(plans))


def _opens(guard: Guard, usage: Usage) -> tuple[Matcher, ...]:
    grants = guard.identity.grants
    return tuple(
        dict.fromkeys(
            matcher
            for i in usage.grants
            if OperationClass.READ in grants[i].allow
            for key, matcher in zip(grants[i].keys, guard.matchers[i], strict=True)
            if is_open(key)
        )
    )


def _excluded(guard: Guard) -> tuple[Exclusion, ...]:
    """Return the denied patterns that some granted pattern with an open end meets."""
    granted = KeySet(filter(is_open, guard.identity.granted_keys))
    return tuple(
        Exclusion(beginning(item), ending(item), item.source)
        for item in _denied(guard)
        if granted.overlaps(item)
    )


def _denied(guard: Guard) -> list[Pattern]:
    return [*control_patterns(guard), *guard.identity.denied_keys]
