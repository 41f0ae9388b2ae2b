"""Clusters of real servers, and what operators and failures do to them.

A cluster is started when a test first asks for it, and serves the tests of the session one after
the other. A test gets it clean, with the slots evenly assigned; after a test that added, killed
or halted a node a new one is started.
"""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Iterator, Sequence
from typing import Any

import redis
from redis.crc import key_slot

import keyleash
from keyleash.addons.servers import EmbeddedCluster, EmbeddedServer
from support.replication import PATIENCE_S, Node, wait_until
from support.servers import find_server_binaries

FAILOVER_TIMEOUT_MS = 2000
"""The node timeout of clusters with replicas: a failover takes less than four seconds."""

PATIENCE_MS = int(PATIENCE_S * 1000)
NODE_TIMEOUT_MS = 30_000
"""That of clusters without replicas: a slow node that counts as failed ends the service."""


class ClusterNode(Node):
    """A node of a cluster; `admin` is a client of it alone, which follows no redirection.

    Attributes:
        identifier: Its name in the cluster.
    """

    def __init__(self, process: EmbeddedServer, cluster: RealCluster) -> None:
        super().__init__(process)
        self._cluster = cluster
        self.identifier: str = self.admin.cluster("MYID").decode()

    @property
    def is_primary(self) -> bool:
        return bool(self.admin.info("replication")["role"] == "master")

    @property
    def slots(self) -> set[int]:
        """The slots that it serves, as it says itself."""
        (own,) = (node for node in self.peers() if "myself" in node["flags"])
        return {slot for span in own["slots"] for slot in range(int(span[0]), int(span[-1]) + 1)}

    def peers(self) -> list[dict[str, Any]]:
        """Return the nodes that it knows, itself included, as redis-py reads them."""
        return list(self.admin.cluster("NODES").values())

    def key(self, prefix: str = "key:") -> str:
        """Return a key in one of its slots."""
        slots = self.slots
        names = (f"{prefix}{number}" for number in itertools.count())
        return next(name for name in names if key_slot(name.encode()) in slots)

    def settle(self) -> None:
        """Wait until its replicas have all that was written, on whatever connection."""
        # WAIT looks back to the last write of its own connection.
        self.admin.delete(self.key("settled:"))
        replicas = self.admin.info("replication")["connected_slaves"]
        assert self.admin.wait(replicas, PATIENCE_MS) >= replicas

    def clean(self) -> None:
        """Empty a primary, and with it the data of its replicas; of a replica, all but data."""
        if self.is_primary:
            super().clean()
            self.settle()
            return
        self.admin.script_flush()
        self.admin.acl_log_reset()
        self.admin.config_resetstat()
        for user in self.admin.acl_users():
            if user not in ("default", b"default"):
                self.admin.acl_deluser(user)

    def kill(self) -> None:
        self._cluster.is_changed = True
        super().kill()

    def halt(self) -> None:
        self._cluster.is_changed = True
        super().halt()

    def restart(self) -> None:
        """Start it after `kill`, without data, and wait until it serves in the cluster."""
        self.process.start()
        self.pid = self.process.pid
        wait_until(lambda: self.admin.cluster("INFO")["cluster_state"] == "ok")


class SlotMove:
    """The move of a slot to another node, key by key, in steps that a test chooses."""

    def __init__(self, cluster: RealCluster, slot: int, target: ClusterNode) -> None:
        self.slot = slot
        self.source = cluster.owner(slot)
        self.target = target
        self._others = [
            node for node in cluster.primaries if node not in (self.source, self.target)
        ]

    def begin(self) -> None:
        """Let the source answer ASK for keys that it lacks, and the target take them."""
        self._set(self.target, "IMPORTING", self.source.identifier)
        self._set(self.source, "MIGRATING", self.target.identifier)

    def move(self, *keys: str | bytes) -> None:
        """Move *keys*, of which at least one is at the source."""
        reply = self.source.admin.execute_command(
            "MIGRATE", *self.target.address, "", 0, PATIENCE_MS, "KEYS", *keys
        )
        assert reply == b"OK", reply

    def move_all(self) -> None:
        """Move all keys of the slot, a few at a time."""
        while keys := self.source.admin.cluster("GETKEYSINSLOT", self.slot, 10):
            self.move(*keys)

    def end(self) -> None:
        """Assign the slot to the target, at every primary; the source must have no key of it."""
        for node in (self.target, self.source, *self._others):
            self._set(node, "NODE", self.target.identifier)

    def _set(self, node: ClusterNode, *words: str) -> None:
        node.admin.cluster("SETSLOT", self.slot, *words)


