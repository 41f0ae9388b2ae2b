"""All servers of a deployment: looked at, and told about where something changes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from keyleash.store.records import Client
from keyleash.watch.events import Drift, WatchEvent, WatchEventKind, WatchState
from keyleash.watch.roles import Address, Sentinels
from keyleash.watch.topology import Topology, WatchedNode


class Watcher:
    """
    Keeps guards loaded on a primary and its replicas, wherever they are by now.

    Each server gets the scripts of its own records and no others: none is told what another
    one said.

    Args:
        connect: Makes the client for an address; it need not connect yet.
        seeds: Servers that are watched whether anybody names them or not.
        sentinels: Who else knows of servers.
    """

    def __init__(
        self,
        connect: Callable[[Address], Client],
        seeds: Sequence[Address],
        sentinels: Sentinels | None = None,
    ) -> None:
        self._topology = Topology(
            lambda address: WatchedNode(address, connect(address)), seeds, sentinels
        )
        self._sentinels = sentinels
        self._roles: dict[Address, str] = {}
        self._generations: dict[Address, int | None] = {}
        self._drifts: dict[tuple[str, WatchEventKind, str], Drift] = {}
        self._watched: set[str] = set()

    @property
    def drifts(self) -> tuple[Drift, ...]:
        """What was wrong at the last look."""
        return tuple(self._drifts.values())

    @property
    def is_blind(self) -> bool:
        """Whether no server answered at the last look."""
        return not self._roles

    def look(self) -> Iterator[WatchEvent]:
        """Look at every server once, load what each lacks, and tell what is new."""
        self._topology.refresh()
        nodes = list(self._topology.nodes.values())
        self._forget_drifts({str(node.address) for node in nodes})
        yield from self._role_changes(nodes)
        drifts = list(self._sentinels.drifts) if self._sentinels else []
        for node in nodes:
            if node.role is not None:
                node.tend()
            if node.loaded:
                what = "1 script" if node.loaded == 1 else f"{node.loaded} scripts"
                yield _done(node.address, WatchEventKind.LOADED, f"{what} that it lacked")
            drifts += node.drifts
            if node.role is None:
                # Nothing is mended by not being seen.
                drifts += [item for item in self.drifts if item.node == str(node.address)]
        drifts += filter(None, map(self._behind, nodes))
        drifts += _several_primaries(nodes)
        found: dict[tuple[str, WatchEventKind, str], Drift] = {}
        for drift in drifts:
            found.setdefault(drift.key, drift)
        yield from self._drift_changes(found)
        self._generations = {node.address: node.generation for node in nodes}

    def close(self) -> None:
        self._topology.close()

    def _forget_drifts(self, watched: set[str]) -> None:
        """Of a server that is watched no longer, nobody can say that anything is mended."""
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
            yield _done(
                address, WatchEventKind.ROLE, "not watching it any more, as nobody names it"
            )
        # One that does not answer keeps its part until it says otherwise.
        silent = {item: role for item, role in self._roles.items() if item in known}
        self._roles = {**silent, **roles} if roles else {}

    def _behind(self, node: WatchedNode) -> Drift | None:
        """Whether a replica has another policy than its primary."""
        if node.role is None or node.role.primary is None or node.generation is None:
            return None
        primary = self._topology.named(node.role.primary)
        if primary is None or primary.generation is None:
            return None
        # The policy of a moment ago will do: the new one may be on its way.
        if node.generation in (primary.generation, self._generations.get(primary.address)):
            return None
        message = (
            f"it has the policy of generation {node.generation}, and its primary"
            f" {primary.address} that of generation {primary.generation}"
        )
        return Drift(str(node.address), WatchEventKind.GENERATION, message)

    def _drift_changes(
        self, drifts: dict[tuple[str, WatchEventKind, str], Drift]
    ) -> Iterator[WatchEvent]:
        for states, some, others in (
            (WatchState.FOUND, drifts, self._drifts),
            (WatchState.MENDED, self._drifts, drifts),
        ):
            for key, drift in some.items():
                if key not in others:
                    yield WatchEvent(drift.node, drift.kind, states, drift.subject, drift.message)
        self._drifts = drifts


def _done(address: Address, kind: WatchEventKind, message: str) -> WatchEvent:
    return WatchEvent(str(address), kind, WatchState.DONE, "", message)


def _several_primaries(nodes: Sequence[WatchedNode]) -> Iterator[Drift]:
    primaries = [str(node.address) for node in nodes if node.role and node.role.primary is None]
    if len(primaries) > 1:
        names = ", ".join(sorted(primaries))
        yield Drift(names, WatchEventKind.SEVERAL_PRIMARIES, "each of them takes writes")
