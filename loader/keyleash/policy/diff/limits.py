"""Which limits differ, and which way: each is compared with the one of its name alone."""

from __future__ import annotations

from collections.abc import Iterator

from keyleash.policy.diff.budgets import spends_more
from keyleash.policy.diff.captures import Captured
from keyleash.policy.diff.changes import Change, Part
from keyleash.policy.diff.rates import lets_more
from keyleash.policy.model import Budget, Identity, Limit, Rate, SubjectKind

_PER_IDENTITY = SubjectKind.IDENTITY
_PER_CAPTURE = SubjectKind.CAPTURE


def limit_changes(before: Identity, after: Identity) -> Iterator[Change]:
    """The limits that differ, or whose subject is captured of other keys."""
    olds = {limit.name: limit for limit in before.limits}
    news = {limit.name: limit for limit in after.limits}
    for name, new in news.items():
        old = olds.get(name)
        if old is None:
            yield Change(_part(new), new.counter, None, new, narrows=True)
            continue
        widens = _allows_more(new, old, after, before)
        narrows = _allows_more(old, new, before, after)
        if old != new or widens or narrows:
            yield Change(_part(new), new.counter, old, new, widens=widens, narrows=narrows)
    for name, old in olds.items():
        if name not in news:
            yield Change(_part(old), old.counter, old, None, widens=True)


def _part(limit: Limit) -> Part:
    return Part.RATE if isinstance(limit, Rate) else Part.BUDGET


def _allows_more(one: Limit, other: Limit, with_one: Identity, with_other: Identity) -> bool:
    """Whether *one* lets some sequence of calls through that *other* stops."""
    return (
        _counts_more_by_kind(one, other)
        or _shares_less(one, other)
        or (one.subject == other.subject and _captures_less(one, with_one, with_other))
    )


def _counts_more_by_kind(one: Limit, other: Limit) -> bool:
    if isinstance(one, Rate) and isinstance(other, Rate):
        return lets_more(one, other)
    return isinstance(one, Budget) and isinstance(other, Budget) and spends_more(one, other)


def _shares_less(one: Limit, other: Limit) -> bool:
    """Whether *one* has several counters where *other* has one, or counts less often."""
    return one.subject != other.subject and one.subject.kind is not _PER_IDENTITY


def _captures_less(limit: Limit, one: Identity, other: Identity) -> bool:
    """Whether the identity *one* has calls that do not count, or for another, and *other* not."""
    if limit.subject.kind is not _PER_CAPTURE or limit.subject.capture is None:
        return False
    name = limit.subject.capture
    return Captured.of(one, name).misses(Captured.of(other, name))
