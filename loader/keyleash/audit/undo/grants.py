"""Whether the active policy lets an identity change a key."""

from __future__ import annotations

from dataclasses import dataclass

from keyleash.commands import OperationClass
from keyleash.policy import Policy, parse_policy
from keyleash.policy.patterns import match
from keyleash.protocol.active import Client, read_active
from keyleash.protocol.keyspace import Keyspace

_CHANGES = frozenset({OperationClass.WRITE, OperationClass.DELETE})


@dataclass(frozen=True, slots=True)
class ActiveGrants:
    """
    The grants of the active policy.

    Attributes:
        since_ms: Since when it has been active, Unix milliseconds; None if there is none.
    """

    policy: Policy | None
    since_ms: int | None

    def may_change(self, name: str, key: bytes) -> bool:
        """Whether some grant of identity *name* allows to write or delete *key*."""
        identity = self.policy.identity(name) if self.policy else None
        if identity is None:
            return False
        denied = (pattern for rule in identity.deny for pattern in rule.keys)
        granted = (
            pattern
            for grant in identity.grants
            if not _CHANGES.isdisjoint(grant.allow)
            for pattern in grant.keys
        )
        return any(match(one, key) is not None for one in granted) and not any(
            match(one, key) is not None for one in denied
        )


def active_grants(client: Client, keyspace: Keyspace) -> ActiveGrants:
    """Read the active policy."""
    active = read_active(client, keyspace)
    if active is None:
        return ActiveGrants(None, None)
    policy = parse_policy(active.document, file="<active policy>", commands=None)
    return ActiveGrants(policy, active.activated_ms)
