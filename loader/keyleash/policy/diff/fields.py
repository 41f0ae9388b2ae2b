"""Fields of `token`, `audit` and `durability` that differ, and which way those go that bound."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import fields

from keyleash.policy.diff.changes import Change, Part
from keyleash.policy.model import AuditRules, Durability, TokenRules

Rules = TokenRules | AuditRules | Durability

BOUNDS = frozenset({"ttl_s", "max_ttl_s", "idle_s", "hard_max"})
"""What is refused past them is allowed up to them; without one, nothing is refused.

`hard_max` stops an identity whose events are not exported. The other fields of `audit` say what
is told of a call, `rotate_after` when it is time for a new token, and `durability` how long a
client waits once the call was made: none of them stops any.
"""


def token_changes(before: TokenRules, after: TokenRules) -> Iterator[Change]:
    """The token rules that differ."""
    return _changes(Part.TOKEN, before, after)


def audit_changes(before: AuditRules, after: AuditRules) -> Iterator[Change]:
    """The audit rules that differ."""
    return _changes(Part.AUDIT, before, after)


def durability_changes(before: Durability, after: Durability) -> Iterator[Change]:
    """The rules of durability that differ."""
    return _changes(Part.DURABILITY, before, after)


def _changes(part: Part, before: Rules, after: Rules) -> Iterator[Change]:
    for field in fields(after):
        old, new = getattr(before, field.name), getattr(after, field.name)
        # Where a rule stands in the file says nothing of what it is.
        if field.compare and old != new:
            bounds = field.name in BOUNDS
            yield Change(
                part,
                field.name,
                old,
                new,
                widens=bounds and _is_more(new, old),
                narrows=bounds and _is_more(old, new),
            )


def _is_more(one: int | None, other: int | None) -> bool:
    """Whether a bound lets more through than another; None is no bound."""
    return other is not None and (one is None or one > other)
