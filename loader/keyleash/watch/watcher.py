"""Watches all servers of a deployment, and reports what changes."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from functools import cache
from typing import Self

from redis.exceptions import ConnectionError, TimeoutError

from keyleash.store.deployment import Cluster, Deployment, Replication, Server
from keyleash.store.server_check import Client, operator_client, require_supported
from keyleash.text import counted
from keyleash.watch.cluster import ClusterRepair
from keyleash.watch.events import WatchEvent, WatchEventKind, WatchState, done
from keyleash.watch.scripts import WatchedServer


class Watcher:
    """Keeps guards loaded on a primary and its replicas, also when they change.

    Each server gets the scripts of its own records, never those of another server.
    `Operator.watcher` documents the arguments; *first* is the client of its server.
    """

    def __init__(
        self,
        first: Client,
        nodes: Sequence[Client] = (),
        sentinels: Sequence[Client] = (),
        service: str = "mymaster",
        *,
        must_answer: bool = False,
    ) -> None:
        first = operator_client(first)
        seeds = nodes or (() if sentinels else (first,))
        found = Replication(first, seeds, sentinels, service)
        self._deployment: Deployment = found
        self._repair: ClusterRepair | None = None
        silent: list[Exception] = []
        for server in found.seeds.values():
            try:
                if require_supported(server.client, cluster=True) and self._repair is None:
                    self._deployment = cluster = Cluster(server.quick)
                    self._repair = ClusterRepair(cluster)
            except (ConnectionError, TimeoutError) as error:
                # The server may come back.
                silent.append(error)
        if must_answer and not sentinels and len(silent) == len(found.seeds):
            raise silent[0]
        self._watched: dict[Server, WatchedServer] = {}
        self._roles: dict[str, str] = {}
        self._generations: dict[Server, int | None] = {}
        self._drifts: dict[tuple[str, WatchEventKind, str | None], WatchEvent] = {}

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
        self._deployment.look()
        self._watch(self._deployment.servers)
        yield from self._role_changes()
        home = None if self._repair is None else cache(self._repair.open_home)
        drifts = [
            WatchEvent(name, WatchEventKind.UNREACHABLE, f"the Sentinel does not answer: {error}")
            for name, error in self._deployment.sentinel_errors.items()
        ]
        for server, watched in self._watched.items():
            watched.look(home)
            if watched.loaded:
                message = f"{counted(watched.loaded, 'script')} that it lacked"
                yield done(server.name, WatchEventKind.LOADED, message)
            drifts += watched.drifts
            if server.role is None:
                # A silent server resolves nothing.
                drifts += [item for item in self.drifts if item.node == server.name]
        drifts += filter(None, map(self._behind, self._watched))
        if self._repair is None or home is None:
            drifts += _several_primaries(self._watched)
        else:
            for event in self._repair.repair(home):
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
        self._generations = {server: item.generation for server, item in self._watched.items()}

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
        self._deployment.close()

    def _watch(self, servers: Sequence[Server]) -> None:
        """Drop the drifts of servers that are not watched any more, without resolving them."""
        watched = {item: self._watched.get(item) or WatchedServer(item) for item in servers}
        left = {server.name for server in self._watched.keys() - watched}
        self._drifts = {key: item for key, item in self._drifts.items() if item.node not in left}
        self._watched = watched

    def _role_changes(self) -> Iterator[WatchEvent]:
        names = {server.name for server in self._watched}
        roles = {item.name: str(item.role) for item in self._watched if item.role is not None}
        for name, role in roles.items():
            before = self._roles.get(name)
            if before is None:
                yield done(name, WatchEventKind.ROLE, f"watching it, a {role}")
            elif before != role:
                yield done(name, WatchEventKind.ROLE, f"it is a {role} now, and was a {before}")
        for name in self._roles.keys() - names:
            yield done(name, WatchEventKind.ROLE, "no longer watching it: no server lists it")
        # A silent server keeps its role until it answers.
        silent = {name: role for name, role in self._roles.items() if name in names}
        self._roles = {**silent, **roles} if roles else {}

    def _behind(self, server: Server) -> WatchEvent | None:
        """Return the drift of a replica with another policy than its primary, or None."""
        generation = self._watched[server].generation
        if server.role is None or server.role.primary is None or generation is None:
            return None
        primary = self._deployment.named(server.role.primary)
        watched = self._watched.get(primary) if primary else None
        if primary is None or watched is None or watched.generation is None:
            return None
        # The primary's previous policy is accepted: the new one may be in transit.
        if generation in (watched.generation, self._generations.get(primary)):
            return None
        message = (
            f"it has policy generation {generation}, its primary {primary.name} has"
            f" generation {watched.generation}"
        )
        return WatchEvent(server.name, WatchEventKind.GENERATION, message)


def _several_primaries(servers: Iterable[Server]) -> Iterator[WatchEvent]:
    primaries = [item.name for item in servers if item.role and item.role.primary is None]
    if len(primaries) > 1:
        names = ", ".join(sorted(primaries))
        yield WatchEvent(names, WatchEventKind.SEVERAL_PRIMARIES, "each of them accepts writes")
