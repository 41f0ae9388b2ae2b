"""The token rules of the active policy."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from keyleash.errors import KeyleashError, NoPolicyError, UnknownIdentityError
from keyleash.policy import TokenRules, parse_policy
from keyleash.policy.problems import which_identity
from keyleash.protocol.active import Client, guard_record, read_active
from keyleash.protocol.keyspace import Keyspace


def active_rules(
    client: Client, keyspace: Keyspace, identities: Sequence[str]
) -> Mapping[str, TokenRules]:
    """Return the token rules of those *identities* that have a guard record, by name."""
    with client.pipeline(transaction=False) as pipe:
        for name in identities:
            pipe.hgetall(keyspace.guard(name))
        records = zip(identities, map(guard_record, pipe.execute()), strict=True)
    return {
        name: TokenRules(
            ttl_s=record.ttl_s,
            max_ttl_s=record.max_ttl_s,
            rotate_after_s=record.rotate_after_s or None,
            idle_s=record.idle_s or None,
        )
        for name, record in records
        if record is not None
    }


def not_active(client: Client, keyspace: Keyspace, identity: str) -> KeyleashError:
    """Return the error for an identity whose guard record has no token rules."""
    active = read_active(client, keyspace)
    if active is None:
        return NoPolicyError("no policy is active", help="load one with `keyleash load FILE`")
    policy = parse_policy(active.document, file="<active policy>", commands=None)
    names = [one.name for one in policy.identities]
    if identity in names:
        return NoPolicyError(
            f"the guard record of `{identity}` is missing or damaged",
            help="load the active policy again",
        )
    return UnknownIdentityError(
        f"the active policy has no identity `{identity}`", help=which_identity(identity, names)
    )
