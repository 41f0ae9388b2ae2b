"""Compare two policies, identity by identity."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from keyleash.commands import CommandTable
from keyleash.policy.canonical import canonical
from keyleash.policy.diff.changes import IdentityDiff, Part, PolicyChange
from keyleash.policy.diff.diff_text import describe_identities
from keyleash.policy.diff.limit_changes import breaker_changes, limit_changes, setting_changes
from keyleash.policy.diff.permissions import Access, Gains, gains_of
from keyleash.policy.model import Grant, Identity, Pattern, Policy, ValueRules
from keyleash.policy.patterns import keys_under
from keyleash.results import Result

_MATCHES: tuple[Callable[[Grant], object], ...] = (
    lambda grant: grant,
    lambda grant: tuple(map(frozenset, (grant.keys, grant.channels, grant.indexes))),
    lambda grant: (grant.allow, frozenset(grant.only or ()), frozenset(grant.except_)),
)
"""Properties by which grants of two policies are paired, the surest first."""


@dataclass(frozen=True, slots=True)
class PolicyDiff(Result):
    """
    The difference of two policies.

    Attributes:
        before, after: The policies; `before` may have no identities.
        identities: Changed identities in the new policy's order, then the removed ones.
        unchanged: Names of the other identities.
    """

    before: Policy
    after: Policy
    identities: tuple[IdentityDiff, ...]
    unchanged: tuple[str, ...]

    @property
    def widens(self) -> bool:
        """True if any call of any identity becomes allowed."""
        return any(identity.widens for identity in self.identities)

    def describe(self, *, full: bool = False) -> str:
        """
        Return the changes as text.

        Args:
            full: Whether to show every change of every identity. Otherwise identities with the same
                changes are shown together, and many different changes are summarized.
        """
        return "\n".join(describe_identities(self.identities, full)).lstrip("\n")

    def to_dict(self) -> dict[str, Any]:
        """Return the difference as JSON values."""
        return {
            "widens": self.widens,
            "identities": [identity.to_dict() for identity in self.identities],
            "unchanged": list(self.unchanged),
        }


def grant_changes(
    before: Access, after: Access, gains: Gains, losses: Gains
) -> Iterator[PolicyChange]:
    """Yield the grants that differ: those of *after* in its order, then the removed ones."""
    partners = _partners(before.grants, after.grants)
    # A grant approves its scripts for the identity, so a script may move to another one.
    old_scripts, new_scripts = _scripts(before.grants), _scripts(after.grants)
    for place, grant in enumerate(after.grants):
        partner = partners.get(place)
        old = None if partner is None else before.grants[partner]
        if old != grant:
            yield PolicyChange(
                Part.GRANT,
                before=old,
                after=grant,
                widens=gains.by_grant(after, place) or _allows_more(grant, old, old_scripts),
                narrows=partner is not None
                and (losses.by_grant(before, partner) or _allows_more(old, grant, new_scripts)),
            )
    for place, grant in enumerate(before.grants):
        if place not in partners.values():
            # Its rules for values are removed as well, and other grants may match the same keys.
            widens = grant.values != ValueRules() and bool(after.grants)
            narrows = losses.by_grant(before, place)
            yield PolicyChange(Part.GRANT, before=grant, widens=widens, narrows=narrows)


def deny_changes(
    before: Access, after: Access, gains: Gains, losses: Gains
) -> Iterator[PolicyChange]:
    """Yield the denied patterns that differ, whatever rules they are in."""
    old_parts = {pattern.parts for pattern in before.denied}
    new_parts = {pattern.parts for pattern in after.denied}
    for pattern in after.denied:
        if pattern.parts not in old_parts:
            yield PolicyChange(Part.DENY, after=pattern, narrows=losses.by_lifting(pattern))
    for pattern in before.denied:
        if pattern.parts not in new_parts:
            yield PolicyChange(Part.DENY, before=pattern, widens=gains.by_lifting(pattern))


def _scripts(grants: Iterable[Grant]) -> set[str]:
    return {script.digest for grant in grants for script in grant.scripts}


def _allows_more(item: Grant | None, other: Grant | None, approved: set[str]) -> bool:
    """Return whether a grant allows other values than another, or scripts that are not approved.

    A script needs the grants of its commands, but limits count it once.
    """
    if item is None:
        return False
    has_values = other is not None and item.values.allows_more_than(other.values)
    return has_values or not _scripts([item]) <= approved


def _partners(befores: Sequence[Grant], afters: Sequence[Grant]) -> dict[int, int]:
    """Return the index of the earlier version of each grant of *afters*, by its index."""
    partners: dict[int, int] = {}
    free = dict(enumerate(befores))
    for matched_by in _MATCHES:
        for place, grant in enumerate(afters):
            if place in partners:
                continue
            partner = next(
                (at for at, item in free.items() if matched_by(item) == matched_by(grant)), None
            )
            if partner is not None:
                partners[place] = partner
                del free[partner]
    return partners


def diff_policies(
    before: Policy,
    after: Policy,
    table: CommandTable,
    protected: Iterable[str] = (),
    added: Collection[str] = (),
) -> PolicyDiff:
    """
    Compare access, limits and rules of each identity.

    Args:
        before: The active policy; `Policy(())` if there is none.
        table: The commands of the server.
        protected: Prefixes of keyleash's own keys.
        added: The commands of *table* that the guards of *before* lack.
    """
    hidden = tuple(keys_under(prefix.encode()) for prefix in dict.fromkeys(protected))
    olds = {identity.name: identity for identity in before.identities}
    news = {identity.name: identity for identity in after.identities}
    pairs: list[tuple[Identity | None, Identity | None]] = [
        (olds.get(name), new) for name, new in news.items()
    ]
    pairs += ((old, None) for name, old in olds.items() if name not in news)
    earlier, later = (
        replace(table, commands={spec.name: spec for spec in table if (spec.name in added) is new})
        if added
        else table
        for new in (False, True)
    )
    diffs = [
        diff_identities(*pair, earlier, hidden, later if added else None)
        for pair in pairs
        if added or not _mean_the_same(*pair)
    ]
    changed = tuple(diff for diff in diffs if diff.changes)
    names = {diff.name for diff in changed}
    return PolicyDiff(
        before=before,
        after=after,
        identities=changed,
        unchanged=tuple(name for name in news if name not in names),
    )


def diff_identities(
    before: Identity | None,
    after: Identity | None,
    table: CommandTable,
    protected: tuple[Pattern, ...] = (),
    added: CommandTable | None = None,
) -> IdentityDiff:
    """Compare one identity; None where it does not exist. Its guard lacked the commands *added*."""
    old, new = Access.of(before, protected), Access.of(after, protected)
    gains, losses = gains_of(new, old, table), gains_of(old, new, table)
    changes: tuple[PolicyChange, ...] = ()
    if added and (more := gains_of(new, Access.of(None, protected), added)).calls:
        gains += more
        modules = sorted({f"{name.partition('.')[0]}.*" for x in more.calls for name in x.commands})
        changes = (PolicyChange(Part.COMMANDS, after=", ".join(modules), widens=True),)
    if not _mean_the_same(before, after):
        changes += (
            *grant_changes(old, new, gains, losses),
            *deny_changes(old, new, gains, losses),
            *_other_changes(before, after),
        )
        changes = changes or (PolicyChange(Part.ORDER, "", before, after),)
    return IdentityDiff(
        name=next(item.name for item in (after, before) if item is not None),
        before=before,
        after=after,
        changes=changes,
        gains=gains.calls,
        losses=losses.calls,
    )


def _mean_the_same(before: Identity | None, after: Identity | None) -> bool:
    return (
        before is not None
        and after is not None
        and (before == after or canonical(before) == canonical(after))
    )


def _other_changes(before: Identity | None, after: Identity | None) -> Iterator[PolicyChange]:
    """Yield the changes of rules other than grants and deny rules."""
    match before, after:
        case Identity(), Identity():
            yield from _changes(before, after)
        case None, Identity():
            yield PolicyChange(Part.KIND, after=after.kind)
            yield from map(_unmarked, _changes(_bare(after), after))
        case Identity(), None:
            yield PolicyChange(Part.KIND, before=before.kind)
            yield from map(_unmarked, _changes(before, _bare(before)))


def _changes(before: Identity, after: Identity) -> Iterator[PolicyChange]:
    if before.kind != after.kind:
        yield PolicyChange(Part.KIND, "", before.kind, after.kind)
    yield from limit_changes(before, after)
    delegates = before.delegate.depth and after.delegate.depth
    for part in (Part.TOKEN, Part.DELEGATE, Part.AUDIT, Part.DURABILITY, Part.CLUSTER):
        changes = setting_changes(part, getattr(before, part), getattr(after, part))
        if part is Part.DELEGATE and not delegates:
            # The other fields have no effect on one side; `depth` says that it is switched.
            changes = (item if item.name == "depth" else _unmarked(item) for item in changes)
            if not before.delegate.depth:
                changes = (
                    replace(x, before=x.before if x.name == "depth" else None) for x in changes
                )
        yield from changes
    yield from breaker_changes(before.on_denials, after.on_denials)
    if before.idempotency != after.idempotency:
        # It changes what happens to a repeated call, not which calls are allowed.
        yield PolicyChange(Part.IDEMPOTENCY, "", before.idempotency, after.idempotency)
    yield from setting_changes(Part.LIMITS, before, after)


def _bare(identity: Identity) -> Identity:
    """Return an identity without rules."""
    return Identity(identity.name, identity.kind, ())


def _unmarked(change: PolicyChange) -> PolicyChange:
    # Limits of an identity without access have no effect.
    return replace(change, widens=False, narrows=False)
