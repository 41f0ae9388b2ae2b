"""Which grants and deny rules differ, and what part each has in what is gained and lost."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from keyleash.commands.work import DEFAULT_VALUE_BYTES
from keyleash.policy.diff.access import Access
from keyleash.policy.diff.changes import Change, Part
from keyleash.policy.diff.gains import Gains
from keyleash.policy.model import Grant

Likeness = Callable[[Grant], object]

_LIKENESSES: tuple[Likeness, ...] = (
    lambda grant: (frozenset(grant.keys), frozenset(grant.channels)),
    lambda grant: (grant.allow, frozenset(grant.only or ()), frozenset(grant.except_)),
)
"""By what two unequal grants are seen as one that was changed, the surest first."""


def grant_changes(before: Access, after: Access, gains: Gains, losses: Gains) -> Iterator[Change]:
    """The grants that differ: those of *after* in its order, then those that are gone."""
    partners = _partners(before.grants, after.grants)
    for place, grant in enumerate(after.grants):
        partner = partners.pop(place, None)
        old = None if partner is None else before.grants[partner]
        if old != grant:
            yield Change(
                Part.GRANT,
                before=old,
                after=grant,
                widens=gains.by_grant(after, place) or _allows_longer(grant, old),
                narrows=partner is not None
                and (losses.by_grant(before, partner) or _allows_longer(old, grant)),
            )
    paired = {*_partners(before.grants, after.grants).values()}
    for place, grant in enumerate(before.grants):
        if place not in paired:
            # Its bound on values goes with it, and other grants may match the same keys.
            widens = grant.value_bytes is not None and bool(after.grants)
            narrows = losses.by_grant(before, place)
            yield Change(Part.GRANT, before=grant, widens=widens, narrows=narrows)


def deny_changes(before: Access, after: Access, gains: Gains, losses: Gains) -> Iterator[Change]:
    """The denied patterns that differ; how they are put together in rules makes no difference."""
    shapes_before = {pattern.parts for pattern in before.denied}
    shapes_after = {pattern.parts for pattern in after.denied}
    for pattern in after.denied:
        if pattern.parts not in shapes_before:
            yield Change(Part.DENY, after=pattern, narrows=losses.by_lifting(pattern))
    for pattern in before.denied:
        if pattern.parts not in shapes_after:
            yield Change(Part.DENY, before=pattern, widens=gains.by_lifting(pattern))


def _allows_longer(one: Grant | None, other: Grant | None) -> bool:
    """Return whether one grant lets a call make longer strings than another does."""
    return one is not None and other is not None and _value_bytes(one) > _value_bytes(other)


def _value_bytes(grant: Grant) -> int:
    return DEFAULT_VALUE_BYTES if grant.value_bytes is None else grant.value_bytes


def _partners(befores: Sequence[Grant], afters: Sequence[Grant]) -> dict[int, int]:
    """For grants of *afters*, by place, the place of what each was before."""
    found: dict[int, int] = {}
    free = dict(enumerate(befores))
    for alike in (lambda grant: grant, *_LIKENESSES):
        for place, grant in enumerate(afters):
            if place in found:
                continue
            partner = next((at for at, one in free.items() if alike(one) == alike(grant)), None)
            if partner is not None:
                found[place] = partner
                del free[partner]
    return found
