"""A cluster in the place of a server, for tests that were written for one server.

KEYLEASH_CLUSTER=1 or 3 is the number of its nodes; KEYLEASH_LEASE=1 or 100 the units of each grant.
"""

from __future__ import annotations

import contextlib
import functools
import os
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import redis

import keyleash
from keyleash.commands import CommandTable
from keyleash.compiler import leases
from keyleash.store.deployment import Cluster
from keyleash.store.keyspace import HOME_TAG, Keyspace
from keyleash.store.leases import MASTER_KEY_BYTES
from keyleash.store.placement import control_tag, key_slot
from keyleash.store.records import GuardRecord, guard_record
from keyleash.store.store import Store
from keyleash.store.wire import BatchMode, to_shard
from support.clusters import ClusterNode, RealCluster
from support.servers import RealServer, RealServers, embedded_label, find_server_binaries

NODES = int(os.environ.get("KEYLEASH_CLUSTER", "0"))
"""The number of nodes; 0 for one server."""
LEASE = int(os.environ.get("KEYLEASH_LEASE", "0"))
"""The units of a grant; 0 for as many as the home finds right."""

LABELS = [embedded_label()] if NODES else list(find_server_binaries())
"""The servers, by label, of tests that run on one server or on a cluster in its place."""

NEEDED = "LEASH LEASE_NEEDED request="
STALE = "LEASH LEASE_REFUSED reason=stale"
MASTER_KEY = bytes(range(MASTER_KEY_BYTES))
"""The same for all tests, so that guards are compiled once."""


def grant_units(amount: int) -> None:
    """Compile guards whose home grants *amount* units at once, as far as the limit has them.

    The rest of a limit is shared by the shards as ever.
    """
    always: Any = leases._CONSTANTS
    shares = 1e-9 if amount > 1 else 1e9
    always.update(first_amount=amount, growth=1, budget_shares=shares, rate_shares=shares)


class Admin(redis.RedisCluster):
    """A plain client, with the replies of one server where redis-py replies for each node."""

    home: Any
    nodes: Sequence[Any]

    def keys(self, *arguments: Any, **options: Any) -> Any:
        """Return the keys of all nodes."""
        return [key for node in self.nodes for key in node.keys(*arguments, **options)]

    def time(self, **_: Any) -> Any:
        """Return the clock of the home."""
        return self.home.time()

    def info(self, section: str | None = None, *_: Any, **__: Any) -> Any:
        """Return the facts of the home; of commands the number of calls at all nodes."""
        if section != "commandstats":
            return self.home.info(section)
        found: Any = {}
        for node in self.nodes:
            for name, stats in node.info(section).items():
                found.setdefault(name, {"calls": 0})["calls"] += stats["calls"]
        return found


def _at_all_nodes(name: str) -> Any:
    """Return a method that has its effect at all nodes, and the reply of the first."""

    def method(self: Admin, *arguments: Any, **options: Any) -> Any:
        replies = [getattr(node, name)(*arguments, **options) for node in self.nodes]
        return replies[0]

    return method


for _name in ("script_load", "config_set", "config_resetstat", "acl_setuser", "bgrewriteaof"):
    setattr(Admin, _name, _at_all_nodes(_name))


