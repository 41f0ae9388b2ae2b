"""Commands that are treated alike share one rule, keys that are checked alike one check."""

from __future__ import annotations

from dataclasses import replace
from typing import TypeVar

from keyleash.commands import CommandSpec, CommandTable, KeyRange, OperationClass
from keyleash.compiler.ir import Check, Guard, Matcher, Requirement, Rule, Usage
from keyleash.compiler.replies import null_length
from keyleash.policy.model import Counter

_COUNTERS = {
    OperationClass.READ: Counter.READS,
    OperationClass.WRITE: Counter.WRITES,
    OperationClass.DELETE: Counter.DELETES,
}

_T = TypeVar("_T")
Numbers = dict[tuple[Requirement, ...], int]


def form_rules(guard: Guard, _table: CommandTable) -> Guard:
    """Fill `checks`, `rules` and `assigned`; numbers follow first use, by command name."""
    checks: Numbers = {}
    rules: dict[Rule, int] = {}
    assigned = []
    for usage in guard.usages:
        rule = _rule(guard, usage, checks)
        if usage.spec.reads_if is not None and rule.missing is None:
            reading = _rule(guard, _also_reading(guard, usage), checks)
            rule = replace(rule, reading=_number(rules, reading), reads_if=usage.spec.reads_if)
        assigned.append((usage.spec.name, _number(rules, rule)))
    return replace(
        guard,
        checks=tuple(Check(number, requirements) for requirements, number in checks.items()),
        rules=tuple(replace(rule, id=number) for rule, number in rules.items()),
        assigned=tuple(assigned),
    )


def _number(numbers: dict[_T, int], value: _T) -> int:
    return numbers.setdefault(value, len(numbers) + 1)


def _also_reading(guard: Guard, usage: Usage) -> Usage:
    read = OperationClass.READ
    ranges = tuple(
        replace(keys, needs=tuple(cls for cls in OperationClass if cls in (read, *keys.needs)))
        for keys in usage.spec.ranges
    )
    given = any(read in guard.identity.grants[i].allow for i in usage.grants)
    return replace(usage, spec=replace(usage.spec, ranges=ranges), missing=None if given else read)


def _rule(guard: Guard, usage: Usage, checks: Numbers) -> Rule:
    if usage.missing is not None:
        return Rule(missing=usage.missing)
    spec = usage.spec
    first, last, step = spec.walk
    numbers = [_number(checks, _requirements(guard, usage, keys)) for keys in _first_and_rest(spec)]
    return Rule(
        first=first,
        last=last,
        step=step,
        check=numbers[0] if numbers else 0,
        rest=numbers[-1] if numbers else 0,
        counters=tuple(_COUNTERS[cls] for cls in spec.needs),
        mutates=spec.mutates,
        nulls=null_length(spec),
        refused_if=spec.refused_if,
    )


def _first_and_rest(spec: CommandSpec) -> tuple[KeyRange, ...]:
    """A walk meets its first key under the first range, all others under the last."""
    return spec.ranges[:1] + spec.ranges[1:][-1:]


def _requirements(guard: Guard, usage: Usage, keys: KeyRange) -> tuple[Requirement, ...]:
    """One requirement per distinct set of grants, so that equal sets are matched once."""
    by_grants: dict[tuple[int, ...], tuple[OperationClass, ...]] = {}
    if not keys.needs:
        by_grants[usage.grants] = ()
    for cls in keys.needs:
        givers = tuple(i for i in usage.grants if cls in guard.identity.grants[i].allow)
        by_grants[givers] = (*by_grants.get(givers, ()), cls)
    return tuple(
        _requirement(guard, needs, givers, tuple(i for i in usage.grants if i not in givers))
        for givers, needs in by_grants.items()
    )


def _requirement(
    guard: Guard,
    needs: tuple[OperationClass, ...],
    givers: tuple[int, ...],
    others: tuple[int, ...],
) -> Requirement:
    """Without other grants the refusal names the key, so the class makes no difference."""
    return Requirement(
        missing=needs[0] if others else None,
        matchers=_matchers(guard, givers),
        others=_matchers(guard, others),
    )


def _matchers(guard: Guard, grants: tuple[int, ...]) -> tuple[Matcher, ...]:
    return tuple(dict.fromkeys(matcher for i in grants for matcher in guard.matchers[i]))
