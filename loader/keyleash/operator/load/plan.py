"""The plan of a load: a snapshot of the server and its difference from the policy."""

from __future__ import annotations

import json
import struct
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from itertools import islice
from typing import NamedTuple, TypeVar

from keyleash.compiler import CompiledGuard
from keyleash.compiler.emit import POLICY_DIGITS
from keyleash.compiler.passes.protect_control_keys import protected_prefixes
from keyleash.errors import PolicyError
from keyleash.limits.counters import DOUBLE, whole
from keyleash.operator.load.compile import PreparedPolicy, server_time_us
from keyleash.operator.load.migration import Migration, migration_of
from keyleash.policy import Policy, parse_policy
from keyleash.policy.diff import PolicyDiff, diff_policies
from keyleash.store.keyspace import Keyspace
from keyleash.store.records import ActivePolicy, Client, GuardRecord, guard_record, read_active
from keyleash.store.server_check import operator_client
from keyleash.store.state import EMPTY_LAYOUT, Layout
from keyleash.store.wire import Transport

BATCH = 100
"""Identities per pipeline, so that no reply is awaited for long and the server breathes between."""

_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class Snapshot:
    """
    An identity as the server has it.

    Attributes:
        record: Its guard record; None if it is in no active policy.
        stamp: Whose its state is; 0 if no guard's, or there is none.
        size: Of its state in bytes; 0 if there is none.
        sources: Digests of the scripts whose text is kept.
    """

    record: GuardRecord | None = None
    stamp: int = 0
    size: int = 0
    sources: frozenset[str] = frozenset()

    def is_of(self, guard: CompiledGuard, commands: str, transport: Transport) -> bool:
        """Whether the identity already has *guard*, called so, and its state is that guard's."""
        return (
            self.record is not None
            and self.record == record_of(guard, self.record.generation, commands, transport)
            and self.stamp == guard.stamp
        )


def read_snapshots(
    client: Client, keyspace: Keyspace, identities: Iterable[str]
) -> dict[str, Snapshot]:
    """
    Read how *identities* stand.

    A flush may have taken records, states or sources, and the same policy becomes other
    guards when the server has other commands.

    Raises:
        redis.ResponseError: a key is not of the type that it must have.
    """
    found = {}
    for names in batches(identities):
        with client.pipeline(transaction=False) as pipe:
            for name in names:
                pipe.hgetall(keyspace.guard(name))
                pipe.getrange(keyspace.state(name), 0, DOUBLE - 1)
                pipe.strlen(keyspace.state(name))
                pipe.hkeys(keyspace.source(name))
            replies = pipe.execute()
        for place, name in enumerate(names):
            record, stamp, size, sources = replies[place * 4 : place * 4 + 4]
            found[name] = Snapshot(
                guard_record(record),
                whole(struct.unpack("<d", stamp)[0]) if len(stamp) == DOUBLE else 0,
                size,
                frozenset(digest.decode() for digest in sources),
            )
    return found


def record_of(
    guard: CompiledGuard, generation: int, commands: str, transport: Transport
) -> GuardRecord:
    """Return the guard record that an activation writes for *guard*."""
    identity = guard.plan.identity
    durability, token = identity.durability, identity.token
    return GuardRecord(
        digest=guard.digest,
        batch_digest=guard.batch_digest,
        policy_digest=guard.policy_digest,
        generation=generation,
        commands=commands,
        transport=transport,
        wait_replicas=durability.wait_replicas,
        wait_ms=durability.timeout_ms,
        ttl_s=token.ttl_s,
        max_ttl_s=token.max_ttl_s,
        idle_s=token.idle_s or 0,
        rotate_after_s=token.rotate_after_s or 0,
    )


def batches(items: Iterable[_T], size: int = BATCH) -> Iterator[Sequence[_T]]:
    """Cut *items* into pieces of *size*."""
    rest = iter(items)
    while piece := tuple(islice(rest, size)):
        yield piece


class StateChange(StrEnum):
    """How an identity's state changes."""

    KEPT = "kept"
    """Its guard stays as it is, and so does its state."""
    FRESH = "fresh"
    """There was no state."""
    STAMPED = "stamped"
    """Another guard counts in the same places."""
    MOVED = "moved"
    """It is moved beforehand, and again at the activation if it was called since."""
    STAGED = "staged"
    """The same of a state with rings, which is kept on the server meanwhile."""
    REMOVED = "removed"
    """The identity leaves the policy."""


class StagedState(NamedTuple):
    """
    A state as `stage.lua` saw it, and by which it is seen to have changed; empty if none was.

    Attributes:
        header: Its numbers.
        marks: The newest call of each of its rings.
        moved: What becomes of it; empty if that is kept on the server.
    """

    header: bytes = b""
    marks: bytes = b""
    moved: bytes = b""


