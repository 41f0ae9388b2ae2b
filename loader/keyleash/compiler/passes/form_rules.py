"""Commands that are treated alike share one rule, keys that are checked alike one check."""

from __future__ import annotations

from dataclasses import replace
from typing import TypeVar

from keyleash.commands import CommandSpec, CommandTable, OperationClass
from keyleash.commands.spec import Needs, OptionKey
from keyleash.compiler.ir import Check, Guard, Matcher, Requirement, Rule, ScanPlan, Usage
from keyleash.compiler.passes.select_commands import usage_of
from keyleash.compiler.passes.translate_patterns import anything_under, matcher
from keyleash.compiler.replies import is_alike, mend_of, names_widths
from keyleash.policy.model import Counter, Literal
from keyleash.policy.patterns import beginning

_COUNTERS = {
    OperationClass.READ: Counter.READS,
    OperationClass.WRITE: Counter.WRITES,
    OperationClass.DELETE: Counter.DELETES,
}

_SCAN = OperationClass.SCAN

_T = TypeVar("_T")


def form_rules(guard: Guard, _table: CommandTable) -> Guard:
    """Fill `checks`, `rules` and `assigned`; numbers follow first use, by command name."""
    checks = _Checks(guard)
    rules: dict[Rule, int] = {}
    assigned = []
    for usage in guard.usages:
        rule = _rule(guard, usage, checks)
        variant = usage.spec.variant
        if variant is not None:
            instead = _rule(guard, _needing(guard, usage, variant.needs), checks)
            if instead != rule:
                number = _number(rules, instead)
                rule = replace(rule, variant=number, variant_option=variant.option)
        assigned.append((usage.spec.name, _number(rules, rule)))
    return replace(
        guard,
        checks=tuple(Check(number, needed) for needed, number in checks.numbers.items()),
        rules=tuple(replace(rule, id=number) for rule, number in rules.items()),
        assigned=tuple(assigned),
    )


class _Checks:
    """The checks of one guard by what they require; many commands share one."""

    def __init__(self, guard: Guard) -> None:
        self.numbers: dict[tuple[Requirement, ...], int] = {}
        self._guard = guard
        self._known: dict[tuple[tuple[int, ...], Needs], int] = {}

    def number(self, usage: Usage, classes: Needs) -> int:
        """The number of the check that a key of *usage* needs for *classes*."""
        known = self._known.get((usage.grants, classes))
        if known is None:
            known = _number(self.numbers, _requirements(self._guard, usage, classes))
            self._known[usage.grants, classes] = known
        return known


def _number(numbers: dict[_T, int], value: _T) -> int:
    return numbers.setdefault(value, len(numbers) + 1)


def _needing(guard: Guard, usage: Usage, needs: Needs) -> Usage:
    """The same command, but for what it needs of its keys."""
    keys = tuple(replace(search, needs=needs) for search in usage.spec.keys)
    # COMMAND's `write` flag speaks of the command as a whole.
    flags = tuple(flag for flag in usage.spec.flags if flag != "write")
    return usage_of(replace(usage.spec, keys=keys, flags=flags), usage.grants, guard.identity)


def _rule(guard: Guard, usage: Usage, checks: _Checks) -> Rule:
    if usage.missing is not None:
        return Rule(missing=usage.missing)
    spec = usage.spec
    first, last, step = spec.walk or (1, 0, 1)
    needs = [search.needs for search in spec.keys] or ([(_SCAN,)] if spec.scans else [])
    numbers = [checks.number(usage, one) for one in needs]
    stored = tuple(cls for key in spec.keys if isinstance(key, OptionKey) for cls in key.needs)
    return Rule(
        first=first,
        last=last,
        step=step,
        check=numbers[0] if numbers else 0,
        rest=numbers[-1] if numbers else 0,
        counters=_counted(spec.needs),
        # A command that stores if an option says so reads otherwise.
        mutates=spec.mutates and not stored,
        # Where no images are kept, commands that differ in this alone share a rule.
        changes_first=bool(guard.images) and _changes(needs, 0, spec),
        changes_rest=bool(guard.images) and _changes(needs, -1, spec),
        stored=_counted(stored),
        alike=is_alike(spec),
        mend=mend_of(spec),
        wide_integers=names_widths(spec),
        keys=spec.keys if spec.walk is None else (),
        refused_if=spec.refused_if,
        options_start=spec.options_start if spec.refused_if else 0,
        channel=spec.channel or 0,
        channels=_channels(guard, usage) if spec.channel else (),
        scan=_scan(guard, usage) if spec.scans else None,
        waits=spec.waits,
    )


def _changes(needs: list[Needs], place: int, spec: CommandSpec) -> bool:
    """Whether the key at *place* of *needs* changes.

    A command that writes, though none of its keys says so, may change any: XREADGROUP does.
    """
    changing = {OperationClass.WRITE, OperationClass.DELETE}
    changed = [not changing.isdisjoint(one) for one in needs]
    return bool(needs) and (changed[place] or (spec.mutates and not any(changed)))


def _counted(needs: Needs) -> tuple[Counter, ...]:
    return tuple(_COUNTERS[cls] for cls in needs if cls in _COUNTERS)


def _channels(guard: Guard, usage: Usage) -> tuple[Matcher, ...]:
    grants = [guard.identity.grants[i] for i in usage.grants]
    patterns = [channel for grant in grants for channel in grant.channels]
    return tuple(dict.fromkeys(matcher(pattern) for pattern in patterns))


def _scan(guard: Guard, usage: Usage) -> ScanPlan:
    grants = [guard.identity.grants[i] for i in usage.grants]
    patterns = [key for grant in grants if _SCAN in grant.allow for key in grant.keys]
    wholes = [one for one in patterns if len(one.parts) == 1 and isinstance(one.parts[0], Literal)]
    others = [one for one in patterns if one not in wholes]
    return ScanPlan(
        wholes=tuple(dict.fromkeys(matcher(one) for one in wholes)),
        beginnings=tuple(dict.fromkeys(anything_under(beginning(one)) for one in others)),
    )


def _requirements(guard: Guard, usage: Usage, classes: Needs) -> tuple[Requirement, ...]:
    """One requirement per distinct set of grants, so that equal sets are matched once."""
    by_grants: dict[tuple[int, ...], tuple[OperationClass, ...]] = {}
    if not classes:
        by_grants[usage.grants] = ()
    for cls in classes:
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
