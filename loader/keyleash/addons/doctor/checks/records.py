"""Checks of keyleash's records and scripts."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence

from keyleash.addons.doctor.context import Context
from keyleash.addons.doctor.findings import SHOWN, CheckResult, DoctorFinding, Skipped, finding
from keyleash.compiler import CompiledGuard
from keyleash.errors import UnreadableCommandsError
from keyleash.operator.load.compile import PreparedPolicy
from keyleash.operator.tokens.list import read_tokens
from keyleash.policy.problems import listing
from keyleash.store.deployment import Server
from keyleash.store.guards import active_scripts, owners_not_loaded, read_recorded
from keyleash.store.identities import known_identities
from keyleash.store.records import ActivePolicy, GuardRecord
from keyleash.store.snapshots import MISSING, GuardSnapshot, read_snapshots, read_types
from keyleash.store.states import read_states
from keyleash.store.streams import AuditStream, StreamKind, read_repeats
from keyleash.store.token_entries import record_names


def check_records(
    context: Context, active: ActivePolicy, prepared: PreparedPolicy
) -> Iterator[CheckResult]:
    """Compare the records with *prepared*, the active policy compiled as a load would."""
    keyspace = context.keyspace
    if prepared.digest != active.digest:
        yield finding("policy-changed", key=keyspace.policy)
    guards = {guard.identity: guard for guard in prepared.guards}
    store = context.store_of(context.main)
    known = known_identities(store)
    if unlisted := [name for name in guards if name not in known]:
        yield finding("no-layout", names=unlisted, key=keyspace.layouts)
    snapshots = read_snapshots(store, sorted({*guards, *known}))
    if missing := [name for name in guards if snapshots[name].record is None]:
        yield finding("no-guard", names=missing)
    unread = [
        item.message for item in prepared.warnings if item.code == UnreadableCommandsError.code
    ]
    if unread:
        yield Skipped("guards", f"they cannot be recompiled to compare: {unread[0]}")
    elif other := [
        name
        for name, guard in guards.items()
        if _differs(snapshots[name].record, guard, prepared.commands)
    ]:
        yield finding("guard-differs", names=other)
    if strays := [
        name for name, item in snapshots.items() if item.is_present and name not in guards
    ]:
        yield finding("stray-guard", names=strays, key=keyspace.guard(strays[0]))
    yield from _states(guards, snapshots)


def check_tokens(context: Context, main: Server) -> Iterable[CheckResult]:
    """Read all token records; a corrupt one raises an error."""
    rules = {identity.name: identity.token for identity in context.policy.identities}
    store = context.store_of(main)
    list(read_tokens(store, rules, store.now_us()))
    return ()


def check_keys(context: Context, main: Server) -> Iterator[DoctorFinding]:
    """Compare the types of control keys, and look for those that were deleted."""
    store, names = context.store_of(main), [item.name for item in context.policy.identities]
    for key, (kind, found) in read_types(store, names).items():
        if found not in (kind, MISSING):
            yield finding("wrong-type", key=key, found=found, kind=kind)
    states = read_states(store, names)
    written = [x for x, state in zip(names, states, strict=True) if state and state.sequence]
    home = store.keys
    streams = [AuditStream(StreamKind.DENIED, x, home.denied(x), home.tag) for x in names]
    counts = zip(names, read_repeats(store, streams), strict=True)
    denied = [name for name, fields in counts if b"seq" in fields]
    # Read again, since a stream may have got its first entry meanwhile.
    gone = {key for key, (_, found) in read_types(store, names).items() if found == MISSING}
    for what, key, effect in (
        ("stream of operator actions", home.control, "`audit log --control` lacks them"),
        ("list of earlier policies", home.history, "`rollback` and `policy history` fail"),
    ):
        if key in gone:
            yield finding("records-deleted", what=what, effect=effect)
    if lost := [name for name in written if home.audit(name) in gone]:
        yield _deleted("audit stream", lost, "`audit log` and `undo` lack its events")
    if lost := [name for name in denied if home.denied(name) in gone]:
        yield _deleted("stream of denials", lost, "`audit log` and `status` lack them")
    bare = {name for name in names if home.tokens(name) in gone}
    owners = {x.partition(":")[0] for x in (record_names(store) if bare else ())}
    if unlisted := sorted(bare & owners):
        yield _deleted("index of tokens", unlisted, "`token list` lacks its tokens, which work")


def _deleted(what: str, names: Sequence[str], effect: str) -> DoctorFinding:
    return finding("records-deleted", what=f"{what} of {listing(names, SHOWN)}", effect=effect)


def _differs(record: GuardRecord | None, guard: CompiledGuard, commands: str) -> bool:
    # A damaged record, read as an empty one, is a finding of `check_scripts`.
    if record is None or not record.digest:
        return False
    recorded = record.digests, record.policy_digest, record.commands
    return recorded != (tuple(guard.scripts), guard.policy_digest, commands)


def _states(
    guards: Mapping[str, CompiledGuard], snapshots: Mapping[str, GuardSnapshot]
) -> Iterator[DoctorFinding]:
    lost = [
        name for name, guard in guards.items() if snapshots[name].size < guard.layout.header_bytes
    ]
    if lost:
        yield finding("no-state", names=lost)
    # The stamp of another guard is unknown; that guard is a finding of its own.
    stale = [
        name
        for name, guard in guards.items()
        if name not in lost
        and (record := snapshots[name].record) is not None
        and record.digest == guard.digest
        and snapshots[name].stamp != guard.stamp
    ]
    if stale:
        yield finding("stale-state", names=stale)


def check_scripts(context: Context, server: Server) -> Iterator[CheckResult]:
    """Compare guard records, stored scripts and loaded scripts."""
    node, has_records = server.name, context.cluster is None or server is context.main
    store = context.store_of(server if has_records else context.main)
    if has_records:
        recorded = read_recorded(store)
        for identity, digest in recorded.changed:
            key = store.keys.source(identity)
            yield finding("script-text-changed", node, digest=digest, identity=identity, key=key)
        for identity, digest in recorded.missing:
            yield finding("script-without-text", node, digest=digest, identity=identity)
    if context.cluster is None and server.role is not None and server.role.primary is not None:
        # Scripts are not replicated: clients load them after a failover.
        return
    owners = active_scripts(store, known_identities(store))
    if missing := owners_not_loaded(store.on_node(server.client), owners):
        yield finding("script-not-loaded", node, names=missing)
