"""The objects that the fixtures return: a server with a policy, and clients of agents."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from datetime import timedelta
from functools import cached_property
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import redis

import keyleash
from keyleash.addons.servers import EmbeddedCluster, EmbeddedServer
from keyleash.addons.servers.embedded import HOST
from keyleash.audit.entries import AuditEvent, Denial
from keyleash.commands import CommandTable, load_table
from keyleash.extras import import_with_extra
from keyleash.operator.load.activate import LoadResult, activate_policy
from keyleash.operator.load.compile import prepare_policy
from keyleash.store.deployment import Cluster
from keyleash.store.store import Store

if TYPE_CHECKING:
    from fakeredis import FakeServer

ACTOR = "test"

Admin = TypeVar("Admin", bound="redis.Redis | redis.RedisCluster")
Agent = TypeVar("Agent", bound="redis.Redis | redis.RedisCluster")
AsyncAgent = TypeVar("AsyncAgent")
C = TypeVar("C", keyleash.Redis, keyleash.asyncio.Redis)


class BaseLeash(ABC, Generic[Admin, Agent, AsyncAgent]):
    """A server or a cluster with a policy, for the test of an agent.

    Attributes:
        admin: A plain client, without a guard: to prepare data, and to inspect the changes of an
            agent.

    Args:
        admin: A plain client.
        root: The directory that paths of policies are relative to.
    """

    _table: CommandTable | None = None
    """The server's commands; read from the server if None."""

    def __init__(self, admin: Admin, root: Path) -> None:
        self.admin = admin
        self._root = root
        self._clients: list[redis.Redis | redis.RedisCluster | keyleash.Operator] = [admin]

    def load(self, policy: str | PathLike[str], *, name: str = "<policy>") -> LoadResult:
        """Activate a policy; tokens and counters of limits stay.

        `durability` is ignored, since there are no replicas.

        Args:
            policy: A document or a path: a string of one line that is not JSON is a path.
            name: The name of a document in the locations of its problems.

        Raises:
            PolicyError: With every problem; the previous policy stays active.
            OSError: The file cannot be read.
        """
        document, file = _read(policy, self._root, name)
        store = self._store()
        prepared = prepare_policy(
            store, document, file=file, table=self._table, allow_unvalidated_restore=True
        )
        result = activate_policy(store, prepared, allow_removal=True)
        # Test servers have no replicas, so every write would wait and fail.
        for identity in result.identities:
            store.client.hset(store.keys.guard(identity), "wait_replicas", 0)
        return result

    @cached_property
    def operator(self) -> keyleash.Operator:
        """The operator of the server, for everything that `load` and `token` do not offer."""
        operator = keyleash.Operator(self._node(), actor=ACTOR)
        self._clients.append(operator)
        return operator

    def token(self, identity: str, *, ttl_s: int | None = None) -> str:
        """Issue a token of *identity*, valid for *ttl_s* seconds or the policy's `ttl`."""
        ttl = None if ttl_s is None else timedelta(seconds=ttl_s)
        return self.operator.tokens.issue(identity, ttl=ttl).token

    def client(self, identity: str, *, token: str | None = None, **options: Any) -> Agent:
        """Return a guarded client of *identity*, closed after the test.

        Args:
            identity: The identity that acts.
            token: Its token; a new one if None.
            options: As for redis-py's client.
        """
        client = self._guarded(self.token(identity) if token is None else token, options)
        self._clients.append(client)
        return client

    def async_client(
        self, identity: str, *, token: str | None = None, **options: Any
    ) -> AsyncAgent:
        """Return an asyncio client, like `client`; close it in the test, as with `async with`."""
        # Not closed here: its event loop is closed when the fixture ends.
        return self._async_guarded(self.token(identity) if token is None else token, options)

    def events(self, identity: str) -> list[AuditEvent]:
        """Return the audit events of *identity*, oldest first; on a cluster, of all shards.

        Raises:
            OperationError (unknown-identity): No loaded policy has that identity.
        """
        return list(self.operator.audit.events(identity))

    def denials(self, identity: str) -> list[Denial]:
        """Return the denials of *identity*, oldest first; on a cluster, of all shards.

        Raises:
            OperationError (unknown-identity): No loaded policy has that identity.
        """
        return list(self.operator.audit.denials(identity))

    def close(self) -> None:
        """Close every client that `client` returned."""
        while self._clients:
            self._clients.pop().close()

    @abstractmethod
    def _store(self) -> Store: ...

    @abstractmethod
    def _node(self) -> redis.Redis:
        """Return a plain client of one node, for operators."""

    @abstractmethod
    def _guarded(self, token: str, options: dict[str, Any]) -> Agent: ...

    @abstractmethod
    def _async_guarded(self, token: str, options: dict[str, Any]) -> AsyncAgent: ...


