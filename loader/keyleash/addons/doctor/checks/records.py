"""Checks of keyleash's records and scripts."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from keyleash.addons.doctor.context import Context
from keyleash.addons.doctor.findings import CheckResult, DoctorFinding, Skipped, finding
from keyleash.compiler import CompiledGuard
from keyleash.errors import UnreadableCommandsError
from keyleash.operator.load.compile import PreparedPolicy
from keyleash.store.deployment import Server
from keyleash.store.guards import active_scripts, owners_not_loaded, scripts_without_text
from keyleash.store.identities import known_identities
from keyleash.store.records import GuardRecord
from keyleash.store.snapshots import GuardSnapshot, read_snapshots


def check_records(context: Context, prepared: PreparedPolicy) -> Iterator[CheckResult]:
    """Compare the records with *prepared*, the active policy compiled as a load would."""
    keyspace = context.keyspace
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
    yield from _states(guards, snapshots)


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
        for identity, digest in scripts_without_text(store):
            yield finding("script-without-text", node, digest=digest, identity=identity)
    if context.cluster is None and server.role is not None and server.role.primary is not None:
        # Scripts are not replicated: clients load them after a failover.
        return
    owners = active_scripts(store, known_identities(store))
    if missing := owners_not_loaded(store.on_node(server.client), owners):
        yield finding("script-not-loaded", node, names=missing)
