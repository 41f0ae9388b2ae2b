"""Whether what the server records of the active policy is what that policy makes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence

from keyleash.commands.server import UnreadableCommandsError
from keyleash.compiler import CompiledGuard
from keyleash.deploy.prepare import PreparedPolicy
from keyleash.deploy.standing import Standing, batches, read_standings
from keyleash.doctor.finding import Finding, Said, Severity, Skipped
from keyleash.doctor.patient import Deployment
from keyleash.doctor.words import named, shown_key
from keyleash.errors import Problem
from keyleash.protocol.active import ActivePolicy
from keyleash.protocol.keyspace import Keyspace
from keyleash.status.tokens import read_token_counts

NO_POLICY = "no-policy"
DIGEST = "policy-changed"
NO_RECORD = "no-guard"
OTHER_GUARD = "guard-differs"
STRAY = "stray-guard"
NO_STATE = "no-state"
STALE = "stale-state"
LOAD = "`keyleash load` the active policy again"


def no_policy() -> Finding:
    """There is nothing to compare with."""
    return Finding(
        NO_POLICY,
        Severity.ERROR,
        "no policy is active: every call of every agent is refused, if there ever was one",
        "load one with `keyleash load FILE`; after a flush, a restore may be what is wanted",
    )


def check_records(
    deployment: Deployment, active: ActivePolicy, prepared: PreparedPolicy
) -> Iterator[Said]:
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
    standings = read_standings(deployment.main.client, keyspace, sorted({*guards, *known}))
    yield from _lacking(guards, standings)
    unread = unread_commands(prepared.warnings)
    if unread:
        yield Skipped("guards", f"they cannot be made again to compare: {unread}")
    else:
        yield from _different(guards, standings, active, prepared.commands)
    yield from _strays(guards, standings, keyspace)
    yield from _states(guards, standings)


def check_tokens(deployment: Deployment, keyspace: Keyspace) -> Iterable[Said]:
    """
    Read what is recorded of tokens, as lists of them do; there is nothing else to say of it.

    Raises:
        UnreadableRecordError: It cannot be read.
    """
    policy, main = deployment.policy, deployment.main.client
    if policy is not None:
        seconds, _ = main.time()
        for some in batches(policy.identities):
            list(read_token_counts(main, keyspace, some, int(seconds) * 1000))
    return ()


def _lacking(
    guards: Mapping[str, CompiledGuard], standings: Mapping[str, Standing]
) -> Iterator[Finding]:
    lacking = [name for name in guards if standings[name].record is None]
    if lacking:
        message = f"there is no guard record of {named(lacking)}: wrappers find no guard"
        yield _error(NO_RECORD, message, LOAD)


def _different(
    guards: Mapping[str, CompiledGuard],
    standings: Mapping[str, Standing],
    active: ActivePolicy,
    commands: str,
) -> Iterator[Finding]:
    other = []
    for name, guard in guards.items():
        record = standings[name].record
        if record is not None and (
            (record.digest, record.batch_digest) != tuple(guard.scripts)
            or (record.policy_digest, record.commands) != (guard.policy_digest, commands)
            or record.transport is not active.transport
        ):
            other.append(name)
    if other:
        yield Finding(
            OTHER_GUARD,
            Severity.WARNING,
            f"a load would make other guards of the active policy: those of {named(other)} are of"
            " another version of keyleash, of a year or of commands of the server that were, or"
            " somebody changed them",
            LOAD,
        )


def _strays(
    guards: Mapping[str, CompiledGuard], standings: Mapping[str, Standing], keyspace: Keyspace
) -> Iterator[Finding]:
    strays = [
        name for name, one in standings.items() if one.record is not None and name not in guards
    ]
    if strays:
        yield _error(
            STRAY,
            f"there is a guard record of {named(strays)}, which the active policy does not have",
            f"find out who wrote to `{keyspace.guard(strays[0])}`, then delete it",
        )


def _states(
    guards: Mapping[str, CompiledGuard], standings: Mapping[str, Standing]
) -> Iterator[Finding]:
    lost = [
        name for name, guard in guards.items() if standings[name].size < guard.layout.header_bytes
    ]
    if lost:
        yield _error(
            NO_STATE,
            f"the state of {named(lost)} is gone or cut: every call is refused as NOT_ACTIVE",
            f"look for evictions and for who deletes keys, then {LOAD}; what was counted is lost",
        )
    stale = []
    for name in guards:
        one = standings[name]
        if name not in lost and one.record is not None and not _is_of(one, guards[name]):
            stale.append(name)
    if stale:
        yield _error(
            STALE,
            f"the state of {named(stale)} is another guard's: every call is refused as"
            " POLICY_STALE",
            f"{LOAD}; it moves what was counted",
        )


def _is_of(standing: Standing, guard: CompiledGuard) -> bool:
    """Whether the state is that of the recorded guard, as far as its stamp is known."""
    record = standing.record
    assert record is not None  # noqa: S101 - asked for by the caller
    # The stamp of a guard that is not compiled here is not known; that is found on its own.
    return record.digest != guard.digest or standing.stamp == guard.stamp


def unread_commands(warnings: Sequence[Problem]) -> str:
    """Why the server's commands could not be read; empty if they were."""
    return next((one.message for one in warnings if one.code == UnreadableCommandsError.code), "")


def _error(code: str, message: str, help: str) -> Finding:
    return Finding(code, Severity.ERROR, message, help)
