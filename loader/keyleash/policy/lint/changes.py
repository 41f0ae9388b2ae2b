"""Which limits bind what an identity may change."""

from __future__ import annotations

from collections.abc import Iterable

from keyleash.commands import OperationClass
from keyleash.policy.model import Counter, Identity, Limit, SubjectKind

COUNTERS = {OperationClass.WRITE: Counter.WRITES, OperationClass.DELETE: Counter.DELETES}
"""The counter of each class that changes keys."""


def unbound_changes(identity: Identity, limits: Iterable[Limit]) -> tuple[OperationClass, ...]:
    """The classes that change keys, are granted, and count towards none of *limits*."""
    limits = tuple(limits)
    return tuple(
        cls
        for cls in COUNTERS
        if any(cls in grant.allow for grant in identity.grants)
        and not any(_binds(limit, identity, cls) for limit in limits)
    )


def counter_of(cls: OperationClass) -> Counter:
    """What counts the calls that need *cls*, one of those about single keys."""
    return COUNTERS.get(cls, Counter.READS)


def _binds(limit: Limit, identity: Identity, cls: OperationClass) -> bool:
    """Whether every call of the identity that needs *cls* counts towards *limit*."""
    if limit.counter not in (Counter.REQUESTS, counter_of(cls)):
        return False
    if limit.subject.kind is not SubjectKind.CAPTURE:
        return True
    # A call whose key lacks the captured segment does not count.
    return all(
        limit.subject.capture in pattern.captures
        for grant in identity.grants
        if cls in grant.allow
        for pattern in grant.keys
    )
