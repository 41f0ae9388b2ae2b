"""The servers and records that checks examine."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from keyleash.policy import Policy
from keyleash.policy.parse import active_policy
from keyleash.store.deployment import Cluster, Server
from keyleash.store.keyspace import Keyspace
from keyleash.store.records import ActivePolicy
from keyleash.store.store import Store


@dataclass(frozen=True)
class Context:
    """The servers and records that checks examine; the records are those of the first server.

    Attributes:
        servers: The first one named, on a cluster that of the home; then the others.
    """

    servers: tuple[Server, ...]
    keyspace: Keyspace
    active: ActivePolicy | None
    cluster: Cluster | None = None

    @property
    def main(self) -> Server:
        return self.servers[0]

    @property
    def answering(self) -> tuple[Server, ...]:
        return tuple(server for server in self.servers if server.role is not None)

    @cached_property
    def policy(self) -> Policy:
        """The active policy, parsed; without identities if there is none."""
        return Policy(()) if self.active is None else active_policy(self.active.document)

    def store_of(self, server: Server) -> Store:
        """Return the store of a server; on a cluster only the first one has the records."""
        return Store(server.client, self.keyspace, cluster=self.cluster)