@dataclass(frozen=True, slots=True)
class IdentityChange:
    """
    What happens to one identity.

    Attributes:
        guard: Its guard from then on; None if it is removed.
        moves: How its state is moved to that guard's layout; None if it is removed or kept.
    """

    identity: str
    kind: StateChange
    guard: CompiledGuard | None = None
    moves: Migration | None = None

    def words(self, seen: StagedState | None = None) -> tuple[str | bytes, ...]:
        """How it changes and the words of `activate.lua` for it, given what was staged."""
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
    snapshots: Mapping[str, Snapshot],
    layouts: Mapping[str, Layout],
    now_us: int,
    commands: str = "",
    transport: Transport = Transport.EVALSHA,
) -> tuple[IdentityChange, ...]:
    """
    Say what the activation of *guards* changes.

    Args:
        guards: The new policy's guards.
        snapshots: How identities stand, those of the active policy among them.
        layouts: The layouts of the states as they are, by identity.
        now_us: Server time, to find the windows that are open.
        commands: What the guard records tell wrappers; see `protocol.learned`.
        transport: How wrappers are to call the guards.
    """
    names = {guard.identity for guard in guards}
    removed = sorted(
        name for name, item in snapshots.items() if item.record is not None and name not in names
    )
    changes = []
    for guard in guards:
        standing = snapshots.get(guard.identity, Snapshot())
        if standing.is_of(guard, commands, transport):
            changes.append(IdentityChange(guard.identity, StateChange.KEPT, guard))
        else:
            layout = layouts.get(guard.identity, EMPTY_LAYOUT)
            changes.append(_change(guard, standing, layout, now_us))
    return (*changes, *(IdentityChange(name, StateChange.REMOVED) for name in removed))


def activation_words(
    changes: Sequence[IdentityChange], seen: Mapping[str, StagedState]
) -> Iterator[str | bytes]:
    """The words of all *changes* for `activate.lua`, given what was staged, by identity."""
    by_kind: dict[str | bytes, list[Sequence[str | bytes]]] = defaultdict(list)
    for change in changes:
        how, *words = change.words(seen.get(change.identity))
        by_kind[how].append(words)
    for how, some in by_kind.items():
        yield how
        yield str(len(some))
        for item in some:
            yield from item


def layouts_after(
    layouts: Mapping[str, Layout], changes: Sequence[IdentityChange]
) -> dict[str, Layout]:
    """The layouts of all states once *changes* have happened; no state is forgotten."""
    return {
        **layouts,
        **{change.identity: change.guard.layout for change in changes if change.guard},
    }


def summary_of(changes: Sequence[IdentityChange]) -> str:
    """For the control stream: the new policy's identities and digests of their rules, JSON."""
    guards = [change.guard for change in changes if change.guard is not None]
    return json.dumps({guard.identity: guard.policy_digest[:POLICY_DIGITS] for guard in guards})


def _change(
    guard: CompiledGuard, standing: Snapshot, layout: Layout, now_us: int
) -> IdentityChange:
    if standing.stamp == guard.stamp:
        layout = guard.layout  # whatever is recorded, a stamp names the one guard
    moves = migration_of(layout, guard.layout, guard.stamp, guard.plan.limits, now_us)
    if standing.size == 0:
        return IdentityChange(guard.identity, StateChange.FRESH, guard, moves)
    # That of a removed identity expires, and that of a damaged one is to be refused.
    if moves.in_place and standing.record is not None and standing.size >= layout.header_bytes:
        return IdentityChange(guard.identity, StateChange.STAMPED, guard, moves)
    return IdentityChange(guard.identity, StateChange.MOVED, guard, moves)


@dataclass(frozen=True, slots=True)
class LoadDiff:
    """
    What a load finds.

    Attributes:
        active: The active policy; None if there is none.
        layouts: Of all states that there are, by identity.
        snapshots: Of all identities that there are or are to be.
        unrecorded: The guards whose texts are not all kept.
        changes: What activating the policy does to each identity.
        is_active: Whether the policy is active as it is, so that there is nothing to do.
    """

    active: ActivePolicy | None
    layouts: dict[str, Layout]
    snapshots: dict[str, Snapshot]
    unrecorded: tuple[CompiledGuard, ...]
    changes: tuple[IdentityChange, ...]
    is_active: bool

    @property
    def to_recompile(self) -> tuple[str, ...]:
        """The identities whose guard, or its record, state or text, is not as it should be."""
        changed = {
            change.identity for change in self.changes if change.kind is not StateChange.KEPT
        }
        changed |= {item.identity for item in self.unrecorded}
        return tuple(change.identity for change in self.changes if change.identity in changed)

    @property
    def removed(self) -> tuple[str, ...]:
        """The identities that the policy lacks and that can act now."""
        return tuple(
            change.identity for change in self.changes if change.kind is StateChange.REMOVED
        )

    @property
    def lost(self) -> tuple[str, ...]:
        """The active identities whose state is gone, and with it what their limits counted."""
        return tuple(
            change.identity
            for change in self.changes
            if change.kind is StateChange.FRESH
            and self.snapshots[change.identity].record is not None
        )


