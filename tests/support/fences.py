"""A leash whose agents have ACL users of their own."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import redis

import keyleash
from keyleash.fence.apply import FenceOutcome, apply_fences
from keyleash.fence.desired import desired_users, with_first_passwords
from keyleash.fence.servers import FencedServers
from keyleash.operator.load.compile import prepare_policy
from keyleash.store.deployment import Server
from keyleash.store.records import read_active
from support.clustered import ClusterServer
from support.leash import Leash


@dataclass
class FencedLeash(Leash):
    """
    An operator's hands on a server, and agents' clients that log in as users of their own.

    Attributes:
        passwords: By identity.
    """

    passwords: dict[str, str] = field(default_factory=dict)

    def fence(self, *others: redis.Redis, wide: tuple[str, ...] = ()) -> FenceOutcome:
        """Make the users of the active policy, as `keyleash fence apply --mint` does."""
        active = read_active(self.store)
        assert active is not None
        servers = self.fenced_servers(*others)
        guards = prepare_policy(self.store, active.document, allow_unvalidated_restore=True).guards
        users, generated = with_first_passwords(
            servers, desired_users(servers, guards), {}, wide=wide, generate=True
        )
        self.passwords.update((item.identity, item.password) for item in generated)
        return apply_fences(servers, users, wide=wide)

    def fenced_servers(self, *others: redis.Redis) -> FencedServers:
        """Return the server and others, with the records of users."""
        if isinstance(self.server, ClusterServer):
            nodes = [Server(str(node.port), node.admin) for node in self.server.nodes]
        else:
            nodes = [Server("one", self.admin)]
        nodes += [Server("other", client) for client in others]
        return FencedServers.read(self.store, nodes)

    def credentials(self, identity: str) -> dict[str, str]:
        return {"username": identity, "password": self.passwords[identity]}

    def agent(self, identity: str, **options: Any) -> keyleash.Redis:
        """A guarded client with a token and, if it has one, a user of its own."""
        if identity in self.passwords:
            options = {**self.credentials(identity), **options}
        return super().agent(identity, **options)

    def direct(self, identity: str, **options: Any) -> redis.Redis:
        """A bare connection with the agent's own user; on a cluster to the node of `{d}`."""
        is_cluster = isinstance(self.server, ClusterServer)
        node = self.server.node_of("{d}") if is_cluster else self.server
        client: redis.Redis = node.client(**self.credentials(identity), **options)
        return client
