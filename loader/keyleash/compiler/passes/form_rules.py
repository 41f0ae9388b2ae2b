"""Form the rules of commands and the checks of keys; equal ones are shared."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any, NamedTuple, TypeVar

from keyleash.commands import CommandSpec, CommandTable, OperationClass
from keyleash.commands.facts import INDEX_OPTIONS
from keyleash.commands.spec import (
    CHANGING,
    DATA_CLASSES,
    ELEMENTS,
    Bound,
    Lengthening,
    Needs,
    OptionKey,
    Subscribes,
)
from keyleash.compiler.ir import (
    Check,
    FilteredIndex,
    Governing,
    Guard,
    IndexPlan,
    Matcher,
    Requirement,
    Rule,
    ScanPlan,
    Usage,
)
from keyleash.compiler.passes.order_dispatch import OFTEN_USED
from keyleash.compiler.passes.select_commands import KEPT, usage_of
from keyleash.compiler.passes.translate_patterns import anything_under, captured, matcher
from keyleash.limits import Counter
from keyleash.limits.counters import COUNTED
from keyleash.policy.model import Grant, Literal, Pattern, capture_in
from keyleash.policy.patterns import beginning, is_open

_SCAN = OperationClass.SCAN
_WITH_WIDTHS = frozenset({"BITFIELD", "BITFIELD_RO"})
"""Commands whose arguments give the width of integers in the reply, such as `u63`."""

_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class _Grant:
    """A grant, as far as rules depend on it.

    Attributes:
        open_channels: As in `Rule`.
        wholes, beginnings: As in `ScanPlan`.
        opens: The keys that end with `*`, if some grant has indexes.
    """

    allow: tuple[OperationClass, ...]
    keys: tuple[Matcher, ...]
    channels: tuple[Matcher, ...]
    open_channels: tuple[Matcher, ...]
    wholes: tuple[Matcher, ...]
    beginnings: tuple[Matcher, ...]
    indexes: tuple[Matcher, ...]
    filtered: tuple[FilteredIndex, ...]
    opens: tuple[Matcher, ...]


class _Kind(NamedTuple):
    """Features of a guard that change its rules: before-images and value rules."""

    images: bool
    values: Governing


class _Formed(NamedTuple):
    checks: tuple[Check, ...]
    rules: tuple[Rule, ...]
    assigned: tuple[tuple[str, int], ...]


def form_rules(guard: Guard, _table: CommandTable) -> Guard:
    """Fill `checks`, `rules` and `assigned`; numbers follow first use, by command name."""
    placeholders = _Placeholders()
    grants = tuple(
        _grant(grant, matchers, placeholders, bound=guard.identity.token.bound)
        for grant, matchers in zip(guard.identity.grants, guard.matchers, strict=True)
    )
    formed = _formed(
        guard.usages, grants, _Kind(bool(guard.images), Governing.of(guard.value_plans))
    )
    return replace(
        guard,
        checks=tuple(map(placeholders.real_check, formed.checks)),
        rules=tuple(map(placeholders.real_rule, formed.rules)),
        assigned=formed.assigned,
    )


def _grant(
    grant: Grant, matchers: tuple[Matcher, ...], placeholders: _Placeholders, *, bound: bool
) -> _Grant:
    scanned = grant.keys if _SCAN in grant.allow else ()
    wholes = [
        item for item in scanned if len(item.parts) == 1 and isinstance(item.parts[0], Literal)
    ]
    prefixed = [item for item in scanned if item not in wholes]
    return _Grant(
        allow=grant.allow,
        keys=placeholders.of(matchers),
        channels=placeholders.of(matcher(item, bound=bound) for item in grant.channels),
        open_channels=placeholders.of(
            matcher(item, bound=bound) for item in grant.channels if is_open(item)
        ),
        wholes=placeholders.of(map(matcher, wholes)),
        beginnings=placeholders.of(
            replace(
                anything_under(beginning(item)),
                captured=captured(item) if bound and item.captures else None,
            )
            for item in prefixed
        ),
        indexes=placeholders.of(
            matcher(item, bound=bound) for item in grant.indexes if not item.where
        ),
        filtered=tuple(
            FilteredIndex(placeholders.of([matcher(item, bound=bound)])[0], tuple(_where(item)))
            for item in grant.indexes
            if item.where
        ),
        opens=placeholders.of(
            item for key, item in zip(grant.keys, matchers, strict=True) if is_open(key)
        ),
    )


# Identities mostly differ in their names and keys alone.
@lru_cache(KEPT)
def _formed(usages: tuple[Usage, ...], grants: tuple[_Grant, ...], kind: _Kind) -> _Formed:
    checks = _Checks(grants)
    rules: dict[Rule, int] = {}
    assigned = []
    for usage in usages:
        rule = _rule(grants, usage, checks, kind)
        variant = usage.spec.variant
        if variant is not None:
            needing = _needing(grants, usage, variant.needs)
            instead = _rule(grants, needing, checks, kind)
            if instead != rule:
                number = _number(rules, instead)
                rule = replace(rule, variant=number, variant_option=variant.option)
        assigned.append((usage.spec.name, _number(rules, rule)))
    return _Formed(
        checks=tuple(Check(number, needed) for needed, number in checks.numbers.items()),
        rules=tuple(replace(rule, id=number) for rule, number in rules.items()),
        assigned=tuple(assigned),
    )


class _Checks:
    """The checks of one guard by what they require; many commands share one."""

    def __init__(self, grants: Sequence[_Grant]) -> None:
        self.numbers: dict[tuple[Requirement, ...], int] = {}
        self._grants = grants
        self._known: dict[tuple[tuple[int, ...], Needs], int] = {}

    def number(self, usage: Usage, classes: Needs) -> int:
        """Return the number of the check that a key of *usage* needs for *classes*."""
        rule_number = self._known.get((usage.grants, classes))
        if rule_number is None:
            rule_number = _number(self.numbers, _requirements(self._grants, usage, classes))
            self._known[usage.grants, classes] = rule_number
        return rule_number


def _number(numbers: dict[_T, int], value: _T) -> int:
    return numbers.setdefault(value, len(numbers) + 1)


def _needing(grants: Sequence[_Grant], usage: Usage, needs: Needs) -> Usage:
    """Return the same command with other needs of its keys."""
    keys = tuple(replace(search, needs=needs) for search in usage.spec.keys)
    # COMMAND's `write` flag speaks of the command as a whole.
    flags = tuple(flag for flag in usage.spec.flags if flag != "write")
    spec = replace(usage.spec, keys=keys, flags=flags)
    return usage_of(spec, usage.grants, [grant.allow for grant in grants])


def _rule(grants: Sequence[_Grant], usage: Usage, checks: _Checks, kind: _Kind) -> Rule:
    if usage.missing is not None:
        return Rule(missing=usage.missing)
    spec = usage.spec
    first, last, step = spec.walk or (1, 0, 1)
    needs = [search.needs for search in spec.keys] or ([(_SCAN,)] if spec.scans else [])
    numbers = [checks.number(usage, need) for need in needs]
    stored = tuple(cls for key in spec.keys if isinstance(key, OptionKey) for cls in key.needs)
    effective = [grants[i] for i in usage.grants]
    speaking = [item for item in effective if spec.channel_class in item.allow]
    return Rule(
        first=first,
        last=last,
        step=step,
        check=numbers[0] if numbers else 0,
        rest=numbers[-1] if numbers else 0,
        counters=_counted(spec.needs),
        # A command that stores if an option says so reads otherwise.
        mutates=spec.mutates and not stored,
        # Without before-images, commands that differ in this alone share a rule.
        changes_first=kind.images and _changes(needs, 0, spec),
        changes_rest=kind.images and _changes(needs, -1, spec),
        stored=_counted(stored),
        wide_integers=spec.name in _WITH_WIDTHS,
        keys=spec.keys if spec.walk is None else (),
        refused_if=spec.refused_if,
        options_start=spec.options_start if spec.refused_if else 0,
        channel=spec.channel or 0,
        counts=spec.counts,
        channels=_distinct(item.channels for item in speaking),
        subscribes=spec.subscribes,
        open_channels=_distinct(item.open_channels for item in speaking)
        if spec.subscribes is Subscribes.PATTERN
        else (),
        scan=_scan(effective) if spec.scans else None,
        index=_index(grants, usage) if spec.index else None,
        waits=spec.waits,
        governs=kind.values.governs(spec),
        **_sizing(spec),
    )


def _sizing(spec: CommandSpec) -> dict[str, Any]:
    """Return the fields of a rule about the sizes that are checked before a call runs.

    Rarely used commands are always checked, so that they share rules; often used ones only if
    their arguments do not show that they are small.
    """
    is_often = spec.name in OFTEN_USED
    weigh, place, over = "" if spec.work is None else "always", 0, 0
    if spec.work is not None and spec.work.bound is Bound.REPEATS:
        weigh, over = "words", spec.work.default
    elif spec.work is not None and spec.work.bound is Bound.PATHS and not spec.work.strings:
        weigh, over = "content" if spec.work.weight else "paths", spec.work.default
    elif spec.work is not None and is_often:
        match spec.work.bound:
            case Bound.COUNT:
                weigh, place = "count", spec.work.place
            case Bound.RANGE if spec.name == "LRANGE":
                weigh, place = "range", spec.work.place
            case Bound.RANGE if spec.name == "ZRANGE":
                weigh, place = "ranked", spec.work.place
            case Bound.WORDS | Bound.KEY_COUNT:
                weigh, over = "words", spec.work.default
    lengthens, length_at = "" if spec.lengthens is None else "always", 0
    if spec.lengthens is not None and spec.lengthens.how in ELEMENTS:
        lengthens = ""  # the bytes of the call decide
    elif spec.lengthens is not None and (is_often or spec.lengthens.how is Lengthening.NAMES):
        lengthens, length_at = spec.lengthens.how.name.lower(), spec.lengthens.place
    return {
        "weigh": weigh,
        "weigh_at": place,
        "weigh_over": over,
        "lengthens": lengthens,
        "length_at": length_at,
    }


def _changes(needs: list[Needs], place: int, spec: CommandSpec) -> bool:
    """Return whether the key at *place* of *needs* changes.

    A command that writes though no key needs it, such as XREADGROUP, may change any.
    """
    changed = [not CHANGING.isdisjoint(need) for need in needs]
    return bool(needs) and (changed[place] or (spec.mutates and not any(changed)))


def _counted(needs: Needs) -> tuple[Counter, ...]:
    return tuple(COUNTED[cls] for cls in needs if cls in COUNTED)


def _scan(effective: Sequence[_Grant]) -> ScanPlan:
    return ScanPlan(
        wholes=_distinct(item.wholes for item in effective),
        beginnings=_distinct(item.beginnings for item in effective),
    )


def _index(grants: Sequence[_Grant], usage: Usage) -> IndexPlan:
    name, cls = usage.spec.name, usage.spec.index
    assert cls is not None  # noqa: S101 - the caller asked
    giving = [grants[i] for i in usage.grants if cls in grants[i].allow]
    needs = dict.fromkeys((OperationClass.READ, cls))
    return IndexPlan(
        command=name,
        class_=cls,
        options=INDEX_OPTIONS.get(name, ""),
        names=_distinct(item.indexes for item in giving),
        opens=tuple(
            _distinct(grants[i].opens for i in usage.admitting if need in grants[i].allow)
            for need in needs
        ),
        filtered=tuple(
            filtered for item in giving for filtered in item.filtered if cls is OperationClass.READ
        ),
    )


def _where(pattern: Pattern) -> Iterator[tuple[str, str, str]]:
    for field, value in pattern.where:
        name = capture_in(value)
        yield field, value, f":{name}=([^:]*):" if name else ""


def _distinct(several: Iterable[Iterable[Matcher]]) -> tuple[Matcher, ...]:
    return tuple(dict.fromkeys(item for some in several for item in some))


def _requirements(
    grants: Sequence[_Grant], usage: Usage, classes: Needs
) -> tuple[Requirement, ...]:
    """One requirement per distinct set of grants, so that equal sets are matched once."""
    by_grants: dict[tuple[int, ...], tuple[OperationClass, ...]] = {}
    if not classes:
        by_grants[usage.grants] = ()
    for cls in classes:
        givers = tuple(i for i in usage.grants if cls in grants[i].allow)
        by_grants[givers] = (*by_grants.get(givers, ()), cls)
    # Where a key has `scan` alone, no other command helps: the denial names the key.
    data = [i for i, grant in enumerate(grants) if not DATA_CLASSES.isdisjoint(grant.allow)]

    def keys_of(numbers: Iterable[int]) -> tuple[Matcher, ...]:
        return tuple(dict.fromkeys(item for i in numbers for item in grants[i].keys))

    left_out = keys_of(i for i in data if i not in usage.grants)
    requirements = []
    for givers, needs in by_grants.items():
        others = keys_of(i for i in data if i in usage.grants and i not in givers)
        missing = needs[0] if needs and (others or left_out) else None
        requirements.append(Requirement(missing, keys_of(givers), others, left_out))
    return tuple(requirements)


class _Placeholders:
    """Numbered placeholders for the matchers of one guard, so that rules compare equal."""

    def __init__(self) -> None:
        self._of: dict[Matcher, Matcher] = {}
        self._real: dict[Matcher, Matcher] = {}

    def of(self, matchers: Iterable[Matcher]) -> tuple[Matcher, ...]:
        """Return placeholders for *matchers*."""
        return tuple(map(self._placeholder, matchers))

    def _placeholder(self, real: Matcher) -> Matcher:
        placeholder = self._of.setdefault(real, Matcher(text=b"%d" % len(self._of)))
        self._real.setdefault(placeholder, real)
        return placeholder

    def real(self, placeholders: Iterable[Matcher]) -> tuple[Matcher, ...]:
        """Return the matchers of *placeholders*."""
        return tuple(self._real[item] for item in placeholders)

    def real_check(self, check: Check) -> Check:
        """Return the check with real matchers."""
        requirements = (
            Requirement(item.missing, *map(self.real, (item.matchers, item.others, item.left_out)))
            for item in check.requirements
        )
        return replace(check, requirements=tuple(requirements))

    def real_rule(self, rule: Rule) -> Rule:
        """Return the rule with real channels and globs; most rules have none and are shared."""
        if not rule.channels and rule.scan is None and rule.index is None:
            return rule
        index = rule.index and replace(
            rule.index,
            names=self.real(rule.index.names),
            opens=tuple(map(self.real, rule.index.opens)),
            filtered=tuple(
                FilteredIndex(self.real([item.name])[0], item.where) for item in rule.index.filtered
            ),
        )
        scan = rule.scan and ScanPlan(self.real(rule.scan.wholes), self.real(rule.scan.beginnings))
        return replace(
            rule,
            channels=self.real(rule.channels),
            open_channels=self.real(rule.open_channels),
            scan=scan,
            index=index,
        )
