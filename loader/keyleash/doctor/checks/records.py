"""Checks of keyleash's records, scripts and prefixes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from keyleash.commands.live import UnreadableCommandsError
from keyleash.compiler import CompiledGuard
from keyleash.doctor.deployment import Deployment, Server
from keyleash.doctor.findings import CheckResult, DoctorFinding, Severity, Skipped, named, shown_key
from keyleash.errors import Problem
from keyleash.operator.load.compile import PreparedPolicy
from keyleash.operator.load.plan import Snapshot, batches, read_snapshots
from keyleash.status.identities import read_token_counts
from keyleash.store.keyspace import Keyspace
from keyleash.store.prefixes import PrefixChange
from keyleash.store.records import ActivePolicy, Client, GuardRecord, guard_record
from keyleash.store.wire import LIBRARIES, Transport, function_name, library_code
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
    """There is nothing to compare with."""
    return DoctorFinding(
        NO_POLICY,
        Severity.ERROR,
        "no policy is active: every call of every agent is refused, if there ever was one",
        "load one with `keyleash load FILE`; after a flush, a restore may be what is wanted",
    )


def check_records(
    deployment: Deployment, active: ActivePolicy, prepared: PreparedPolicy
) -> Iterator[CheckResult]:
    """
    Compile the active policy as a load would, and compare.

    Args:
        active: The policy as it is recorded.
        prepared: The same, compiled for the server as it is now.
    """
    keyspace = deployment.seal.keyspace
    if prepared.digest != active.digest:
        key = shown_key(keyspace, keyspace.policy)
        yield _error(
            DIGEST,
            "the recorded policy is not the one that was activated: its digest is another",
            f"find out who wrote to `{key}`, then load the policy from its file",
        )
    guards = {guard.identity: guard for guard in prepared.guards}
    known = {name.decode() for name in deployment.main.client.hkeys(keyspace.layouts)}
    snapshots = read_snapshots(deployment.main.client, keyspace, sorted({*guards, *known}))
    yield from _lacking(guards, snapshots)
    unread = unread_commands(prepared.warnings)
    if unread:
        yield Skipped("guards", f"they cannot be made again to compare: {unread}")
    else:
        yield from _different(guards, snapshots, active, prepared.commands)
    yield from _strays(guards, snapshots, keyspace)
    yield from _states(guards, snapshots)


def check_tokens(deployment: Deployment, keyspace: Keyspace) -> Iterable[CheckResult]:
    """
    Read what is recorded of tokens, as lists of them do; there is nothing else to say of it.

    Raises:
        OperationError (unreadable): It cannot be read.
    """
    policy, main = deployment.policy, deployment.main.client
    if policy is not None:
        seconds, _ = main.time()
        for some in batches(policy.identities):
            list(read_token_counts(main, keyspace, some, int(seconds) * 1000))
    return ()


def _lacking(
    guards: Mapping[str, CompiledGuard], snapshots: Mapping[str, Snapshot]
) -> Iterator[DoctorFinding]:
    lacking = [name for name in guards if snapshots[name].record is None]
    if lacking:
        message = f"there is no guard record of {named(lacking)}: wrappers find no guard"
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
            f"a load would make other guards of the active policy: those of {named(other)} are of"
            " another version of keyleash, of a year or of commands of the server that were, or"
            " somebody changed them",
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
            f"find out who wrote to `{keyspace.guard(strays[0])}`, then delete it",
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
            f"the state of {named(lost)} is gone or cut: every call is refused as NOT_ACTIVE",
            f"look for evictions and for who deletes keys, then {LOAD}; what was counted is lost",
        )
    stale = []
    for name in guards:
        one = snapshots[name]
        if name not in lost and one.record is not None and not _is_of(one, guards[name]):
            stale.append(name)
    if stale:
        yield _error(
            STALE,
            f"the state of {named(stale)} is another guard's: every call is refused as"
            " POLICY_STALE",
            f"{LOAD}; it moves what was counted",
        )


def _is_of(standing: Snapshot, guard: CompiledGuard) -> bool:
    """Whether the state is that of the recorded guard, as far as its stamp is known."""
    record = standing.record
    assert record is not None  # noqa: S101 - asked for by the caller
    # The stamp of a guard that is not compiled here is not known; that is found on its own.
    return record.digest != guard.digest or standing.stamp == guard.stamp


def unread_commands(warnings: Sequence[Problem]) -> str:
    """Why the server's commands could not be read; empty if they were."""
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
WATCH = "`keyleash watch` keeps them loaded on every server; with `--once` it does so now"


def check_scripts(server: Server, keyspace: Keyspace) -> Iterator[CheckResult]:
    """Compare records, recorded texts, and what is loaded."""
    recorded = read_recorded(server.client, keyspace)
    for identity, digest in recorded.changed:
        key = shown_key(keyspace, keyspace.source(identity))
        yield _error_scripts(
            server,
            OTHER_TEXT,
            f"what is recorded as the script {digest} of `{identity}` is another text",
            f"find out who wrote to `{key}`, then {LOAD}",
        )
    for identity, digest in recorded.missing:
        yield _error_scripts(
            server,
            NO_TEXT,
            f"the script {digest} of `{identity}` is not recorded, so nobody can load it again",
            LOAD,
        )
    records = _records(server.client, keyspace)
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
            f"guards are not loaded: {named(lacking)}; agents that may not load them wait in vain",
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
    held = _libraries(server.client)
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
            f"functions are not the guards that they are named after: {named(sorted(changed))}",
            f"suspend these identities, find out who replaced the functions, then {LOAD}",
        )


def _libraries(client: Client) -> dict[str, str]:
    """The texts of guards' libraries by name."""
    found: dict[str, str] = {}
    # Some at a time: the texts of a large policy are megabytes.
    for digit in "0123456789abcdef":
        for item in client.function_list(f"{LIBRARIES}{digit}*", withcode=True):
            fields = (
                item if isinstance(item, dict) else dict(zip(item[::2], item[1::2], strict=True))
            )
            found[_text(fields[b"library_name"])] = _text(fields[b"library_code"])
    return found


def _records(client: Client, keyspace: Keyspace) -> dict[str, GuardRecord]:
    found = {}
    for some in batches(sorted(client.hkeys(keyspace.layouts))):
        names = [name.decode() for name in some]
        with client.pipeline(transaction=False) as pipe:
            for name in names:
                pipe.hgetall(keyspace.guard(name))
            for name, raw in zip(names, pipe.execute(), strict=True):
                record = guard_record(raw)
                if record is not None:
                    found[name] = record
    return found


def _error_scripts(server: Server, code: str, message: str, help: str) -> DoctorFinding:
    return DoctorFinding(code, Severity.ERROR, message, help, server.name)


def _text(value: Any) -> str:
    return value.decode("latin-1") if isinstance(value, bytes) else str(value)


HALF_CHANGED = "vault-half-changed"


def half_changed(change: PrefixChange) -> DoctorFinding:
    """A change that is under way, or was interrupted."""
    kind = change.kind.value
    if change.is_switched:
        message = (
            f"`keyleash vault {kind}` is under way or was interrupted: agents are suspended, and"
            " keys are in two places"
        )
    else:
        message = (
            f"`keyleash vault {kind}` was begun and moved nothing yet; the prefixes of before are"
            " in force"
        )
    return DoctorFinding(
        HALF_CHANGED,
        Severity.ERROR if change.is_switched else Severity.WARNING,
        message,
        f"let it finish, or run `keyleash vault {kind}` again: it goes on where it was",
    )