class RealCluster:
    """A running cluster, as a test sees it.

    Attributes:
        label: What its servers are, `embedded-valkey-9.1.2`.
        nodes: Primaries, then their replicas in the same order, then added nodes.
        is_changed: Whether it can serve no further test.
    """

    def __init__(self, label: str, process: EmbeddedCluster) -> None:
        self.label = label
        self.is_changed = False
        self.nodes = [ClusterNode(node, self) for node in process.nodes]
        self._process = process
        self._assigned = {node.identifier: node.slots for node in self.nodes}
        self._clients: list[Any] = []

    @property
    def url(self) -> str:
        """The URL of the first node that runs."""
        return self._process.url

    @property
    def running(self) -> list[ClusterNode]:
        return [node for node in self.nodes if node.process.running]

    @property
    def primaries(self) -> list[ClusterNode]:
        """The running primaries."""
        return [node for node in self.running if node.is_primary]

    @property
    def replicas(self) -> list[ClusterNode]:
        """The running replicas."""
        return [node for node in self.running if not node.is_primary]

    def client(self, **options: Any) -> redis.RedisCluster:
        """Return redis-py's client, closed after the test; options as for `RedisCluster`."""
        client = redis.RedisCluster.from_url(self.url, **options)
        self._clients.append(client)
        return client

    def agent(self, token: str, **options: Any) -> keyleash.RedisCluster:
        """Return a client of an agent, closed after the test."""
        client: Any = keyleash.RedisCluster.from_url(self.url, token=token, **options)
        self._clients.append(client)
        agent: keyleash.RedisCluster = client
        return agent

    def owner(self, place: int | str | bytes) -> ClusterNode:
        """Return the primary that serves a slot, or the slot of a key."""
        if not isinstance(place, int):
            place = key_slot(place.encode() if isinstance(place, str) else place)
        return next(node for node in self.primaries if place in node.slots)

    def other(self, *nodes: ClusterNode) -> ClusterNode:
        """Return the first primary that is none of *nodes*."""
        return next(node for node in self.primaries if node not in nodes)

    def replica_of(self, primary: ClusterNode) -> ClusterNode:
        return next(
            node
            for node in self.replicas
            if node.admin.info("replication")["master_port"] == primary.port
        )

    @contextlib.contextmanager
    def moving(self, slot: int, target: ClusterNode) -> Iterator[SlotMove]:
        """Move a slot key by key; the block runs after the begin, and before the rest."""
        move = SlotMove(self, slot, target)
        move.begin()
        yield move
        move.move_all()
        move.end()

    def move_slot(self, slot: int, target: ClusterNode) -> None:
        """Move a slot key by key, from whichever node has it."""
        with self.moving(slot, target):
            pass

    @property
    def moves_in_one_step(self) -> bool:
        """Return whether the servers have CLUSTER MIGRATESLOTS."""
        return any(b"MIGRATESLOTS" in line for line in self.nodes[0].admin.cluster("HELP"))

    def move_in_one_step(self, slots: Sequence[int], target: ClusterNode) -> None:
        """Move consecutive slots of one node by CLUSTER MIGRATESLOTS."""
        spans = ("SLOTSRANGE", min(slots), max(slots))
        source = self.owner(slots[0])
        source.admin.cluster("MIGRATESLOTS", *spans, "NODE", target.identifier)
        wait_until(lambda: target.slots.issuperset(slots) and not source.slots & set(slots))

    def lose_slot(self, slot: int) -> None:
        """Take a slot from its node, after which the cluster is down."""
        self.is_changed = True
        for node in self.running:
            node.admin.cluster("DELSLOTS", slot)
        ask = [node.admin.cluster for node in self.running]
        wait_until(lambda: all(node("INFO")["cluster_state"] == "fail" for node in ask))

    def add_node(self) -> ClusterNode:
        """Add a primary without slots, and wait until all nodes know it."""
        self.is_changed = True
        self.nodes.append(ClusterNode(self._process.add(), self))
        return self.nodes[-1]

    def wait_until_served(self) -> None:
        """Wait until all running nodes agree that running nodes serve all slots."""
        running = self.running
        identifiers = {node.identifier for node in running}

        def is_served() -> bool:
            return all(
                node.admin.cluster("INFO")["cluster_state"] == "ok"
                and {peer["node_id"] for peer in node.peers() if peer["slots"]} <= identifiers
                for node in running
            )

        wait_until(is_served)

    def clean(self) -> None:
        """Empty all nodes, and give each the slots that it had at first."""
        for node in self.nodes:
            node.clean()
            for peer in node.peers():
                for migration in peer["migrations"]:
                    node.admin.cluster("SETSLOT", migration["slot"], "STABLE")
        for node in self.nodes:
            for slot in self._assigned[node.identifier] - node.slots:
                self.move_slot(slot, node)

    def close_clients(self) -> None:
        while self._clients:
            self._clients.pop().close()
        for node in self.nodes:
            node.close_clients()

    def stop(self) -> None:
        for node in self.nodes:
            node.admin.close()
        self._process.stop()

    def __repr__(self) -> str:
        return f"<cluster of {len(self.nodes)} {self.label} at {self.url}>"


class RealClusters:
    """The session's clusters; each starts at its first use."""

    def __init__(self) -> None:
        self._started: dict[tuple[str, int, int], RealCluster] = {}

    @contextlib.contextmanager
    def lend(self, label: str, primaries: int = 3, replicas: int = 0) -> Iterator[RealCluster]:
        """Give one test a clean cluster, with *replicas* for each primary."""
        kind = label, primaries, replicas
        cluster = self._started.get(kind)
        if cluster is not None and cluster.is_changed:
            cluster.stop()
            cluster = None
        if cluster is None:
            process = EmbeddedCluster(
                primaries,
                replicas,
                binary=find_server_binaries()[label],
                # By default a replica never takes over after 30 s without the votes that it needs,
                # as on a busy machine.
                settings={"cluster-replica-validity-factor": "0"},
                node_timeout_ms=FAILOVER_TIMEOUT_MS if replicas else NODE_TIMEOUT_MS,
            )
            cluster = self._started[kind] = RealCluster(label, process.start())
        else:
            cluster.clean()
        try:
            yield cluster
        finally:
            cluster.close_clients()

    def stop(self) -> None:
        for cluster in self._started.values():
            cluster.stop()
