"""Compare the limits and settings of an identity in two policies."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from keyleash.limits import Budget, Limit, Rate, SubjectKind
from keyleash.limits.rate import RATE_PERIODS_US
from keyleash.policy.diff.changes import Part, PolicyChange
from keyleash.policy.diff.permissions import Captured
from keyleash.policy.model import Breaker, Identity
from keyleash.policy.settings import settings_of


def limit_changes(before: Identity, after: Identity) -> Iterator[PolicyChange]:
    """Yield the limits that differ, or whose subject is captured from other keys."""
    olds = {limit.name: limit for limit in before.limits}
    news = {limit.name: limit for limit in after.limits}
    for name, new in news.items():
        old = olds.get(name)
        if old is None:
            yield PolicyChange(_part(new), new.counter, None, new, narrows=True)
            continue
        widens = _allows_more(new, old, after, before)
        narrows = _allows_more(old, new, before, after)
        if old != new or widens or narrows:
            yield PolicyChange(_part(new), new.counter, old, new, widens=widens, narrows=narrows)
    for name, old in olds.items():
        if name not in news:
            yield PolicyChange(_part(old), old.counter, old, None, widens=True)


def _part(limit: Limit) -> Part:
    return Part.RATE if isinstance(limit, Rate) else Part.BUDGET


def _allows_more(limit: Limit, other: Limit, identity: Identity, other_identity: Identity) -> bool:
    """Return whether *limit* allows a sequence of calls that *other* denies."""
    match limit, other:
        case (Rate(), Rate()) | (Budget(), Budget()) if limit.allows_more_than(other):  # type: ignore[arg-type]
            return True
    if limit.subject != other.subject:
        # Several counters allow more than one, and a captured subject may miss calls.
        return limit.subject.kind is not SubjectKind.IDENTITY
    name = limit.subject.capture
    if name is None:
        return False
    return Captured.of(identity, name).misses(Captured.of(other_identity, name))


def breaker_changes(before: Breaker | None, after: Breaker | None) -> Iterator[PolicyChange]:
    """Yield the change of `on_denials`, which denies calls while the identity is suspended."""
    if before != after:
        yield PolicyChange(
            Part.ON_DENIALS,
            "",
            before,
            after,
            widens=not _stops_as_much(after, before),
            narrows=not _stops_as_much(before, after),
        )


def _stops_as_much(item: Breaker | None, other: Breaker | None) -> bool:
    """Return whether *item* suspends whenever *other* does, and for as long."""
    if other is None:
        return True
    return (
        item is not None
        and item.threshold <= other.threshold
        and RATE_PERIODS_US[item.period] >= RATE_PERIODS_US[other.period]
        and item.suspend_s >= other.suspend_s
    )


def setting_changes(part: Part, before: Any, after: Any) -> Iterator[PolicyChange]:
    """Yield the declared settings that differ between two values of a section."""
    for field, setting in settings_of(after).items():
        old, new = getattr(before, field), getattr(after, field)
        if old != new:
            yield PolicyChange(
                part,
                field,
                old,
                new,
                widens=setting.widens and _is_more(new, old),
                narrows=(setting.widens or setting.narrows) and _is_more(old, new),
                setting=setting,
            )


def _is_more(item: int | None, other: int | None) -> bool:
    """Return whether a bound allows more than another; None is no bound."""
    return other is not None and (item is None or item > other)
