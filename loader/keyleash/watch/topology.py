"""The servers of a deployment, and the scripts of each."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence

from redis import exceptions as redis_errors

from keyleash.errors import KeyleashError
from keyleash.store.denied import missing_right
from keyleash.store.guards import Recorded, load_missing, read_recorded
from keyleash.store.prefixes import read_seal
from keyleash.store.records import read_head
from keyleash.store.server import Address, Role, read_role
from keyleash.store.server_check import Client
from keyleash.store.store import Store
from keyleash.store.wire import Transport, reason_of, server_message
from keyleash.watch.events import WatchEvent, WatchEventKind
from keyleash.watch.sentinels import Sentinels

LOOKS_BETWEEN_READINGS = 60
"""Looks after which stored scripts are read again; sooner if the policy changes."""


class PolicyRecords:
    """The recorded scripts of a policy, read again when it changes and once in a while."""

    def __init__(self) -> None:
        self._recorded = Recorded()
        self._read_as: tuple[object, ...] = ()
        self._looks = 0

    def read(self, store: Store, as_of: tuple[object, ...]) -> Recorded:
        """Return the recorded scripts; they are read if *as_of* is not as at the last time."""
        self._looks += 1
        drifted = self._recorded.missing or self._recorded.changed
        if drifted or as_of != self._read_as or self._looks > LOOKS_BETWEEN_READINGS:
            self._recorded = read_recorded(store)
            self._read_as, self._looks = as_of, 0
        return self._recorded


class WatchedNode:
    """
    A watched server. Each look is `read_role`, and `load_missing` if it answered.

    Args:
        address: Its address.
        client: A client of it.
        home: Returns the store of the cluster's home, which has the policy of all nodes; the server
            has its own policy if None.

    Attributes:
        role: Its role; None if it did not answer the last look.
        run: Its last known run id; empty if it never answered.
        silences: The number of looks since it last answered.
        generation: The generation of its policy; None if it has none, or did not answer.
        loaded: The number of scripts that the last look loaded.
        drifts: The drifts of the last look.
    """

    def __init__(
        self, address: Address, client: Client, home: Callable[[], Store] | None = None
    ) -> None:
        self.address = address
        self.role: Role | None = None
        self.run = ""
        self.silences = 0
        self.generation: int | None = None
        self.loaded = 0
        self.drifts: list[WatchEvent] = []
        self.client = client
        self._home = home
        self._records = PolicyRecords()

    def read_role(self) -> Role | None:
        """Read its role; None if it does not answer."""
        self.role, self.generation, self.loaded, self.drifts = None, None, 0, []
        self._attempt(self._read_role)
        self.silences = 0 if self.role else self.silences + 1
        return self.role

    def load_missing(self) -> None:
        """Read its policy, and load the scripts that it lacks."""
        self._attempt(self._load_missing)

    def close(self) -> None:
        self.client.close()

    def _read_role(self) -> None:
        self.role = read_role(self.client)
        self.run = self.role.run_id
        if not self.role.is_linked:
            self._add(
                WatchEventKind.LINK_DOWN, f"it has no link to its primary {self.role.primary}"
            )

    def _load_missing(self) -> None:
        # Prefixes may change while a watcher runs; guards are found during a change as well.
        store = (
            Store(self.client, read_seal(self.client).keyspace)
            if self._home is None
            else self._home()
        )
        head = read_head(store)
        if head is None:
            self._add(WatchEventKind.NO_POLICY, "no policy is active on it")
            return
        self.generation = head.generation
        recorded = self._records.read(store, (self.run, *head))
        for kind, scripts, problem in (
            (WatchEventKind.SOURCE_MISSING, recorded.missing, "no stored text"),
            (
                WatchEventKind.SOURCE_CHANGED,
                recorded.changed,
                "a stored text with another digest",
            ),
        ):
            for identity, digest in scripts:
                message = f"the script {digest} of `{identity}` has {problem}"
                self._add(kind, message, f"{identity} {digest}")
        if head.transport is Transport.FUNCTION and self.role and self.role.primary:
            # A replica gets functions from its primary only.
            return
        self.loaded = load_missing(store, recorded, head.transport, self.client)

    def _attempt(self, do: Callable[[], None]) -> None:
        try:
            do()
        except (redis_errors.RedisError, OSError, KeyleashError, LookupError, ValueError) as error:
            # A corrupt record must not end the watch over other servers.
            self._add(*drift_of(error))

    def _add(self, kind: WatchEventKind, message: str, subject: str | None = None) -> None:
        self.drifts.append(WatchEvent(str(self.address), kind, message, subject))


def drift_of(error: Exception) -> tuple[WatchEventKind, str]:
    """Return what the error of a server is, and a sentence about it."""
    match error:
        case redis_errors.BusyLoadingError():
            return WatchEventKind.NOT_SERVING, "it is still loading its data"
        case (
            redis_errors.AuthenticationError()
            | redis_errors.AuthorizationError()
            | redis_errors.NoPermissionError()
        ):
            right = missing_right(error)
            why = f"the user lacks {right}" if right else server_message(error)
            return WatchEventKind.NOT_PERMITTED, f"access denied: {why}"
        case redis_errors.ConnectionError() | redis_errors.TimeoutError() | OSError():
            return WatchEventKind.UNREACHABLE, f"it does not answer: {reason_of(error)}"
        case redis_errors.RedisError():
            return WatchEventKind.NOT_SERVING, f"it replies: {server_message(error)}"
        case _:
            return WatchEventKind.UNREADABLE, f"its records cannot be read: {type(error).__name__}"


FORGOTTEN_AFTER_LOOKS = 600
"""Looks after which a silent server is dropped if no other server lists it: primaries do not list
crashed replicas, which should be reported for a while."""


class Topology:
    """
    The servers of a deployment.

    A silent server remains while another one lists it, and for a while longer. Seeds always remain.

    Attributes:
        nodes: Each server once, by address.
    """

    def __init__(
        self,
        make: Callable[[Address], WatchedNode],
        seeds: Sequence[Address],
        sentinels: Sentinels | None,
    ) -> None:
        self.nodes: dict[Address, WatchedNode] = {}
        self._make = make
        self._seeds = tuple(seeds)
        self._sentinels = sentinels
        self._known: dict[Address, WatchedNode] = {}
        self._first: dict[Address, Address] = {}

    def refresh(self) -> None:
        """Find all servers and read their roles."""
        named = [*self._seeds, *(self._sentinels.addresses() if self._sentinels else ())]
        # Silent servers come last, because they may block again.
        known = [*named, *self._known]
        waiting = deque(sorted(known, key=self._was_silent))
        listed, found = set(named), dict[Address, WatchedNode]()
        while waiting:
            address = waiting.popleft()
            if address not in found:
                node = found[address] = self._known.get(address) or self._make(address)
                if role := node.read_role():
                    listed.update(role.neighbours)
                    waiting += role.neighbours
        silent = {item for item, node in found.items() if node.silences > FORGOTTEN_AFTER_LOOKS}
        gone = silent - listed
        for address in gone:
            found.pop(address).close()
        self._known = found
        self._name_once()

    def named(self, address: Address) -> WatchedNode | None:
        """Return the server with this address, or an alias of it."""
        return self.nodes.get(self._first.get(address, address))

    def close(self) -> None:
        for node in self._known.values():
            node.close()

    def _was_silent(self, address: Address) -> bool:
        node = self._known.get(address)
        return node is not None and node.role is None

    def _name_once(self) -> None:
        """Choose one address per server: a seed's, or else the first."""
        by_run: dict[str, Address] = {}
        for address in sorted(self._known, key=lambda item: item not in self._seeds):
            run = self._known[address].run or str(address)
            self._first[address] = by_run.setdefault(run, address)
        self.nodes = {item: node for item, node in self._known.items() if self._first[item] == item}
