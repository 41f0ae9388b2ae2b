"""Grants that add nothing, as others allow the same."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import cache
from itertools import islice

from keyleash.commands import OperationClass
from keyleash.commands.facts import NAMED_ONLY
from keyleash.policy.lint.finding import Finding, finding
from keyleash.policy.model import Grant, Identity, Pattern, Policy, SubjectKind
from keyleash.policy.pattern_relations import covers
from keyleash.policy.pattern_tree import PatternTree
from keyleash.policy.problems import quote

CODE = "covered-grant"


Place = tuple[OperationClass, Pattern]


def covered_grant(policy: Policy) -> Iterator[Finding]:
    """Find grants that could go, as far as what is allowed, counted and recorded is concerned."""
    for identity in policy.identities:
        yield from _covered(identity)


def _covered(identity: Identity) -> Iterator[Finding]:
    counted = {
        limit.subject.capture
        for limit in identity.limits
        if limit.subject.kind is SubjectKind.CAPTURE
    }
    trees: dict[OperationClass, PatternTree[int]] = {cls: PatternTree() for cls in OperationClass}
    for number, grant in enumerate(identity.grants):
        for cls, pattern in _places(grant):
            trees[cls].add(pattern, number)
    gone: set[int] = set()
    # From the end, and each of those found is gone: of two that say the same, one stays.
    for number, grant in reversed([*enumerate(identity.grants)]):

        @cache
        def is_other(other: int, number: int = number, grant: Grant = grant) -> bool:
            is_left = other != number and other not in gone
            return is_left and _narrows_less(identity.grants[other], grant)

        if not _sets_bounds(grant) and _is_covered(grant, trees, counted, is_other):
            gone.add(number)
            alone = _that_covers_alone(identity.grants, grant, trees, is_other)
            yield _finding(identity, grant, alone)


def _sets_bounds(grant: Grant) -> bool:
    """Return whether *grant* has bounds that hold on its keys whichever grant allows a call."""
    return grant.image_bytes is not None or grant.value_bytes is not None


def _is_covered(
    grant: Grant,
    trees: Mapping[OperationClass, PatternTree[int]],
    counted: set[str | None],
    is_other: Callable[[int], bool],
) -> bool:
    def covers_it(cls: OperationClass, pattern: Pattern) -> bool:
        captured = counted.intersection(pattern.captures)
        return trees[cls].covers(
            pattern,
            # A limit counts by what the pattern captures, so a wide one must capture it too.
            lambda wide: (
                is_other(wide.owner) and (not captured or captured <= set(wide.pattern.captures))
            ),
        )

    return all(covers_it(cls, pattern) for cls, pattern in _places(grant))


def _that_covers_alone(
    grants: Sequence[Grant],
    grant: Grant,
    trees: Mapping[OperationClass, PatternTree[int]],
    is_other: Callable[[int], bool],
) -> Grant | None:
    """The first of the others that allows all that *grant* does, if one does."""
    # A grant without patterns is covered by whichever other there is.
    candidates: Iterable[int] = range(len(grants))
    for cls, pattern in islice(_places(grant), 1):
        candidates = (wide.owner for wide in trees[cls].that_cover(pattern))
    return next(
        (grants[one] for one in candidates if is_other(one) and _covers_alone(grants[one], grant)),
        None,
    )


def _places(grant: Grant) -> Iterator[Place]:
    for cls in grant.allow:
        for pattern in _patterns(grant, cls):
            yield cls, pattern


def _patterns(grant: Grant, cls: OperationClass) -> tuple[Pattern, ...]:
    return grant.channels if cls is OperationClass.PUBLISH else grant.keys


def _narrows_less(wide: Grant, narrow: Grant) -> bool:
    """Whether *wide* holds for every command that *narrow* holds for."""
    if not set(wide.except_) <= set(narrow.except_):
        return False
    if wide.only is not None:
        return narrow.only is not None and set(narrow.only) <= set(wide.only)
    # Commands of modules, whose names have a dot, and some others must be named.
    return not any("." in name or name in NAMED_ONLY for name in narrow.only or ())


def _finding(identity: Identity, grant: Grant, alone: Grant | None) -> Finding:
    if alone is None:
        by = "other grants together allow all of it"
    else:
        by = f"the grant on line {alone.span.line} covers it" if alone.span else "another covers it"
    patterns = (*grant.keys, *grant.channels)
    what = f"the grant on {quote(patterns[0].source)}" if patterns else "the grant"
    return finding(
        identity, CODE, f"{what} adds nothing: {by}", grant.span, "remove it, or narrow the other"
    )


def _covers_alone(wide: Grant, narrow: Grant) -> bool:
    return all(
        cls in wide.allow and any(covers(one, pattern) for one in _patterns(wide, cls))
        for cls, pattern in _places(narrow)
    )
