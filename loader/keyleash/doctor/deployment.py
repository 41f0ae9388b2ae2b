"""The deployment that checks examine."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property

from keyleash.fence import FenceRecord
from keyleash.policy import Policy
from keyleash.status.identities import document_policy
from keyleash.store.deployment import Cluster
from keyleash.store.keyspace import PUBLIC_PREFIX, Keyspace
from keyleash.store.prefixes import SealRecord
from keyleash.store.records import ActivePolicy
from keyleash.store.server import Role
from keyleash.store.server_check import Client
from keyleash.store.store import Store


@dataclass(frozen=True)
class Server:
    """
    A server of the deployment.

    Attributes:
        name: Its name in messages.
        role: Its role; None if it did not answer.
    """

    name: str
    client: Client = field(repr=False)
    role: Role | None = None


@dataclass(frozen=True)
class Deployment:
    """
    A deployment, according to its first server.

    Attributes:
        servers: The first one named, then the others.
        seal: The record of the key prefixes.
        active: The active policy; None if there is none.
        fences: The records of the agents' ACL users, by identity; none if they may not be read.
        nodes: The nodes of the cluster; None if it is none.
    """

    servers: tuple[Server, ...]
    seal: SealRecord
    active: ActivePolicy | None
    fences: Mapping[str, FenceRecord]
    nodes: Cluster | None = None

    @property
    def main(self) -> Server:
        return self.servers[0]

    @property
    def keyspace(self) -> Keyspace:
        return self.seal.keyspace

    @property
    def answering(self) -> tuple[Server, ...]:
        return tuple(server for server in self.servers if server.role is not None)

    @cached_property
    def policy(self) -> Policy:
        """The active policy, parsed; without identities if there is none."""
        return Policy(()) if self.active is None else document_policy(self.active.document)

    def store_of(self, server: Server) -> Store:
        """Return the store of a server; on a cluster only the first one has the records."""
        return Store(server.client, self.keyspace, nodes=self.nodes)

    def shown_key(self, name: str) -> str:
        """Return the name of a control key; without its secret prefix on a sealed server."""
        prefix = self.keyspace.prefix
        return name if prefix == PUBLIC_PREFIX else name.replace(prefix, "<control>:")
