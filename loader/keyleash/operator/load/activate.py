"""Activate a policy atomically, and verify the result."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from redis.exceptions import ResponseError

from keyleash.commands import CommandTable
from keyleash.compiler import Report
from keyleash.errors import (
    OperationError,
    Problem,
    RemovalError,
)
from keyleash.fence.apply import refreshed_users
from keyleash.operator.load.compile import PreparedPolicy, prepare_policy
from keyleash.operator.load.functions import load_functions, retire_functions
from keyleash.operator.load.plan import (
    IdentityChange,
    LoadDiff,
    StateChange,
    activation_words,
    batches,
    diff_with_server,
    layouts_after,
    read_snapshots,
    summary_of,
)
from keyleash.operator.load.staging import (
    MANY,
    LoadStage,
    load_scripts,
    record_sources,
    retire_sources,
    step_lua_gc,
)
from keyleash.store.keyspace import Keyspace
from keyleash.store.prefixes import server_keyspace
from keyleash.store.records import ActivePolicy, Client, read_active
from keyleash.store.scripts import ACTIVATE
from keyleash.store.server_check import operator_client, require_supported
from keyleash.store.token import reject_tokens
from keyleash.store.wire import Transport, function_name


@dataclass(frozen=True, slots=True)
class LoadResult:
    """What a load did.

    Attributes:
        changed: False if this very policy was active already; then nothing was written.
        generation: Of the policy that is active now.
        digest: Of that policy.
        identities: Its identities, in its order.
        removed: Identities that this load stopped.
        warnings: What has no effect on this server, in file order.
    """

    changed: bool
    generation: int
    digest: str
    identities: tuple[str, ...]
    removed: tuple[str, ...]
    warnings: tuple[Problem, ...] = ()


def load_policy(
    client: Client,
    document: str,
    *,
    file: str = "<policy>",
    actor: str = "unknown",
    table: CommandTable | None = None,
    keyspace: Keyspace | None = None,
    allow_eviction: bool = False,
    allow_unvalidated_restore: bool = False,
    transport: Transport = Transport.EVALSHA,
    others: Sequence[Client] = (),
    allow_removal: bool = False,
) -> LoadResult:
    """Compile a policy for a server and make it the active one, atomically.

    Limits keep what they counted, by name; suspended identities stay suspended.

    Args:
        client: A redis-py client with the right to load scripts.
        document: The policy file's text.
        file: Its name, for problems.
        actor: Who loads it, for the control stream.
        table: The server's commands; they are asked for if None.
        keyspace: Where keys are; what the server's record says if None.
        allow_eviction: Load also where the server may evict control keys.
        allow_unvalidated_restore: Load a policy that allows RESTORE also where the server does
            not validate its payloads.
        others: Further servers, such as replicas, whose ACL users are to be kept in step.
        transport: How wrappers are to call the guards. The policy may be active by another.
        allow_removal: Load also a policy that lacks identities of the active one.

    Raises:
        OperationError (unsupported-server): the server is older than the supported versions.
        ClusterError: the server is a node of a Redis Cluster.
        PolicyError: the document has problems; nothing was touched.
        RemovalError: it removes identities, and that was not allowed; nothing was activated.
        OperationError (unsayable-pattern): ACL rules cannot hold a pattern.
        EvictionError: the server may evict control keys; nothing was touched.
        UnvalidatedRestoreError: the policy allows RESTORE, and the server does not validate
            payloads; nothing was touched.
        OperationError (activation-conflict): another load was faster; nothing was activated.
        OperationError (digest-mismatch): the server's digests are not ours; nothing was activated.
    """
    client = operator_client(client)
    others = [operator_client(other, "others") for other in others]
    reject_tokens(actor=actor)
    require_supported(client)
    keyspace = keyspace or server_keyspace(client)
    prepared = prepare_policy(
        client,
        document,
        file=file,
        table=table,
        keyspace=keyspace,
        allow_eviction=allow_eviction,
        allow_unvalidated_restore=allow_unvalidated_restore,
    )
    return activate_policy(
        client,
        prepared,
        actor=actor,
        keyspace=keyspace,
        transport=transport,
        others=others,
        allow_removal=allow_removal,
    )


def activate_policy(
    client: Client,
    prepared: PreparedPolicy,
    *,
    actor: str = "unknown",
    keyspace: Keyspace | None = None,
    transport: Transport = Transport.EVALSHA,
    others: Sequence[Client] = (),
    expected: int | None = None,
    plan: str = "",
    report: Report | None = None,
    allow_removal: bool = False,
) -> LoadResult:
    """Make a prepared policy the active one; see `load_policy`.

    Args:
        expected: The generation that must be active, 0 for none: that of which a plan was made.
            None takes whichever is.
        plan: What was planned, JSON, for the control stream.
        report: Told now and then how many guards are loaded, and of how many.
        allow_removal: Whether identities of the active policy may be missing from this one.
    """
    client = operator_client(client)
    others = [operator_client(other, "others") for other in others]
    reject_tokens(actor=actor)
    require_supported(client)
    in_force = server_keyspace(client)
    keyspace = keyspace or in_force
    if keyspace != in_force:
        # activate.lua asks again; but by then what is staged would not fit.
        raise OperationError(
            "activation-conflict",
            "the prefixes of keys were changed while this policy was being loaded",
            help="load it again",
        )
    guards, digest = prepared.guards, prepared.digest
    names = tuple(guard.identity for guard in guards)
    load = load_functions if transport is Transport.FUNCTION else load_scripts
    load(client, guards, report)
    found = diff_with_server(client, prepared, keyspace, transport)
    active, changes = found.active, found.changes
    generation = active.generation if active else 0
    if expected is not None and generation != expected:
        raise _conflict("another policy was activated since the plan of this one was made")
    if active and found.is_active:
        return LoadResult(False, generation, digest, names, (), prepared.warnings)
    if found.removed and not allow_removal:
        raise RemovalError(prepared.file, found.removed)
    record_sources(client, keyspace, found.unrecorded)
    stage = LoadStage(client, keyspace)
    try:
        _fill(stage, prepared, found, actor, transport)
        header = (generation, stage.load, actor, digest, summary_of(changes), plan)
        with refreshed_users((client, *others), keyspace, guards, transport):
            generation = _activate(client, keyspace, header, changes, stage)
    finally:
        stage.discard()
    retire_sources(client, keyspace, guards, found.removed)
    retire_functions(client, keyspace, guards, transport, generation)
    return LoadResult(True, generation, digest, names, found.removed, prepared.warnings)


def _fill(
    stage: LoadStage, prepared: PreparedPolicy, found: LoadDiff, actor: str, transport: Transport
) -> None:
    """Write beside what is active all that will take its place."""
    generation = found.active.generation if found.active else 0
    before = _policy_before(found.active, prepared.digest)
    policy = ActivePolicy(
        generation + 1, prepared.digest, prepared.document, actor, 0, transport, before
    )
    stage.put_policy(policy, layouts_after(found.layouts, found.changes))
    changed = [
        change.guard
        for change in found.changes
        if change.guard and change.kind is not StateChange.KEPT
    ]
    stage.put_records(changed, generation + 1, prepared.commands, transport)
    stage.put_states(found.changes, found.snapshots)


def _policy_before(active: ActivePolicy | None, digest: str) -> str:
    """The digest of the policy to which a rollback goes back; a policy never replaces itself."""
    if active is None:
        return ""
    return active.before if active.digest == digest else active.digest


def _activate(
    client: Client,
    keyspace: Keyspace,
    header: tuple[int | str, ...],
    changes: Sequence[IdentityChange],
    stage: LoadStage,
) -> int:
    words = activation_words(changes, stage.seen)
    stage.keep_records()
    if sum(change.kind is not StateChange.KEPT for change in changes) >= MANY:
        step_lua_gc(client)
    # Loaded first, so that compiling it is no part of the moment.
    digest = client.script_load(ACTIVATE.text)
    try:
        return int(client.evalsha(digest, *ACTIVATE.arguments(keyspace, *header, *words)))
    except ResponseError as error:
        if str(error).startswith("LEASH ACTIVATION_"):
            raise _conflict(
                "another policy was activated while this one was being loaded"
                if "CONFLICT" in str(error)
                else "what this load had prepared was gone from the server before it was activated"
            ) from None
        raise


def _conflict(message: str) -> OperationError:
    return OperationError(
        "activation-conflict", message, help="look at `keyleash status`, then load again"
    )


def verify_activation(
    client: Client,
    prepared: PreparedPolicy,
    keyspace: Keyspace,
    transport: Transport,
    generation: int,
) -> None:
    """
    Read back what *generation* consists of: its record, every guard's record and state, scripts.

    Raises:
        OperationError (activation-conflict): another policy was activated since.
        OperationError (not-verified): something differs from what was activated.
    """
    client = operator_client(client)
    active = read_active(client, keyspace)
    if active is not None and active.generation > generation:
        raise OperationError(
            "activation-conflict",
            f"generation {generation} was activated, and then another policy by `{active.actor}`",
            help="look at `keyleash policy history`",
        )
    findings: list[str] = []
    if active is None or (active.generation, active.digest) != (generation, prepared.digest):
        findings.append("the record of the active policy")
    findings += _wrong_guards(client, prepared, keyspace, transport, generation)
    findings += _missing_scripts(client, prepared, transport)
    if findings:
        more = f" and {len(findings) - 5} more" if len(findings) > 5 else ""
        raise OperationError(
            "not-verified",
            f"generation {generation} was activated, but the server does not have it as activated:"
            f" {', '.join(findings[:5])}{more}",
            help="load the policy again; if that does not help, find out who else writes these"
            " keys",
        )


def _wrong_guards(
    client: Client,
    prepared: PreparedPolicy,
    keyspace: Keyspace,
    transport: Transport,
    generation: int,
) -> Iterator[str]:
    names = [guard.identity for guard in prepared.guards]
    snapshots = read_snapshots(client, keyspace, names)
    for guard in prepared.guards:
        found = snapshots[guard.identity]
        is_right = found.is_of(guard, prepared.commands, transport)
        if not is_right or found.record is None or found.record.generation != generation:
            yield f"the guard record or the state of `{guard.identity}`"
        elif not found.sources >= {*guard.scripts}:
            yield f"the kept scripts of `{guard.identity}`"


def _missing_scripts(
    client: Client, prepared: PreparedPolicy, transport: Transport
) -> Iterator[str]:
    for some in batches(prepared.guards):
        wanted = [(guard.identity, digest) for guard in some for digest in guard.scripts]
        if transport is Transport.FUNCTION:
            there = [bool(client.function_list(function_name(digest))) for _, digest in wanted]
        else:
            there = [bool(exist) for exist in client.script_exists(*(item for _, item in wanted))]
        missing = {name for (name, _), is_there in zip(wanted, there, strict=True) if not is_there}
        yield from (f"the scripts of `{name}`" for name in sorted(missing))
