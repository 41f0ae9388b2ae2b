"""Checks of keyleash's records, scripts and prefixes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence

from keyleash.commands.live import UnreadableCommandsError
from keyleash.compiler import CompiledGuard
from keyleash.doctor.deployment import Deployment, Server
from keyleash.doctor.findings import CheckResult, DoctorFinding, Severity, Skipped, named, shown_key
from keyleash.errors import Problem
from keyleash.operator.load.compile import PreparedPolicy
from keyleash.operator.load.functions import DIGITS, library_texts
from keyleash.operator.load.plan import Snapshot, batches, read_snapshots
from keyleash.status.identities import read_token_counts
from keyleash.store.identities import active_records, known_identities, server_time_ms
from keyleash.store.keyspace import Keyspace
from keyleash.store.prefixes import PrefixChange
from keyleash.store.records import ActivePolicy, GuardRecord
from keyleash.store.wire import Transport, function_name, library_code
from keyleash.watch.topology import not_loaded, read_recorded

NO_POLICY = "no-policy"
DIGEST = "policy-changed"
NO_RECORD = "no-guard"
OTHER_GUARD = "guard-differs"
STRAY = "stray-guard"
NO_STATE = "no-state"
STALE = "stale-state"
LOAD = "`keyleash load` the active policy again"


def no_policy() -> DoctorFinding:
    """Return the finding for a server without a policy."""
    return DoctorFinding(
        NO_POLICY,
        Severity.ERROR,
        "no policy is active: every call of every agent is denied",
        "load one with `keyleash load FILE`; after a flush, consider restoring a backup",
    )


def check_records(
    deployment: Deployment, active: ActivePolicy, prepared: PreparedPolicy
) -> Iterator[CheckResult]:
    """
    Compile the active policy as a load would, and compare.

    Args:
        active: The record of the active policy.
        prepared: The policy, compiled for the present server.
    """
    keyspace = deployment.seal.keyspace
    if prepared.digest != active.digest:
        key = shown_key(keyspace, keyspace.policy)
        yield _error(
            DIGEST,
            "the stored policy is not the one that was activated: its digest differs",
            f"find out what wrote to `{key}`, then load the policy from its file",
        )
    guards = {guard.identity: guard for guard in prepared.guards}
    known = known_identities(deployment.main.client, keyspace)
    snapshots = read_snapshots(deployment.main.client, keyspace, sorted({*guards, *known}))
    yield from _lacking(guards, snapshots)
    unread = unread_commands(prepared.warnings)
    if unread:
        yield Skipped("guards", f"they cannot be recompiled to compare: {unread}")
    else:
        yield from _different(guards, snapshots, active, prepared.commands)
    yield from _strays(guards, snapshots, keyspace)
    yield from _states(guards, snapshots)


def check_tokens(deployment: Deployment, keyspace: Keyspace) -> Iterable[CheckResult]:
    """
    Read all token records; corrupt ones raise.

    Raises:
        OperationError (unreadable): A record is corrupt.
    """
    policy, main = deployment.policy, deployment.main.client
    if policy is not None:
        now_ms = server_time_ms(main)
        for batch in batches(policy.identities):
            list(read_token_counts(main, keyspace, batch, now_ms))
    return ()


def _lacking(
    guards: Mapping[str, CompiledGuard], snapshots: Mapping[str, Snapshot]
) -> Iterator[DoctorFinding]:
    lacking = [name for name in guards if snapshots[name].record is None]
    if lacking:
        message = f"there is no guard record of {named(lacking)}: clients find no guard"
        yield _error(NO_RECORD, message, LOAD)


def _different(
    guards: Mapping[str, CompiledGuard],
    snapshots: Mapping[str, Snapshot],
    active: ActivePolicy,
    commands: str,
) -> Iterator[DoctorFinding]:
    other = []
    for name, guard in guards.items():
        record = snapshots[name].record
        if record is not None and (
            (record.digest, record.batch_digest) != tuple(guard.scripts)
            or (record.policy_digest, record.commands) != (guard.policy_digest, commands)
            or record.transport is not active.transport
        ):
            other.append(name)
    if other:
        yield DoctorFinding(
            OTHER_GUARD,
            Severity.WARNING,
            f"a load would compile other guards: those of {named(other)} were compiled by another"
            " version of keyleash, for another year or for other server commands, or were changed",
            LOAD,
        )


def _strays(
    guards: Mapping[str, CompiledGuard], snapshots: Mapping[str, Snapshot], keyspace: Keyspace
) -> Iterator[DoctorFinding]:
    strays = [
        name for name, item in snapshots.items() if item.record is not None and name not in guards
    ]
    if strays:
        yield _error(
            STRAY,
            f"there is a guard record of {named(strays)}, which the active policy does not have",
            f"find out what wrote to `{keyspace.guard(strays[0])}`, then delete it",
        )


def _states(
    guards: Mapping[str, CompiledGuard], snapshots: Mapping[str, Snapshot]
) -> Iterator[DoctorFinding]:
    lost = [
        name for name, guard in guards.items() if snapshots[name].size < guard.layout.header_bytes
    ]
    if lost:
        yield _error(
            NO_STATE,
            f"the state of {named(lost)} is missing or truncated: every call gets NOT_ACTIVE",
            f"look for evictions and deletions, then {LOAD}; the limit counts are lost",
        )
    stale = []
    for name in guards:
        one = snapshots[name]
        if name not in lost and one.record is not None and not _is_of(one, guards[name]):
            stale.append(name)
    if stale:
        yield _error(
            STALE,
            f"the state of {named(stale)} belongs to another guard: every call is denied as"
            " POLICY_STALE",
            f"{LOAD}; it migrates the limit counts",
        )


def _is_of(standing: Snapshot, guard: CompiledGuard) -> bool:
    """Return whether the state belongs to the recorded guard, as far as its stamp is known."""
    record = standing.record
    assert record is not None  # noqa: S101 - asked for by the caller
    # The stamp of another guard is unknown; that guard is a finding of its own.
    return record.digest != guard.digest or standing.stamp == guard.stamp


def unread_commands(warnings: Sequence[Problem]) -> str:
    """Return why the server's commands could not be read; empty if they were."""
    return next(
        (warning.message for warning in warnings if warning.code == UnreadableCommandsError.code),
        "",
    )


