"""Grants that add nothing, as others allow the same."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from keyleash.commands import OperationClass
from keyleash.commands.facts import NAMED_ONLY
from keyleash.policy.lint.finding import Finding, finding
from keyleash.policy.model import Grant, Identity, Pattern, Policy, SubjectKind
from keyleash.policy.pattern_relations import covered_by, covers
from keyleash.policy.problems import quote

CODE = "covered-grant"


def covered_grant(policy: Policy) -> Iterator[Finding]:
    """Find grants that could go, as far as what is allowed, counted and recorded is concerned."""
    for identity in policy.identities:
        counted = {
            limit.subject.capture
            for limit in identity.limits
            if limit.subject.kind is SubjectKind.CAPTURE
        }
        # From the end, and each of those found is gone: of two that say the same, one stays.
        left = list(identity.grants)
        for grant in reversed(identity.grants):
            others = [one for one in left if one is not grant and _narrows_less(one, grant)]
            if grant.image_bytes is None and _is_covered(grant, others, counted):
                left = [one for one in left if one is not grant]
                yield _finding(identity, grant, others)


def _is_covered(grant: Grant, others: Sequence[Grant], counted: set[str | None]) -> bool:
    return all(
        covered_by(
            pattern,
            (
                wide
                for other in others
                if cls in other.allow
                for wide in _patterns(other, cls)
                # A limit counts by what the pattern captures, so a wide one must capture it too.
                if counted.intersection(pattern.captures) <= set(wide.captures)
            ),
        )
        for cls in grant.allow
        for pattern in _patterns(grant, cls)
    )


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


def _finding(identity: Identity, grant: Grant, others: Sequence[Grant]) -> Finding:
    alone = next((one for one in others if _covers_alone(one, grant)), None)
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
        for cls in narrow.allow
        for pattern in _patterns(narrow, cls)
    )
