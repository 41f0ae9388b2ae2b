"""The plan of a load: a snapshot of the server and its difference from the policy."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from itertools import chain

from keyleash.compiler import CompiledGuard
from keyleash.compiler.emit import POLICY_DIGITS
from keyleash.errors import PolicyError
from keyleash.limits import pack_limits
from keyleash.operator.load.compile import PreparedPolicy
from keyleash.operator.load.migration import Migration, migration_of
from keyleash.policy import Policy
from keyleash.policy.diff.compare import PolicyDiff, diff_policies
from keyleash.policy.model import Flush
from keyleash.policy.parse import active_policy
from keyleash.policy.scripts import with_texts
from keyleash.store.grants import pack_grants
from keyleash.store.keyspace import CONTROL_PREFIX
from keyleash.store.records import ActivePolicy, GuardRecord, read_active
from keyleash.store.snapshots import GuardSnapshot, find_identities, read_snapshots
from keyleash.store.staging import StagedState
from keyleash.store.state import EMPTY_LAYOUT, Layout
from keyleash.store.states import read_layouts
from keyleash.store.store import Store


def is_of(found: GuardSnapshot, guard: CompiledGuard, commands: str) -> bool:
    """Return whether *guard* is active, and the state belongs to it."""
    return (
        found.record is not None
        and found.record == record_of(guard, found.record.generation, commands)
        and found.stamp == guard.stamp
    )


def record_of(guard: CompiledGuard, generation: int, commands: str) -> GuardRecord:
    """Return the guard record that an activation writes for *guard*."""
    identity = guard.plan.identity
    durability, token = identity.durability, identity.token
    return GuardRecord(
        digest=guard.digest,
        batch_digest=guard.batch_digest,
        policy_digest=guard.policy_digest,
        generation=generation,
        commands=commands,
        wait_replicas=durability.wait_replicas,
        wait_ms=durability.timeout_ms,
        ttl_s=token.ttl_s,
        max_ttl_s=token.max_ttl_s,
        idle_s=token.idle_s or 0,
        rotate_after_s=token.rotate_after_s or 0,
        limits=pack_limits(identity.limits),
        takes_runs=guard.plan.takes_runs,
        delegates=identity.delegate.depth > 0,
        takes_ids=identity.idempotency is not None,
        approved_digest=guard.approved_digest,
        approved=" ".join(script.digest for script in identity.scripts),
        lease=guard.lease_digest,
        renew=token.renew,
        takes_source=identity.audit.source,
        grants=pack_grants(identity),
        flushes=token.flush is Flush.OWN,
    )


class StateChange(StrEnum):
    """The effect of an activation on an identity and its state."""

    UNCHANGED = "unchanged"
    """Guard and state remain."""
    FRESH = "fresh"
    """There was no state: an empty one is written."""
    STAMPED = "stamped"
    """The state gets the stamp of another guard with the same layout."""
    MOVED = "moved"
    """The state is migrated in advance, and again at the activation if it changed since."""
    STAGED = "staged"
    """The same, for a state that is staged on the server."""
    REMOVED = "removed"
    """The identity leaves the policy."""


@dataclass(frozen=True, slots=True)
class IdentityChange:
    """The change of one identity.

    Attributes:
        guard: Its new guard; None if it is removed.
        moves: The migration of its state; None if it is removed or unchanged.
    """

    identity: str
    kind: StateChange
    guard: CompiledGuard | None = None
    moves: Migration | None = None

    def words(self, seen: StagedState | None = None) -> tuple[str | bytes, ...]:
        """Return the kind of change and the arguments of `activate.lua`, given the staged state."""
        if self.guard is None or self.moves is None:
            return (self.kind, self.identity)
        moves = self.moves
        match self.kind:
            case StateChange.FRESH:
                state = moves.stamp.ljust(self.guard.layout.header_bytes, b"\0")
                return (StateChange.FRESH, self.identity, state)
            case StateChange.STAMPED:
                return (StateChange.STAMPED, self.identity, moves.stamp)
        seen = seen or StagedState()
        if seen.moved:
            return (StateChange.MOVED, self.identity, moves.packed, seen.header, seen.moved)
        return (StateChange.STAGED, self.identity, moves.packed, seen.header, seen.marks)


def activation_plan(
    guards: Sequence[CompiledGuard],
    snapshots: Mapping[str, GuardSnapshot],
    layouts: Mapping[str, Layout],
    now_us: int,
    commands: str = "",
) -> tuple[IdentityChange, ...]:
    """Return the changes that the activation of *guards* makes.

    Args:
        snapshots: The snapshots of identities, including all of the active policy.
        layouts: The present layout of each state, by identity.
        now_us: Server time, to find the open windows.
        commands: The command overrides in the guard records; see `commands_to_learn`.
    """
    names = {guard.identity for guard in guards}
    removed = sorted(
        name for name, item in snapshots.items() if item.is_present and name not in names
    )
    changes = []
    for guard in guards:
        snapshot = snapshots.get(guard.identity, GuardSnapshot())
        if is_of(snapshot, guard, commands):
            changes.append(IdentityChange(guard.identity, StateChange.UNCHANGED, guard))
        else:
            layout = layouts.get(guard.identity, EMPTY_LAYOUT)
            changes.append(_change(guard, snapshot, layout, now_us))
    return (*changes, *(IdentityChange(name, StateChange.REMOVED) for name in removed))


def activation_words(
    changes: Sequence[IdentityChange], seen: Mapping[str, StagedState]
) -> Iterator[str | bytes]:
    """Yield the arguments of `activate.lua` for all *changes*, given the staged states."""
    by_kind: dict[str | bytes, list[Sequence[str | bytes]]] = defaultdict(list)
    for change in changes:
        kind, *words = change.words(seen.get(change.identity))
        by_kind[kind].append(words)
    for kind, arguments in by_kind.items():
        yield kind
        yield str(len(arguments))
        yield from chain.from_iterable(arguments)


def layouts_after(
    layouts: Mapping[str, Layout], changes: Sequence[IdentityChange]
) -> dict[str, Layout]:
    """Return the layouts of all states after *changes*; none is deleted."""
    return {
        **layouts,
        **{change.identity: change.guard.layout for change in changes if change.guard},
    }


def summary_of(changes: Sequence[IdentityChange]) -> str:
    """Return identities and rule digests of the new policy as JSON, for the control stream."""
    guards = (change.guard for change in changes if change.guard is not None)
    return json.dumps({guard.identity: guard.policy_digest[:POLICY_DIGITS] for guard in guards})


def _change(
    guard: CompiledGuard, snapshot: GuardSnapshot, layout: Layout, now_us: int
) -> IdentityChange:
    if snapshot.stamp == guard.stamp:
        layout = guard.layout  # whatever is recorded, a stamp names the one guard
    moves = migration_of(layout, guard.layout, guard.stamp, guard.plan.limits, now_us)
    if snapshot.size == 0:
        return IdentityChange(guard.identity, StateChange.FRESH, guard, moves)
    # The state of a removed identity expires, and a damaged one must be denied.
    if moves.in_place and snapshot.record is not None and snapshot.size >= layout.header_bytes:
        return IdentityChange(guard.identity, StateChange.STAMPED, guard, moves)
    return IdentityChange(guard.identity, StateChange.MOVED, guard, moves)


@dataclass(frozen=True, slots=True)
class LoadDiff:
    """The difference between a policy and the server.

    Attributes:
        active: The active policy; None if there is none.
        layouts: The layouts of all states, by identity.
        snapshots: The snapshots of all present and new identities.
        unrecorded: The guards whose scripts are not all stored.
        changes: The changes that the activation makes.
        is_active: Whether the policy is active and complete, so that nothing needs to be done.
    """

    active: ActivePolicy | None
    layouts: dict[str, Layout]
    snapshots: dict[str, GuardSnapshot]
    unrecorded: tuple[CompiledGuard, ...]
    changes: tuple[IdentityChange, ...]
    is_active: bool

    @property
    def to_recompile(self) -> tuple[str, ...]:
        """Return the identities whose guard, record, state or source must be replaced."""
        unrecorded = {guard.identity for guard in self.unrecorded}
        return tuple(
            change.identity
            for change in self.changes
            if change.kind is not StateChange.UNCHANGED or change.identity in unrecorded
        )

    @property
    def removed(self) -> tuple[str, ...]:
        """Return the identities of the server that the policy lacks."""
        return tuple(
            change.identity for change in self.changes if change.kind is StateChange.REMOVED
        )

    @property
    def lost(self) -> tuple[str, ...]:
        """Return the active identities whose state, and with it the limit counts, is missing."""
        return tuple(
            change.identity
            for change in self.changes
            if change.kind is StateChange.FRESH
            and self.snapshots[change.identity].record is not None
        )


def diff_with_server(store: Store, prepared: PreparedPolicy) -> LoadDiff:
    """Compare *prepared* with the server; nothing is written.

    Raises:
        redis.ResponseError: A key has the wrong type.
    """
    guards = prepared.guards
    active = read_active(store)
    layouts = read_layouts(store)
    names = {guard.identity for guard in guards} | layouts.keys()
    names |= _unlisted(store, _active_policy(active, prepared), layouts)
    snapshots = read_snapshots(store, names)
    unrecorded = tuple(
        item for item in guards if not snapshots[item.identity].sources >= {*item.scripts}
    )
    changes = activation_plan(guards, snapshots, layouts, store.now_us(), prepared.commands)
    is_active = (
        active is not None
        and active.digest == prepared.digest
        and not unrecorded
        and all(change.kind is StateChange.UNCHANGED for change in changes)
        and all(layouts.get(guard.identity) == guard.layout for guard in guards)
    )
    return LoadDiff(active, layouts, snapshots, unrecorded, changes, is_active)


def _unlisted(store: Store, policy: Policy | None, layouts: Mapping[str, Layout]) -> set[str]:
    """Return the identities of the server that may be missing in *layouts*.

    The keys of the server are listed only if the records of policy and layouts disagree, or one of
    them is missing or damaged.
    """
    names: set[str] = set() if policy is None else {identity.name for identity in policy.identities}
    if names and names <= layouts.keys():
        return names
    return names | find_identities(store)


NAMES = 50
"""Maximum number of identities per list in a summary."""


@dataclass(frozen=True, slots=True)
class Preview:
    """The effect of an activation.

    Attributes:
        active: The active policy; None if there is none.
        diff: The changes from that policy to the new one.
        is_readable: Whether the active policy could be parsed; if not, `diff` treats every identity
            as new.
        is_first: Whether no policy was ever active. If none is active now but one was, its record
            was lost, and its grants are unknown.
        to_recompile: Identities with unchanged rules whose guard must be recompiled: the server's
            commands changed, or a record is missing.
        lost: Active identities whose state is missing: their limits start at 0.
        removed: Active identities that the policy lacks.
    """

    active: ActivePolicy | None
    diff: PolicyDiff
    is_readable: bool
    is_first: bool
    to_recompile: tuple[str, ...]
    lost: tuple[str, ...]
    removed: tuple[str, ...]

    @property
    def is_empty(self) -> bool:
        """Return whether nothing would be written."""
        is_same = not (self.diff.identities or self.to_recompile or self.removed)
        return is_same and self.active is not None

    @property
    def generation(self) -> int:
        """Return the active generation, 0 if there is none."""
        return self.active.generation if self.active else 0

    @property
    def needs_permission(self) -> bool:
        """Return whether access becomes wider than in the active policy."""
        return not self.is_first and self.diff.widens


def preview_load(store: Store, prepared: PreparedPolicy) -> Preview:
    """Compare a prepared policy with the active one; nothing is written.

    Raises:
        redis.ResponseError: A key has the wrong type.
    """
    found = diff_with_server(store, prepared)
    before = Policy(()) if found.active is None else _active_policy(found.active, prepared)
    added = set(prepared.modules).difference(found.active.modules.split() if found.active else ())
    diff = diff_policies(
        before or Policy(()), prepared.policy, prepared.table, (CONTROL_PREFIX,), added
    )
    unchanged = set(diff.unchanged)
    return Preview(
        active=found.active,
        diff=diff,
        is_readable=before is not None,
        is_first=found.active is None
        and not found.layouts
        and not any(snapshot.is_present for snapshot in found.snapshots.values()),
        to_recompile=tuple(name for name in found.to_recompile if name in unchanged),
        lost=found.lost,
        removed=found.removed,
    )


def summary_of_plan(preview: Preview) -> str:
    """Summarize a preview as JSON of bounded size, for the control stream."""
    diffs = preview.diff.identities
    lists = {
        "added": [diff.name for diff in diffs if diff.before is None],
        "removed": sorted({*preview.removed, *(diff.name for diff in diffs if diff.after is None)}),
        "changed": [diff.name for diff in diffs if diff.before and diff.after],
        "widened": [diff.name for diff in diffs if diff.widens],
        "narrowed": [diff.name for diff in diffs if diff.narrows],
        "regenerated": list(preview.to_recompile),
    }
    return json.dumps(
        {kind: _bounded(names) for kind, names in lists.items() if names}, separators=(",", ":")
    )


def _bounded(names: Sequence[str]) -> list[str | int]:
    """Return the first names, followed by the number of others."""
    more = len(names) - NAMES
    return [*names[:NAMES], more] if more > 0 else [*names]


def _active_policy(active: ActivePolicy | None, prepared: PreparedPolicy) -> Policy | None:
    """Return the active policy, which often is the prepared one; None if it cannot be parsed."""
    if active is None:
        return None
    if active.document == with_texts(prepared.document, prepared.policy):
        return prepared.policy
    try:
        return active_policy(active.document)
    except PolicyError:
        return None
