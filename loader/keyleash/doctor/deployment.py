"""The deployment that checks examine."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property

from keyleash.policy import Policy
from keyleash.status.identities import document_policy
from keyleash.store.prefixes import SealRecord
from keyleash.store.records import ActivePolicy, Client
from keyleash.watch.roles import Role


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
    """

    servers: tuple[Server, ...]
    seal: SealRecord
    active: ActivePolicy | None

    @property
    def main(self) -> Server:
        return self.servers[0]

    @property
    def answering(self) -> tuple[Server, ...]:
        return tuple(server for server in self.servers if server.role is not None)

    @cached_property
    def policy(self) -> Policy | None:
        """The active policy, parsed."""
        return None if self.active is None else document_policy(self.active.document)
