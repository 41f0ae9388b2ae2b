"""A cluster of Valkey servers in child processes, for tests and development."""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import tempfile
import time
import weakref
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any, Self

import redis

from keyleash.addons.servers.embedded import HOST, EmbeddedServer, free_ports, not_running, retried
from keyleash.errors import OperationError

SLOTS = 16384
PORT_ATTEMPTS = 3
POLL_S = 0.02

SETTINGS = {
    "cluster-enabled": "yes",
    "cluster-allow-replica-migration": "no",
    # A replica's first synchronization would begin five seconds late.
    "repl-diskless-sync-delay": "0",
    # A primary would wait for its replicas, which end at the same time.
    "shutdown-timeout": "0",
}


@dataclass(frozen=True, slots=True)
class _Member:
    """A node of the cluster, as it is described in the files of all nodes."""

    port: int
    bus_port: int
    slots: str = ""
    primary: _Member | None = None
    epoch: int = 0
    identifier: str = field(default_factory=lambda: secrets.token_hex(20))

    def line(self, *, is_self: bool) -> str:
        primary = self.primary or self
        return (
            f"{self.identifier} {HOST}:{self.port}@{self.bus_port}"
            f",,shard-id={primary.identifier}"
            f" {'myself,' if is_self else ''}{'slave' if self.primary else 'master'}"
            f" {primary.identifier if self.primary else '-'}"
            f" 0 0 {primary.epoch} connected {self.slots}\n"
        )


