"""Deletes that the trail forgets before anybody asks."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from keyleash.commands import OperationClass
from keyleash.policy.lint.changes import COUNTERS, counter_of
from keyleash.policy.lint.finding import Finding, finding
from keyleash.policy.model import PERIOD_US, Budget, Counter, Identity, Period, Policy, SubjectKind
from keyleash.policy.problems import quote
from keyleash.policy.quantities import format_duration

CODE = "short-retention"

UNBOUND_PER_DAY = 10_000
"""What is taken for a day's calls where no budget says it."""


def short_retention(policy: Policy) -> Iterator[Finding]:
    """Find identities that may delete and whose events are gone within a day, or a token's life."""
    for identity in policy.identities:
        grant = next((one for one in identity.grants if OperationClass.DELETE in one.allow), None)
        said = _too_short(identity) if grant else None
        if grant and said:
            message, help = said
            yield finding(
                identity,
                CODE,
                f"{quote(identity.name)} may delete, and {message}",
                grant.span,
                help,
            )


def _too_short(identity: Identity) -> tuple[str, str] | None:
    """What is wrong with the retention, and what to write instead."""
    rules, life_s = identity.audit, identity.token.max_ttl_s
    if rules.retain_s is not None and rules.retain_s < life_s:
        return (
            f"its events go after `{format_duration(rules.retain_s)}`, while a token may live for"
            f" `{format_duration(life_s)}`",
            f"write `audit: {{retain: {format_duration(life_s)}}}` or more",
        )
    day = _entries_per_day(identity)
    if rules.retain is not None and rules.retain < day:
        return (
            f"its trail keeps {rules.retain} entries, where a day may bring {day}",
            f"write `audit: {{retain: {day}}}` or more, or a lower budget",
        )
    return None


def _entries_per_day(identity: Identity) -> int:
    """How many entries the budgets let into the trail within one day."""
    recorded = [
        cls
        for cls in (*COUNTERS, *([OperationClass.READ] if identity.audit.reads else []))
        if any(cls in grant.allow for grant in identity.grants)
    ]
    by_class = [
        _least(one for one in identity.budgets if one.counter is counter_of(cls))
        for cls in recorded
    ]
    bounds = [
        _least(one for one in identity.budgets if one.counter is Counter.REQUESTS),
        None if None in by_class else sum(one for one in by_class if one is not None),
    ]
    calls = min((one for one in bounds if one is not None), default=UNBOUND_PER_DAY)
    # An event with before-images is followed by another, of what it left.
    return calls * (2 if _keeps_images(identity) else 1)


def _least(budgets: Iterable[Budget]) -> int | None:
    """Calls that the strictest of *budgets* allows within a day; each token's own say nothing."""
    allowed = (
        one.limit * max(1, PERIOD_US[Period.DAY] // PERIOD_US[one.period])
        for one in budgets
        if one.subject.kind is SubjectKind.IDENTITY
    )
    return min(allowed, default=None)


def _keeps_images(identity: Identity) -> bool:
    own = (grant.image_bytes for grant in identity.grants)
    return any(identity.audit.image_bytes if size is None else size for size in own)
