"""Whose events are kept until they are exported, by the active policy."""

from __future__ import annotations

from functools import lru_cache

from keyleash.policy.parse import parse_policy
from keyleash.protocol.active import Client, read_active
from keyleash.protocol.keyspace import Keyspace


def kept_until_exported(client: Client, keyspace: Keyspace) -> dict[str, int]:
    """
    The identities with `retain: {until: exported, hard_max: N}`.

    Returns:
        Identity → its `hard_max`. Their guards trim nothing, so that the archiver has to.
    """
    active = read_active(client, keyspace)
    return {} if active is None else _kept(active.document)


@lru_cache(maxsize=1)
def _kept(document: str) -> dict[str, int]:
    # It was checked when it was loaded, by a program that may know other commands.
    policy = parse_policy(document, file="the active policy", commands=None)
    return {
        one.name: one.audit.hard_max for one in policy.identities if one.audit.hard_max is not None
    }
