"""The identities of a server: the active ones, and all that ever were."""

from __future__ import annotations

from collections.abc import Iterable

from keyleash.errors import OperationError, no_policy
from keyleash.policy.problems import which_identity
from keyleash.store.keyspace import Keyspace
from keyleash.store.records import ActivePolicy, Client, GuardRecord, guard_record, read_active


def known_identities(client: Client, keyspace: Keyspace) -> list[str]:
    """Return the names of all identities that were ever active, sorted."""
    return sorted(name.decode() for name in client.hkeys(keyspace.layouts))


def require_known(client: Client, keyspace: Keyspace, name: str | None) -> list[str]:
    """Return the identity *name*, or all known ones if it is None.

    Raises:
        OperationError (no-policy): no policy was ever loaded.
        OperationError (unknown-identity): none has that name. An identity that left the
            policy still has its tokens and its audit stream.
    """
    known = known_identities(client, keyspace)
    if not known:
        raise no_policy()
    if name is None:
        return known
    if name not in known:
        raise OperationError(
            "unknown-identity",
            f"there is no identity `{name}`",
            help=which_identity(name, known, "there are"),
        )
    return [name]


def require_active(client: Client, keyspace: Keyspace) -> ActivePolicy:
    """Return the active policy.

    Raises:
        OperationError (no-policy): No policy is active.
    """
    active = read_active(client, keyspace)
    if active is None:
        raise no_policy()
    return active


def active_records(
    client: Client, keyspace: Keyspace, names: Iterable[str]
) -> dict[str, GuardRecord]:
    """Return the guard records of those of *names* that are active."""
    wanted = list(names)
    with client.pipeline(transaction=False) as pipe:
        for name in wanted:
            pipe.hgetall(keyspace.guard(name))
        raw = pipe.execute() if wanted else []
    records = {name: guard_record(item) for name, item in zip(wanted, raw, strict=True)}
    return {name: record for name, record in records.items() if record is not None}


def server_time_us(client: Client) -> int:
    """Return the server's clock, Unix microseconds."""
    seconds, micros = client.time()
    return int(seconds) * 1_000_000 + int(micros)


def server_time_ms(client: Client) -> int:
    """Return the server's clock, Unix milliseconds."""
    return server_time_us(client) // 1000