class EmbeddedCluster:
    """A Redis Cluster of embedded servers on 127.0.0.1, for the duration of a `with` block.

    The slots are assigned evenly. The processes end as those of an `EmbeddedServer`, which each
    node is: it can be killed and started again. Only the configuration of the cluster is
    persisted, so a node that is started again has its identifier and no data.

    A start takes two seconds, since a server serves no slots before.

    Attributes:
        nodes: The servers: primaries, then their replicas in the same order, then added ones.
        primaries: The number of primaries that it starts with, at least 1.
        replicas: The number of replicas of each.

    Args:
        port: The port of the first node, followed by those of the others, or None for free ones.
        binary: Another `valkey-server` or `redis-server` to run.
        settings: Further settings of every server.
        node_timeout_ms: The time in milliseconds after which a silent node counts as failed.
        start_timeout_s: The longest wait in seconds for the cluster to serve all slots.
    """

    def __init__(
        self,
        primaries: int = 3,
        replicas: int = 0,
        *,
        port: int | None = None,
        binary: Path | None = None,
        settings: Mapping[str, str] = MappingProxyType({}),
        node_timeout_ms: int = 5000,
        start_timeout_s: float = 30.0,
    ) -> None:
        if not 0 < primaries <= SLOTS:
            raise ValueError(f"primaries must be from 1 to {SLOTS}, not {primaries}")
        if replicas < 0:
            raise ValueError(f"replicas must not be negative, but is {replicas}")
        self.nodes: list[EmbeddedServer] = []
        self.primaries = primaries
        self.replicas = replicas
        self._port = port
        self._binary = binary
        self._settings = {**SETTINGS, "cluster-node-timeout": str(node_timeout_ms), **settings}
        self._start_timeout_s = start_timeout_s
        self._directory = Path()
        self._remove_directory: weakref.finalize[..., EmbeddedCluster] | None = None

    @property
    def url(self) -> str:
        """The URL of the first node that runs.

        Raises:
            OperationError (server-start): None runs.
        """
        for node in self.nodes:
            if node.running:
                return node.url
        raise not_running("cluster")

    @property
    def running(self) -> bool:
        """Return whether any node runs."""
        return any(node.running for node in self.nodes)

    def start(self) -> Self:
        """Start the cluster and return when all nodes serve all slots.

        Raises:
            OperationError (server-start): It did not start; no process is left.
        """
        if self.running:
            raise OperationError("server-start", "the embedded cluster is already running")
        self.stop()
        self._directory = Path(tempfile.mkdtemp(prefix="keyleash-cluster-"))
        self._remove_directory = weakref.finalize(self, _remove, self._directory, os.getpid())
        attempts = 1 if self._port is not None else PORT_ATTEMPTS
        try:
            retried(self._start_members, attempts)
            self._wait_until_complete()
        except BaseException:
            self.stop()
            raise
        return self

    def stop(self) -> None:
        """End every node; does nothing if none runs."""
        self._kill_all()
        if self._remove_directory is not None:
            self._remove_directory()
            self._remove_directory = None

    def add(self) -> EmbeddedServer:
        """Add a primary without slots, and return it when it and all running nodes are ready.

        Raises:
            OperationError (server-start): It did not start, or did not join.
        """
        (ports,) = self._free_ports(1)
        member = _Member(*ports)
        with redis.Redis.from_url(self.url, decode_responses=True) as admin:
            admin.response_callbacks.pop("CLUSTER NODES")
            others = admin.execute_command("CLUSTER NODES").replace("myself,", "")
        added = self._start_node(member, [others, member.line(is_self=True)])
        with self._admins() as admins:
            for admin in admins[:-1]:
                admin.cluster("MEET", HOST, member.port, member.bus_port)
        self._wait_until_complete()
        return added

    def wait(self) -> int:
        """Wait until every node has ended, and return the exit status of the last one in `nodes`.

        A signal handler that raises interrupts the wait, as that of `EmbeddedServer.wait`.
        """
        return [node.wait() for node in self.nodes][-1]

    def __enter__(self) -> Self:
        return self if self.running else self.start()

    def __exit__(self, *error: object) -> None:
        self.stop()

    def _free_ports(self, count: int) -> list[tuple[int, int]]:
        """Return ports and bus ports of the next nodes."""
        # Bus ports are not the default, port + 10,000: it may be taken or above 65,535.
        free = free_ports(2 * count)
        if self._port is not None:
            free[:count] = (self._port + len(self.nodes) + number for number in range(count))
        return list(zip(free[:count], free[count:], strict=True))

    def _start_members(self) -> None:
        self._kill_all()
        members: list[_Member] = []
        for number, ports in enumerate(self._free_ports(self.primaries * (1 + self.replicas))):
            if number < self.primaries:
                first, end = (SLOTS * part // self.primaries for part in (number, number + 1))
                members.append(_Member(*ports, f"{first}-{end - 1}", epoch=number + 1))
            else:
                members.append(_Member(*ports, primary=members[number % self.primaries]))
        for member in members:
            self._start_node(member, (other.line(is_self=other is member) for other in members))

    def _start_node(self, member: _Member, lines: Iterable[str]) -> EmbeddedServer:
        # Outside of the server's own directory, which ends with each run.
        configuration = self._directory / f"{member.port}.conf"
        # With the others in it, since nodes that meet take seconds to learn of all slots.
        configuration.write_text("".join(lines) + "vars currentEpoch 0 lastVoteEpoch 0\n")
        node = EmbeddedServer(
            member.port,
            binary=self._binary,
            settings={
                **self._settings,
                "cluster-port": str(member.bus_port),
                "cluster-config-file": str(configuration),
            },
            start_timeout_s=self._start_timeout_s,
        )
        self.nodes.append(node.start())
        return node

    def _kill_all(self) -> None:
        for node in self.nodes:
            # Faster than a shutdown, which would not write anything either.
            node.kill()
        self.nodes = []

    @contextlib.contextmanager
    def _admins(self) -> Iterator[list[Any]]:
        """Give clients of the running nodes."""
        with contextlib.ExitStack() as stack:
            yield [
                stack.enter_context(redis.Redis(HOST, node.port, decode_responses=True))
                for node in self.nodes
                if node.running
            ]

    def _wait_until_complete(self) -> None:
        deadline_s = time.monotonic() + self._start_timeout_s
        with self._admins() as admins:
            while not all(_is_complete(admin, len(admins)) for admin in admins):
                if time.monotonic() > deadline_s:
                    raise OperationError(
                        "server-start",
                        f"the cluster did not serve all slots within {self._start_timeout_s:g} s",
                    )
                time.sleep(POLL_S)


def _is_complete(admin: Any, count: int) -> bool:
    """Return whether a node serves, and knows *count* nodes; as a replica, is up to date."""
    info = admin.cluster("INFO")
    if info["cluster_state"] != "ok" or int(info["cluster_known_nodes"]) < count:
        return False
    replication = admin.info("replication")
    return bool(replication.get("master_link_status", "up") == "up")


def _remove(directory: Path, owner_pid: int) -> None:
    # A forked child inherits the object, and must not remove its parent's directory.
    if os.getpid() == owner_pid:
        shutil.rmtree(directory, ignore_errors=True)
