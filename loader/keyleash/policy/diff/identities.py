"""From two policies to how each identity changes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace

from keyleash.commands import CommandTable
from keyleash.policy.canonical import canonical
from keyleash.policy.diff.access import Access
from keyleash.policy.diff.breakers import breaker_changes
from keyleash.policy.diff.changes import Change, IdentityDiff, Part, PolicyDiff
from keyleash.policy.diff.fields import audit_changes, durability_changes, token_changes
from keyleash.policy.diff.gains import gains_of
from keyleash.policy.diff.limits import limit_changes
from keyleash.policy.diff.rules import deny_changes, grant_changes
from keyleash.policy.model import AnySuffix, Identity, Literal, Pattern, Policy


def diff_policies(
    before: Policy, after: Policy, table: CommandTable, protected: Iterable[str] = ()
) -> PolicyDiff:
    """
    Say how the access, the limits and the rules of each identity change.

    Args:
        before: The policy that is active; `Policy(())` if none is.
        after: The one that is to be.
        table: The commands of the server, by which both are read.
        protected: What the names of keyleash's own keys begin with.
    """
    hidden = tuple(
        Pattern(f"{prefix}*", (Literal(prefix.encode()), AnySuffix()))
        for prefix in dict.fromkeys(protected)
    )
    olds = {one.name: one for one in before.identities}
    news = {one.name: one for one in after.identities}
    pairs: list[tuple[Identity | None, Identity | None]] = [
        (olds.get(name), new) for name, new in news.items()
    ]
    pairs += ((old, None) for name, old in olds.items() if name not in news)
    differing = [pair for pair in pairs if not _mean_the_same(*pair)]
    return PolicyDiff(
        before=before,
        after=after,
        identities=tuple(diff_identities(*pair, table, hidden) for pair in differing),
        unchanged=tuple(
            new.name for old, new in pairs if new is not None and _mean_the_same(old, new)
        ),
    )


def diff_identities(
    before: Identity | None,
    after: Identity | None,
    table: CommandTable,
    protected: tuple[Pattern, ...] = (),
) -> IdentityDiff:
    """Say how one identity changes; None where a policy has none of that name."""
    old, new = Access.of(before, protected), Access.of(after, protected)
    gains, losses = gains_of(new, old, table), gains_of(old, new, table)
    changes = (
        *grant_changes(old, new, gains, losses),
        *deny_changes(old, new, gains, losses),
        *_other_changes(before, after),
    )
    return IdentityDiff(
        name=next(one.name for one in (after, before) if one is not None),
        before=before,
        after=after,
        changes=changes or (Change(Part.ORDER, "", before, after),),
        gains=gains.calls,
        losses=losses.calls,
    )


def _mean_the_same(before: Identity | None, after: Identity | None) -> bool:
    return (
        before is not None
        and after is not None
        and (before == after or canonical(before) == canonical(after))
    )


def _other_changes(before: Identity | None, after: Identity | None) -> Iterator[Change]:
    """The rules that are not about access to keys."""
    match before, after:
        case Identity(), Identity():
            yield from _changes(before, after)
        case None, Identity():
            yield Change(Part.KIND, after=after.kind)
            yield from map(_unmarked, _changes(_bare(after), after))
        case Identity(), None:
            yield Change(Part.KIND, before=before.kind)
            yield from map(_unmarked, _changes(before, _bare(before)))


def _changes(before: Identity, after: Identity) -> Iterator[Change]:
    if before.kind != after.kind:
        yield Change(Part.KIND, "", before.kind, after.kind)
    yield from limit_changes(before, after)
    yield from token_changes(before.token, after.token)
    yield from audit_changes(before.audit, after.audit)
    yield from durability_changes(before.durability, after.durability)
    yield from breaker_changes(before.on_denials, after.on_denials)
    if before.work != after.work:
        more = after.work > before.work
        yield Change(Part.LIMITS, "work", before.work, after.work, widens=more, narrows=not more)


def _bare(identity: Identity) -> Identity:
    """An identity with no rules of its own."""
    return Identity(identity.name, identity.kind, ())


def _unmarked(change: Change) -> Change:
    # An identity that may do nothing, before or after, is not bound by its limits either.
    return replace(change, widens=False, narrows=False)
