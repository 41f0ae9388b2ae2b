"""The servers whose ACL users change, and which of these users keyleash made."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from keyleash.errors import ForeignUserError
from keyleash.fence.acl import User, read_users
from keyleash.fence.rules import ServerFacts, read_server_facts, record_rule, selected_by
from keyleash.results import Result
from keyleash.store.connect import connect_nodes, server_name
from keyleash.store.deployment import Server
from keyleash.store.fences import FenceRecord, read_records
from keyleash.store.keyspace import HOME_TAG
from keyleash.store.records import database_of
from keyleash.store.server_check import Client
from keyleash.store.store import Store


def servers_with_users(store: Store, others: Sequence[Client] = ()) -> list[Server]:
    """Return the servers that have ACL users: that of the store first, then all nodes of a cluster.

    Raises:
        OperationError (server-unreachable): A node of the cluster does not answer.
    """
    clients = [store.client]
    if store.cluster is not None:
        home = store.cluster.find(HOME_TAG)
        nodes = [node.server.client for node in store.cluster.nodes if node != home]
        clients += connect_nodes(store.client, nodes)
    return [Server(server_name(client), client) for client in (*clients, *others)]


@dataclass(frozen=True, slots=True)
class FencedUser(Result):
    """An ACL user: the name of its server, and that of its identity."""

    server: str
    identity: str


@dataclass(frozen=True)
class FencedServers:
    """The servers of a deployment, and the records of their ACL users.

    Attributes:
        store: The server with the control keys.
        nodes: All servers; the first is that of the store.
        records: The records of the users that keyleash made, by identity.
    """

    store: Store
    nodes: Sequence[Server]
    records: Mapping[str, FenceRecord]

    @classmethod
    def read(cls, store: Store, nodes: Sequence[Server]) -> FencedServers:
        """Read the records of the users."""
        return cls(store, nodes, read_records(store))

    @cached_property
    def database(self) -> int:
        """The number of the database with the control keys."""
        return database_of(self.store.client)

    @cached_property
    def facts(self) -> ServerFacts:
        """The properties that all servers share."""
        return read_server_facts([node.client for node in self.nodes])

    def users_of(
        self, node: Server, identities: Sequence[str]
    ) -> tuple[dict[str, User], dict[str, str]]:
        """Return the users of identities on a server, and why others of these names are foreign."""
        own, foreign = {}, {}
        for name, user in read_users(node.client, identities).items():
            why = self._why_foreign(user, name)
            if why is None:
                own[name] = user
            else:
                foreign[name] = why
        return own, foreign

    def _why_foreign(self, user: User, identity: str) -> str | None:
        """Return why a user does not belong to an identity of this policy; None if it does.

        Only users made by keyleash may read a guard record, and the rule for SELECT names the
        database of the policy: all databases of a server share its users. A user whose rules were
        changed by others still has a password of the record.
        """
        record = self.records.get(identity)
        selected = selected_by(user.rules.root)
        if record_rule(self.store.keys.guard(identity)) in user.rules.root.keys:
            if selected == self.database:
                return None
            if selected is not None and not user.is_open:
                return f"it belongs to the policy in database {selected}"
        if record is not None and not set(record.hashes).isdisjoint(user.passwords):
            return None
        return "it was not made by keyleash"


def require_none_foreign(users: Mapping[tuple[str, str], str]) -> None:
    """Raise a `ForeignUserError` for foreign users: reasons by (server, identity)."""
    by_reason: dict[tuple[str, str], list[str]] = {}
    for (server, identity), why in users.items():
        by_reason.setdefault((server, why), []).append(f"`{identity}`")
    if by_reason:
        foreign = [
            f"{', '.join(names)} of {server}: {why}" for (server, why), names in by_reason.items()
        ]
        raise ForeignUserError(
            f"not a user of this policy: {'; '.join(foreign)}",
            help="all databases of a server share its ACL users: rename the identity or the user,"
            " or delete the user with `ACL DELUSER NAME`",
        )