def _error(code: str, message: str, help: str) -> DoctorFinding:
    return DoctorFinding(code, Severity.ERROR, message, help)


NOT_LOADED = "script-not-loaded"
NO_TEXT = "script-without-text"
OTHER_TEXT = "script-text-changed"
OTHER_FUNCTION = "function-changed"
WATCH = "`keyleash watch` keeps them loaded on every server; `--once` loads them now"


def check_scripts(server: Server, keyspace: Keyspace) -> Iterator[CheckResult]:
    """Compare guard records, stored scripts and loaded scripts."""
    recorded = read_recorded(server.client, keyspace)
    for identity, digest in recorded.changed:
        key = shown_key(keyspace, keyspace.source(identity))
        yield _error_scripts(
            server,
            OTHER_TEXT,
            f"the stored script {digest} of `{identity}` does not match its digest",
            f"find out what wrote to `{key}`, then {LOAD}",
        )
    for identity, digest in recorded.missing:
        yield _error_scripts(
            server,
            NO_TEXT,
            f"the script {digest} of `{identity}` is not stored, so it cannot be loaded again",
            LOAD,
        )
    records = {
        name: record
        for batch in batches(known_identities(server.client, keyspace))
        for name, record in active_records(server.client, keyspace, batch).items()
    }
    yield from _not_in_cache(server, records)
    yield from _functions(server, keyspace, records)


def _not_in_cache(server: Server, records: dict[str, GuardRecord]) -> Iterator[CheckResult]:
    digests = {
        digest: name
        for name, record in records.items()
        if record.transport is Transport.EVALSHA
        for digest in (record.digest, record.batch_digest)
    }
    lacking = sorted({digests[item] for item in not_loaded(server.client, list(digests))})
    if lacking:
        yield _error_scripts(
            server,
            NOT_LOADED,
            f"guards are not loaded: {named(lacking)}; agents that may not load them are blocked",
            WATCH,
        )


def _functions(
    server: Server, keyspace: Keyspace, records: dict[str, GuardRecord]
) -> Iterator[CheckResult]:
    by_function = {
        name: item for name, item in records.items() if item.transport is Transport.FUNCTION
    }
    if not by_function:
        return
    # In pieces: the texts of a large policy are megabytes.
    held = {k: text for digit in DIGITS for k, text in library_texts(server.client, digit).items()}
    lacking, changed = set(), set()
    for some in batches(by_function):
        with server.client.pipeline(transaction=False) as pipe:
            for name in some:
                pipe.hgetall(keyspace.source(name))
            texts = pipe.execute()
        for name, source in zip(some, texts, strict=True):
            record = by_function[name]
            for digest in (record.digest, record.batch_digest):
                text = source.get(digest.encode())
                code = held.get(function_name(digest))
                if code is None:
                    lacking.add(name)
                elif text is not None and code != library_code(
                    name, digest, text.decode("latin-1")
                ):
                    changed.add(name)
    if lacking:
        yield _error_scripts(
            server, NOT_LOADED, f"functions are not loaded: {named(sorted(lacking))}", WATCH
        )
    if changed:
        yield _error_scripts(
            server,
            OTHER_FUNCTION,
            f"functions differ from the guards that they are named after: {named(sorted(changed))}",
            f"suspend these identities, find out what replaced the functions, then {LOAD}",
        )


def _error_scripts(server: Server, code: str, message: str, help: str) -> DoctorFinding:
    return DoctorFinding(code, Severity.ERROR, message, help, server.name)


HALF_CHANGED = "vault-half-changed"


def half_changed(change: PrefixChange) -> DoctorFinding:
    """Return the finding for an unfinished change of prefixes."""
    kind = change.kind.value
    if change.is_switched:
        message = (
            f"`keyleash vault {kind}` is under way or was interrupted: agents are suspended, and"
            " keys are in two places"
        )
    else:
        message = (
            f"`keyleash vault {kind}` was begun and moved nothing yet; the old prefixes are"
            " in effect"
        )
    return DoctorFinding(
        HALF_CHANGED,
        Severity.ERROR if change.is_switched else Severity.WARNING,
        message,
        f"let it finish, or run `keyleash vault {kind}` again: it continues",
    )
