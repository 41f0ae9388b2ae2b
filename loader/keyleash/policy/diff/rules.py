"""Which grants and deny rules differ, and what part each has in what is gained and lost."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

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
                widens=gains.by_grant(after, place),
                narrows=partner is not None and losses.by_grant(before, partner),
            )
    paired = {*_partners(before.grants, after.grants).values()}
    for place, grant in enumerate(before.grants):
        if place not in paired:
            narrows = losses.by_grant(before, place)
            yield Change(Part.GRANT, before=grant, narrows=narrows)


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