class Leash(BaseLeash[redis.Redis, keyleash.Redis, keyleash.asyncio.Redis]):
    """One server with a policy, for the test of an agent."""

    def _store(self) -> Store:
        return Store(self.admin, actor=ACTOR)

    def _node(self) -> redis.Redis:
        return self.admin


class LeashServer(Leash):
    """A real server.

    Attributes:
        url: For code that creates its own clients.
        port: On 127.0.0.1.
    """

    def __init__(self, server: EmbeddedServer, root: Path) -> None:
        super().__init__(redis.Redis.from_url(server.url), root)
        self.url = server.url
        self.port = server.port

    def _guarded(self, token: str, options: dict[str, Any]) -> keyleash.Redis:
        return keyleash.Redis(port=self.port, token=token, **options)

    def _async_guarded(self, token: str, options: dict[str, Any]) -> keyleash.asyncio.Redis:
        return keyleash.asyncio.Redis(port=self.port, token=token, **options)

    def __repr__(self) -> str:
        return f"<leash_server at {self.url}>"


class LeashCluster(
    BaseLeash[redis.RedisCluster, keyleash.RedisCluster, keyleash.asyncio.RedisCluster]
):
    """A real Redis Cluster of three primaries.

    Attributes:
        url: The URL of a node, for code that creates its own clients.
        port: On 127.0.0.1.
    """

    def __init__(self, cluster: EmbeddedCluster, root: Path) -> None:
        super().__init__(redis.RedisCluster.from_url(cluster.url), root)
        self.url = cluster.url
        self.port = cluster.nodes[0].port
        self._first = redis.Redis.from_url(cluster.url)
        self._clients.append(self._first)

    def _store(self) -> Store:
        return Store.open_cluster(Cluster(self._first), actor=ACTOR)

    def _node(self) -> redis.Redis:
        return self._first

    def _guarded(self, token: str, options: dict[str, Any]) -> keyleash.RedisCluster:
        return keyleash.RedisCluster(HOST, self.port, token=token, **options)

    def _async_guarded(self, token: str, options: dict[str, Any]) -> keyleash.asyncio.RedisCluster:
        return keyleash.asyncio.RedisCluster(HOST, self.port, token=token, **options)

    def __repr__(self) -> str:
        return f"<leash_cluster at {self.url}>"


class FakeLeash(Leash):
    """A fake server in this process; `keyleash.testing` lists its differences from a real one.

    Attributes:
        server: For further clients: `fake_redis(fake_leash.server)`.
    """

    # fakeredis does not report key positions.
    _table = load_table()

    def __init__(self, root: Path) -> None:
        self._fakes = import_with_extra("keyleash.addons.testing.fakes")
        self.server: FakeServer = self._fakes.fake_server()
        super().__init__(self._fakes.fake_redis(self.server), root)

    def _guarded(self, token: str, options: dict[str, Any]) -> keyleash.Redis:
        return self._client(keyleash.Redis, self._fakes.fake_redis, token, **options)

    def _async_guarded(self, token: str, options: dict[str, Any]) -> keyleash.asyncio.Redis:
        return self._client(keyleash.asyncio.Redis, self._fakes.fake_async_redis, token, **options)

    def _client(
        self,
        made: Callable[..., C],
        fake: Callable[..., Any],
        token: str,
        single_connection_client: bool = False,
        **options: Any,
    ) -> C:
        client = made(
            connection_pool=fake(self.server, **options).connection_pool,
            single_connection_client=single_connection_client,
            token=token,
        )
        client.auto_close_connection_pool = True
        return client

    def __repr__(self) -> str:
        return "<fake_leash>"


def _read(policy: str | PathLike[str], root: Path, name: str) -> tuple[str, str]:
    if isinstance(policy, str) and ("\n" in policy or policy.lstrip().startswith("{")):
        return policy, name
    # As on the command line: with or without a byte order mark.
    return (root / policy).read_text("utf-8-sig"), str(policy)
