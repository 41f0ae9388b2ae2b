"""The findings of lint rules."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from keyleash.commands import OperationClass
from keyleash.errors import Problem, Span
from keyleash.limits import Counter, Limit, SubjectKind
from keyleash.policy.model import Identity
from keyleash.policy.patterns import NOWHERE


@dataclass(frozen=True, slots=True)
class LintFinding:
    """Something in a valid policy that is probably not what was meant, and whose it is."""

    identity: str
    problem: Problem


def finding_about(
    identity: Identity, code: str, message: str, span: Span | None, help: str
) -> LintFinding:
    """What *code* finds in *identity*: at *span*, or at its name if that is None."""
    return LintFinding(
        identity.name, Problem(code, message, span or identity.span or NOWHERE, help)
    )


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
