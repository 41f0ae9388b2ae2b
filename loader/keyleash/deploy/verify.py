"""After an activation: whether the server has what it was given."""

from __future__ import annotations

from collections.abc import Iterator

from keyleash.deploy.prepare import PreparedPolicy
from keyleash.deploy.standing import batches, read_standings
from keyleash.errors import ActivationConflictError, NotVerifiedError
from keyleash.protocol.active import Client, read_active
from keyleash.protocol.keyspace import Keyspace
from keyleash.protocol.operator_client import operator_client
from keyleash.protocol.transport import Transport, function_name


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
        ActivationConflictError: another policy was activated since.
        NotVerifiedError: something is not there, or is not what was activated; it names what.
    """
    client = operator_client(client)
    active = read_active(client, keyspace)
    if active is not None and active.generation > generation:
        raise ActivationConflictError(
            f"generation {generation} was activated, and then another policy by `{active.actor}`",
            help="look at `keyleash policy history`",
        )
    findings: list[str] = []
    if active is None or (active.generation, active.digest) != (generation, prepared.digest):
        findings.append("the record of the active policy")
    findings += _wrong_guards(client, prepared, keyspace, transport, generation)
    findings += _missing_scripts(client, prepared, transport)
    if findings:
        raise NotVerifiedError(generation, findings)


def _wrong_guards(
    client: Client,
    prepared: PreparedPolicy,
    keyspace: Keyspace,
    transport: Transport,
    generation: int,
) -> Iterator[str]:
    names = [guard.identity for guard in prepared.guards]
    standings = read_standings(client, keyspace, names)
    for guard in prepared.guards:
        found = standings[guard.identity]
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
            there = [bool(one) for one in client.script_exists(*(one for _, one in wanted))]
        missing = {name for (name, _), is_there in zip(wanted, there, strict=True) if not is_there}
        yield from (f"the scripts of `{name}`" for name in sorted(missing))
