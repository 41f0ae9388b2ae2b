"""Loading a policy: nothing is active until all of it is."""

from __future__ import annotations

from dataclasses import dataclass

from redis.exceptions import ResponseError

from keyleash.commands import CommandTable
from keyleash.compiler.templates import operator_script
from keyleash.deploy.plan import activation_plan
from keyleash.deploy.prepare import PreparedPolicy, prepare_policy, server_time_us
from keyleash.deploy.registry import load_scripts, record_sources, retire_sources
from keyleash.errors import ActivationConflictError, Problem
from keyleash.protocol.active import ActivePolicy, Client, guard_record, read_active
from keyleash.protocol.keyspace import Keyspace
from keyleash.protocol.state import Layout


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
) -> LoadResult:
    """Compile a policy for a server and make it the active one, atomically.

    Limits keep what they counted, by name; suspended identities stay suspended.

    Args:
        client: A redis-py client with the right to load scripts, `decode_responses` off.
        document: The policy file's text.
        file: Its name, for problems.
        actor: Who loads it, for the control stream.
        table: The server's commands; they are asked for if None.
        keyspace: Where the control keys are; the public prefix if None.

    Raises:
        PolicyError: the document has problems; nothing was touched.
        ActivationConflictError: another load was faster; nothing was activated.
        DigestMismatchError: the server's digests are not ours; nothing was activated.
    """
    prepared = prepare_policy(client, document, file=file, table=table, keyspace=keyspace)
    return activate_policy(client, prepared, actor=actor, keyspace=keyspace)


def activate_policy(
    client: Client,
    prepared: PreparedPolicy,
    *,
    actor: str = "unknown",
    keyspace: Keyspace | None = None,
) -> LoadResult:
    """Make a prepared policy the active one; see `load_policy`."""
    keyspace = keyspace or Keyspace()
    guards, digest = prepared.guards, prepared.digest
    names = tuple(guard.identity for guard in guards)
    active = read_active(client, keyspace)
    load_scripts(client, guards)
    if active and active.digest == digest and _are_in_force(client, keyspace, prepared):
        return LoadResult(False, active.generation, digest, names, (), prepared.warnings)
    layouts = _layouts(client, keyspace)
    removed = tuple(name for name in _active_names(client, keyspace, layouts) if name not in names)
    record_sources(client, keyspace, guards)
    plan = activation_plan(guards, layouts, removed, server_time_us(client), prepared.commands)
    what = (actor, digest, prepared.document, plan)
    generation = _activate(client, keyspace, active, what)
    retire_sources(client, keyspace, guards, removed)
    return LoadResult(True, generation, digest, names, removed, prepared.warnings)


def _are_in_force(client: Client, keyspace: Keyspace, prepared: PreparedPolicy) -> bool:
    """Whether records and states are those of its guards.

    A flush may have taken either, and the same policy becomes other guards when the server
    has other commands.
    """
    guards = prepared.guards
    with client.pipeline(transaction=False) as pipe:
        for guard in guards:
            pipe.hgetall(keyspace.guard(guard.identity))
            pipe.exists(keyspace.state(guard.identity))
            pipe.hkeys(keyspace.source(guard.identity))
        replies = pipe.execute()
    found = zip(guards, replies[::3], replies[1::3], replies[2::3], strict=True)
    for guard, raw, has_state, sources in found:
        record = guard_record(raw)
        if record is None or (record.digest, record.batch_digest) != tuple(guard.scripts):
            return False
        if record.commands != prepared.commands:
            return False
        if not has_state or not {digest.decode() for digest in sources} >= set(guard.scripts):
            return False
    return True


def _layouts(client: Client, keyspace: Keyspace) -> dict[str, Layout]:
    raw = client.hgetall(keyspace.layouts)
    return {name.decode(): Layout.from_json(text) for name, text in raw.items()}


def _active_names(client: Client, keyspace: Keyspace, known: dict[str, Layout]) -> list[str]:
    names = sorted(known)
    with client.pipeline(transaction=False) as pipe:
        for name in names:
            pipe.exists(keyspace.guard(name))
        present = pipe.execute() if names else []
    return [name for name, found in zip(names, present, strict=True) if found]


def _activate(
    client: Client, keyspace: Keyspace, active: ActivePolicy | None, what: tuple[str, ...]
) -> int:
    expected = active.generation if active else 0
    script = operator_script("activate.lua", keyspace)
    try:
        return int(client.eval(script, 0, expected, *what))
    except ResponseError as error:
        if str(error).startswith("LEASH ACTIVATION_CONFLICT"):
            raise ActivationConflictError(
                "another policy was activated while this one was being loaded",
                help="look at `keyleash status`, then load again",
            ) from None
        raise
