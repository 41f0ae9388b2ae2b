"""A snapshot of a server."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from keyleash.status.identities import IdentityStatus, identity_statuses
from keyleash.store.identities import server_time_ms
from keyleash.store.prefixes import server_keyspace
from keyleash.store.records import ActivePolicy, Client, read_active
from keyleash.store.server_check import operator_client


@dataclass(frozen=True, slots=True)
class Snapshot:
    """
    A server and its identities at one moment.

    Attributes:
        now_ms: Server time, Unix milliseconds.
        is_sealed: Whether its keys are in a vault.
        active: The active policy, if any.
        identities: The identities of that policy, in its order.
    """

    now_ms: int
    is_sealed: bool
    active: ActivePolicy | None
    identities: tuple[IdentityStatus, ...] = ()

    @property
    def tiers(self) -> Counter[str]:
        """The number of identities of each tier."""
        return Counter(identity.tier for identity in self.identities)


def read_snapshot(client: Client) -> Snapshot:
    """
    Read the snapshot of a server; nothing is written.

    Args:
        client: A client whose user may read the control keys.

    Raises:
        OperationError (vault-changing): Keys are being moved.
        redis.RedisError: The server cannot be read.
    """
    client = operator_client(client)
    # Read again each time: the prefixes may change while a process watches.
    keyspace = server_keyspace(client)
    now_ms = server_time_ms(client)
    active = read_active(client, keyspace)
    found = () if active is None else tuple(identity_statuses(client, keyspace, active, now_ms))
    return Snapshot(now_ms, bool(keyspace.vault), active, found)