def diff_with_server(
    client: Client, prepared: PreparedPolicy, keyspace: Keyspace, transport: Transport
) -> LoadDiff:
    """
    Read what activating *prepared* has to do.

    Raises:
        redis.ResponseError: a key is not of the type that it must have.
    """
    guards = prepared.guards
    active = read_active(client, keyspace)
    raw = client.hgetall(keyspace.layouts)
    layouts = {name.decode(): Layout.from_json(text) for name, text in raw.items()}
    names = {guard.identity for guard in guards} | layouts.keys()
    snapshots = read_snapshots(client, keyspace, names)
    unrecorded = tuple(
        item for item in guards if not snapshots[item.identity].sources >= {*item.scripts}
    )
    changes = activation_plan(
        guards, snapshots, layouts, server_time_us(client), prepared.commands, transport
    )
    is_active = (
        active is not None
        and active.digest == prepared.digest
        and not unrecorded
        and all(change.kind is StateChange.KEPT for change in changes[: len(guards)])
    )
    return LoadDiff(active, layouts, snapshots, unrecorded, changes, is_active)


NAMES = 50
"""So many identities of a kind a summary names; the control stream keeps it for ever."""


@dataclass(frozen=True, slots=True)
class Preview:
    """
    What an activation would do.

    Attributes:
        active: The active policy; None if there is none.
        diff: From that policy to the new one.
        is_readable: Whether the active policy's document could be read; if not, `diff` takes
            every identity for a new one.
        is_first: Whether no policy was ever active here. If none is now and one was, its record
            was lost, and what it allowed is not known.
        transport: How guards are to be called.
        to_recompile: Identities with unchanged rules whose guard must be recompiled: the server's
            commands or the transport changed, or a record is missing.
        lost: Active identities whose state is gone from the server: their limits begin at 0.
        removed: Active identities that the policy lacks.
    """

    active: ActivePolicy | None
    diff: PolicyDiff
    is_readable: bool
    is_first: bool
    transport: Transport
    to_recompile: tuple[str, ...]
    lost: tuple[str, ...]
    removed: tuple[str, ...]

    @property
    def is_empty(self) -> bool:
        """Whether nothing would be written."""
        return not (self.diff.identities or self.to_recompile) and self.active is not None

    @property
    def generation(self) -> int:
        """Of the active policy, 0 if there is none."""
        return self.active.generation if self.active else 0

    @property
    def needs_permission(self) -> bool:
        """Whether access widens beyond what somebody activated before."""
        return not self.is_first and self.diff.widens


def preview_load(
    client: Client, prepared: PreparedPolicy, keyspace: Keyspace, transport: Transport
) -> Preview:
    """
    Compare a prepared policy with what is active. Writes nothing.

    Raises:
        redis.ResponseError: a key of keyleash's own is not of the type that it must have.
    """
    client = operator_client(client)
    found = diff_with_server(client, prepared, keyspace, transport)
    before = Policy(()) if found.active is None else _read(found.active)
    diff = diff_policies(
        before or Policy(()), prepared.policy, prepared.table, protected_prefixes(keyspace)
    )
    to_recompile = [name for name in found.to_recompile if name in set(diff.unchanged)]
    return Preview(
        active=found.active,
        diff=diff,
        is_readable=before is not None,
        is_first=found.active is None and not found.layouts,
        transport=transport,
        to_recompile=tuple(to_recompile),
        lost=found.lost,
        removed=found.removed,
    )


def summary_of_plan(preview: Preview) -> str:
    """What a preview says, as JSON of bounded size, for the control stream."""
    diffs = preview.diff.identities
    lists = {
        "added": [diff.name for diff in diffs if diff.before is None],
        "removed": [diff.name for diff in diffs if diff.after is None],
        "changed": [diff.name for diff in diffs if diff.before and diff.after],
        "widened": [diff.name for diff in diffs if diff.widens],
        "narrowed": [diff.name for diff in diffs if diff.narrows],
        "mended": list(preview.to_recompile),
    }
    return json.dumps(
        {kind: _bounded(names) for kind, names in lists.items() if names}, separators=(",", ":")
    )


def _bounded(names: Iterable[str]) -> list[str | int]:
    """The first names, and as the last entry how many more there are."""
    listed = list(names)
    more = len(listed) - NAMES
    return [*listed[:NAMES], more] if more > 0 else [*listed]


def _read(active: ActivePolicy) -> Policy | None:
    """The active policy; None if this version cannot read its document."""
    try:
        # It was checked when it was loaded, by a server that may have had other commands.
        return parse_policy(active.document, file="<active policy>", commands=None)
    except PolicyError:
        return None
