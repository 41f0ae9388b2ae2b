"""From a compiled policy to the users that its identities are to have."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from keyleash.compiler import CompiledGuard
from keyleash.errors import KeyleashError
from keyleash.fence.facts import Facts
from keyleash.fence.plan import Wanted
from keyleash.fence.record import Password, Record, tier_of
from keyleash.fence.rules import fence_of, record_calls
from keyleash.protocol.active import Client, GuardRecord, guard_record
from keyleash.protocol.keyspace import Keyspace
from keyleash.protocol.operator_client import operator_client


class NotActivePolicyError(KeyleashError):
    """The policy is not the one that is active, so its users could call no guard."""

    code = "not-active-policy"


def wanted_users(
    client: Client,
    keyspace: Keyspace,
    guards: Sequence[CompiledGuard],
    facts: Facts,
    records: Mapping[str, Record],
) -> list[Wanted]:
    """
    The user of each identity of the active policy, with the passwords that it has.

    Args:
        client: An operator's, of the server that has the control keys.
        keyspace: Where these are.
        guards: Compiled for that server.
        facts: Of all servers.
        records: What is known of the users.

    Raises:
        NotActivePolicyError: Some guard is of other rules than the active one.
        UnsayablePatternError: ACL rules cannot hold a pattern.
    """
    client = operator_client(client)
    active = _active(client, keyspace, guards)
    tier = tier_of(keyspace)
    return [
        Wanted(
            fence_of(guard, record_calls(record), facts),
            Record(tier, records[guard.identity].passwords if guard.identity in records else ()),
        )
        for guard, record in zip(guards, active, strict=True)
    ]


def with_passwords(
    wanted: Sequence[Wanted], hashes: Mapping[str, str], now_ms: int
) -> list[Wanted]:
    """The same users, those in *hashes* with that password, as its SHA-256 in hex."""
    return [
        Wanted(one.fence, Record(one.record.tier, (Password(hashes[name], now_ms),)))
        if (name := one.fence.identity) in hashes
        else one
        for one in wanted
    ]


def _active(
    client: Client, keyspace: Keyspace, guards: Sequence[CompiledGuard]
) -> list[GuardRecord]:
    with client.pipeline(transaction=False) as pipe:
        for guard in guards:
            pipe.hgetall(keyspace.guard(guard.identity))
        raw = pipe.execute() if guards else []
    records = [guard_record(one) for one in raw]
    for guard, record in zip(guards, records, strict=True):
        if record is None or record.policy_digest != guard.policy_digest:
            raise NotActivePolicyError(
                f"the policy is not the active one: `{guard.identity}` has other rules there",
                help="load it first with `keyleash load FILE`",
            )
    return [record for record in records if record is not None]