class ClusterServer:
    """A cluster, as a test sees a server: `support.servers.RealServer`."""

    def __init__(self, cluster: RealCluster) -> None:
        self.cluster = cluster
        self.label = cluster.label
        self.nodes = cluster.primaries
        self.slots = {node.port: node.slots for node in self.nodes}
        self.url = self.nodes[0].url
        self.port = self.nodes[0].port
        home = self.node_of(HOME_TAG)
        self.pid = home.pid
        self.home = home.admin
        self._nodes = Cluster(self.nodes[0].admin)
        known = {"home": self.home, "nodes": [node.admin for node in self.nodes]}
        kind: Any = type("AdminHere", (Admin,), known)
        self._admin = kind.from_url(self.url)
        self._leases: dict[str, tuple[str, str]] = {}

    @functools.cached_property
    def table(self) -> CommandTable:
        """Its commands."""
        return self.nodes[0].table

    def node_of(self, key: Any) -> ClusterNode:
        """Return the node that serves a key."""
        slot = key_slot(_bytes(key))
        return next(node for node in self.nodes if slot in self.slots[node.port])

    def tag_of(self, node: ClusterNode) -> str:
        """Return the tag of a node's shard."""
        tag = control_tag([(slot, slot) for slot in sorted(self.slots[node.port])])
        assert tag is not None
        return tag

    def client(self, **options: Any) -> Any:
        """Return redis-py's client; options as for `redis.RedisCluster`."""
        # It reads all commands when it is made.
        return self.cluster.client(**options) if options else self._admin

    def clean(self) -> None:
        """Empty all nodes; no test moves their slots."""
        for node in self.nodes:
            node.clean()
        self.home.set(Keyspace().at_home().mac_key, MASTER_KEY)
        self._leases.clear()

    def store(self, actor: str, **options: Any) -> Store:
        """Return the store of an operator; options as for `redis.Redis`."""
        nodes = Cluster(self.nodes[0].client(**options)) if options else self._nodes
        return Store.open_cluster(nodes, actor=actor)

    def guarded(self, token: str, **options: Any) -> Any:
        """Return a client of an agent."""
        return keyleash.RedisCluster(host="127.0.0.1", port=self.port, token=token, **options)

    def call_guard(self, identity: str, call: Sequence[Any], **options: Any) -> Any:
        """Make a call of a guard at the node of its first key, and fetch leases for it."""
        count = int(call[2])
        if not count and [*call[5:6]] == [BatchMode.RENEW]:
            return self._renew(identity, call)
        # Any node serves a call without a key.
        node = self.node_of(call[3]) if count else self.node_of(HOME_TAG)
        client = node.client(**options) if options else node.admin
        voucher = ""
        for _ in range(20):
            try:
                return client.execute_command(*to_shard(call, self.tag_of(node), voucher))
            except redis.ResponseError as error:
                if not str(error).startswith(NEEDED):
                    raise
                lease = self._lease_of(identity, str(call[1]))
                request = str(error).removeprefix(NEEDED)
                voucher = self._fetch(identity, lease, request, call[3 + count :])
        raise redis.ResponseError(NEEDED)

    def _renew(self, identity: str, call: Sequence[Any]) -> Any:
        """Make a call in mode `renew` at the home, as clients do; return what they report."""
        lease = self._lease_of(identity, str(call[1]))
        name = Keyspace().at_home().guard(identity)
        return self.home.execute_command(*lease, 1, name, *call[3:])

    def call_denied(self, identity: str, calls: Iterable[Sequence[Any]]) -> None:
        """Make many calls of a guard, and ignore the replies."""
        for call in calls:
            with contextlib.suppress(redis.ResponseError):
                self.call_guard(identity, call)

    def learn(self, record: GuardRecord) -> None:
        """Note which script of the home belongs to the scripts of a record."""
        lease = ("EVALSHA", record.lease)
        self._leases |= {record.digest: lease, record.batch_digest: lease}

    def _lease_of(self, identity: str, digest: str) -> tuple[str, str]:
        """Return the call of the home's script that is for a guard, also for an earlier one."""
        if digest not in self._leases:
            record = guard_record(self.home.hgetall(Keyspace().at_home().guard(identity)))
            assert record is not None
            self.learn(record)
            self._leases.setdefault(digest, ("EVALSHA", record.lease))
        return self._leases[digest]

    def _fetch(
        self, identity: str, lease: tuple[str, str], request: str, words: Sequence[Any]
    ) -> str:
        """Return the voucher for a request; empty if it is outdated."""
        token, correlation, *command = words
        name = Keyspace().at_home().guard(identity)
        try:
            voucher: bytes = self.home.execute_command(
                *(*lease, 1, name, token, correlation, request, *(command[:1] or [""]), "")
            )
        except redis.ResponseError as error:
            if str(error) != STALE:
                raise
            return ""
        return voucher.decode()


@contextlib.contextmanager
def lend_server(
    label: str, servers: RealServers, cluster: ClusterServer | None
) -> Iterator[RealServer | ClusterServer]:
    """Give one test a clean server, or *cluster* in its place."""
    if cluster is not None:
        cluster.clean()
        yield cluster
        return
    with servers.lend(label) as server:
        yield server


def _bytes(key: Any) -> bytes:
    return key if isinstance(key, bytes) else str(key).encode()
