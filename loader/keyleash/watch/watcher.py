"""Watches all servers of a deployment, and reports what changes."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import Self

from redis.exceptions import ConnectionError, TimeoutError

from keyleash.store.connect import address_of, separate_client
from keyleash.store.deployment import Cluster
from keyleash.store.server import Address
from keyleash.store.server_check import Client, operator_client, require_supported
from keyleash.text import counted
from keyleash.watch.cluster import ClusterTopology
from keyleash.watch.events import WatchEvent, WatchEventKind, WatchState
from keyleash.watch.sentinels import Sentinels, node_connector
from keyleash.watch.topology import Topology, WatchedNode


class Watcher:
    """
    Keeps guards loaded on a primary and its replicas, also when they change.

    Each server gets the scripts of its own records, never those of another server.

    Args:
        connect: Returns a client for an address; it need not be connected yet.
        seeds: Servers that are always watched.
        sentinels: Sentinels that list further servers.
        cluster: The cluster of the servers, which lists all of them; None if it is none.
    """

    def __init__(
        self,
        connect: Callable[[Address], Client],
        seeds: Sequence[Address],
        sentinels: Sentinels | None = None,
        cluster: ClusterTopology | None = None,
    ) -> None:
        self._cluster = cluster
        self._topology = cluster or Topology(
            lambda address: WatchedNode(address, connect(address)), seeds, sentinels
        )
        self._sentinels = sentinels
        self._roles: dict[Address, str] = {}
        self._generations: dict[Address, int | None] = {}
        self._drifts: dict[tuple[str, WatchEventKind, str | None], WatchEvent] = {}
        self._watched: set[str] = set()

    @classmethod
    def of(
        cls,
        first: Client,
        nodes: Sequence[Client] = (),
        sentinels: Sequence[Client] = (),
        service: str = "mymaster",
        *,
        must_answer: bool = False,
    ) -> Self:
        """Return a watcher of some servers.

        Args:
            first: A client. Its server is watched if there are neither *nodes* nor *sentinels*;
                URLs of nodes without user and password have its ones.
            nodes: Clients or URLs of servers to begin with.
            sentinels: Clients or URLs of Sentinels that know the servers.
            service: The name of the primary in Sentinel.
            must_answer: Whether to raise the error of the first server if none of *nodes* answers,
                unless there are Sentinels.

        Raises:
            OperationError (bad-url): a URL does not name a server.
            OperationError (unsupported-server): a server is older than the supported versions.
        """
        first = operator_client(first)
        seeds, connect = node_connector(nodes or (() if sentinels else (first,)), first)
        silent: list[Exception] = []
        cluster: ClusterTopology | None = None
        for address in seeds:
            try:
                client = connect(address)
                if require_supported(client, cluster=True) and cluster is None:
                    cluster = ClusterTopology(Cluster(client))
            except (ConnectionError, TimeoutError) as error:
                # The server may come back.
                silent.append(error)
        if must_answer and not sentinels and len(silent) == len(seeds):
            raise silent[0]
        # Sentinels have users of their own, or none.
        known = [(Address(*address_of(item)), separate_client(first, item)) for item in sentinels]
        return cls(connect, seeds, Sentinels(known, service) if known else None, cluster)

    @property
    def drifts(self) -> tuple[WatchEvent, ...]:
        """Return the drifts of the last look."""
        return tuple(self._drifts.values())

    @property
    def is_blind(self) -> bool:
        """Return whether no server answered the last look."""
        return not self._roles

    def look(self) -> Iterator[WatchEvent]:
        """Look at every server once, load missing scripts, and yield new events."""
        self._topology.refresh()
        nodes = list(self._topology.nodes.values())
        self._forget_drifts({str(node.address) for node in nodes})
        yield from self._role_changes(nodes)
        drifts = list(self._sentinels.drifts) if self._sentinels else []
        for node in nodes:
            if node.role is not None:
                node.load_missing()
            if node.loaded:
                message = f"{counted(node.loaded, 'script')} that it lacked"
                yield _done(node.address, WatchEventKind.LOADED, message)
            drifts += node.drifts
            if node.role is None:
                # A silent server resolves nothing.
                drifts += [item for item in self.drifts if item.node == str(node.address)]
        drifts += filter(None, map(self._behind, nodes))
        if self._cluster is None:
            drifts += _several_primaries(nodes)
        else:
            for event in self._cluster.repair():
                if event.state is WatchState.DONE:
                    yield event
                else:
                    drifts.append(event)
        before, self._drifts = self._drifts, {}
        for drift in drifts:
            self._drifts.setdefault(drift.key, drift)
        yield from (item for key, item in self._drifts.items() if key not in before)
        for key, drift in before.items():
            if key not in self._drifts:
                yield replace(drift, state=WatchState.RESOLVED, at=datetime.now(UTC))
        self._generations = {node.address: node.generation for node in nodes}

    def look_again(self, interval_s: float) -> Iterator[WatchEvent]:
        """Look once; if there is drift, look again after *interval_s* seconds.

        A replica may just have been behind its primary.
        """
        yield from self.look()
        if self.drifts:
            time.sleep(interval_s)
            yield from self.look()

    def run(self, interval_s: float) -> Iterator[WatchEvent]:
        """Look every *interval_s* seconds, without end."""
        while True:
            yield from self.look()
            time.sleep(interval_s)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections."""
        self._topology.close()

    def _forget_drifts(self, watched: set[str]) -> None:
        """Drop the drifts of servers that are not watched any more, without resolving them."""
        left = self._watched - watched
        self._drifts = {key: item for key, item in self._drifts.items() if item.node not in left}
        self._watched = watched

    def _role_changes(self, nodes: Sequence[WatchedNode]) -> Iterator[WatchEvent]:
        known = {node.address for node in nodes}
        roles = {node.address: str(node.role) for node in nodes if node.role is not None}
        for address, role in roles.items():
            before = self._roles.get(address)
            if before is None:
                yield _done(address, WatchEventKind.ROLE, f"watching it, a {role}")
            elif before != role:
                yield _done(address, WatchEventKind.ROLE, f"it is a {role} now, and was a {before}")
        for address in self._roles.keys() - known:
            yield _done(address, WatchEventKind.ROLE, "no longer watching it: no server lists it")
        # A silent server keeps its role until it answers.
        silent = {item: role for item, role in self._roles.items() if item in known}
        self._roles = {**silent, **roles} if roles else {}

    def _behind(self, node: WatchedNode) -> WatchEvent | None:
        """Return the drift of a replica with another policy than its primary, or None."""
        if node.role is None or node.role.primary is None or node.generation is None:
            return None
        primary = self._topology.named(node.role.primary)
        if primary is None or primary.generation is None:
            return None
        # The primary's previous policy is accepted: the new one may be in transit.
        if node.generation in (primary.generation, self._generations.get(primary.address)):
            return None
        message = (
            f"it has policy generation {node.generation}, its primary {primary.address} has"
            f" generation {primary.generation}"
        )
        return WatchEvent(str(node.address), WatchEventKind.GENERATION, message)


def _done(address: Address, kind: WatchEventKind, message: str) -> WatchEvent:
    return WatchEvent(str(address), kind, message, state=WatchState.DONE)


def _several_primaries(nodes: Sequence[WatchedNode]) -> Iterator[WatchEvent]:
    primaries = [str(node.address) for node in nodes if node.role and node.role.primary is None]
    if len(primaries) > 1:
        names = ", ".join(sorted(primaries))
        yield WatchEvent(names, WatchEventKind.SEVERAL_PRIMARIES, "each of them accepts writes")
