"""The servers of a deployment: which there are, how they are asked, and what is known of each.

A deployment is a primary with its replicas (`Replication`) or a cluster (`Cluster`). An operation
asks:

- `store.client`: the primary; of a cluster that of the home, which has the control keys
- `Store.primaries()`: the same, or all primaries of a cluster
- `store.cluster.nodes`: all nodes of a cluster
- `run_at_shards()`: the nodes of given shards of a cluster
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cached_property
from threading import Lock
from typing import Any, TypeVar

from redis.connection import SSLConnection
from redis.crc import key_slot
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import RedisError, ResponseError
from redis.exceptions import TimeoutError as RedisTimeoutError

from keyleash.errors import KeyleashError, OperationError
from keyleash.store.connect import address_of, node_client, quick_client
from keyleash.store.keyspace import HOME_TAG
from keyleash.store.live_table import reply_mapping, reply_text
from keyleash.store.server import Address, Role, ping, read_role, round_trip
from keyleash.store.server_check import Client, operator_client
from keyleash.store.wire import reading_reply, reason_of

S = TypeVar("S")
T = TypeVar("T")

MOST_AT_ONCE = 32
"""Servers that are called at the same time."""
COUNTED_AS_FAILED = "the cluster counts it as failed"
"""The reason why a node is down that answers."""
UNKNOWN_HOSTS = frozenset(("", "?"))
"""The hosts that a node reports if it does not know its own."""


class Server:
    """A server of a deployment.

    Args:
        name: Its name in messages, such as its address.

    Attributes:
        role: Its role; None if it did not answer the last look.
        error: Why it did not; None if it did.
        run_id: Its last known run id; its name if it never answered.
    """

    def __init__(self, name: object, client: Client) -> None:
        self.name = str(name)
        self.client = operator_client(client)
        self.role: Role | None = None
        self.error: Exception | None = None
        self.run_id = self.name

    def __repr__(self) -> str:
        return f"Server({self.name!r})"

    @cached_property
    def quick(self) -> Client:
        """A client that must not delay what is done at other servers."""
        return quick_client(self.client)

    def look(self) -> Role | None:
        """Read its role; None if it does not answer."""
        try:
            self.role = read_role(self.client)
        except (RedisError, OSError, KeyleashError, LookupError, ValueError) as error:
            # A malformed reply must not end the look at other servers.
            self.role, self.error = None, error
        else:
            self.run_id, self.error = self.role.run_id, None
        return self.role

    def close(self) -> None:
        """Close the connections."""
        self.client.close()
        self.quick.close()


class Deployment:
    """The servers that belong together."""

    def __init__(self) -> None:
        self._known: dict[Address, Server] = {}

    def close(self) -> None:
        """Close the connections, but not that of the first client of a cluster."""
        for server in self._known.values():
            server.close()


class Replication(Deployment):
    """A primary and its replicas.

    Args:
        seeds: Clients or URLs of servers to begin with. The first is a client; URLs without user
            and password get its own, and servers that are found later its options.
        timeout_s: Time to wait for each reply; see `node_client`.

    Attributes:
        seeds: The servers to begin with, by address.
        servers: Each server that `look` found, once.

    Raises:
        OperationError (bad-url): a URL does not name a server.
    """

    def __init__(self, seeds: Sequence[Client], timeout_s: float | None = None) -> None:
        super().__init__()
        self._first, self._timeout_s = seeds[0], timeout_s
        self.seeds = self._known = {address_of(node): self._server(node) for node in seeds}
        self.servers: Sequence[Server] = ()

    def look(self) -> None:
        """Find all servers, and read their roles."""
        waiting, seen = deque(self.seeds), dict[Address, Server]()
        while waiting:
            address = waiting.popleft()
            if address not in seen:
                server = seen[address] = self.seeds.get(address) or self._server(address)
                if role := server.look():
                    waiting += role.neighbours
        self._known = seen
        # A server has one address: that of a seed, or else the first.
        by_run: dict[str, Server] = {}
        for _, server in sorted(seen.items(), key=lambda item: item[0] not in self.seeds):
            by_run.setdefault(server.run_id, server)
        self.servers = [server for server in seen.values() if by_run[server.run_id] is server]

    def _server(self, node: Client) -> Server:
        """Return a server for a client, a URL or an address."""
        client = node_client(self._first, node, self._timeout_s)
        return Server(address_of(client), client)


@dataclass(frozen=True, slots=True)
class Node:
    """A node of a cluster.

    Attributes:
        address: Its preferred endpoint.
        slots: The first and last slot of each range that it serves; replicas serve none.
        replicas: The number of its replicas, also of those without a link to it.
        server: Its clients, and what is known of it.
    """

    address: Address
    server: Server = field(repr=False, compare=False)
    slots: tuple[tuple[int, int], ...] = ()
    replicas: int = 0

    def __str__(self) -> str:
        return str(self.address)

    def serves(self, slot: int) -> bool:
        """Return whether it serves a slot."""
        return any(first <= slot <= last for first, last in self.slots)


class Cluster(Deployment):
    """The nodes of a cluster. Several threads may use it.

    Args:
        first: A client of any node. The clients of all nodes have its options.

    Attributes:
        nodes: All but those of `failed`, as they were last read.
        failed: Those without slots that the cluster counts as failed, until CLUSTER FORGET.
    """

    def __init__(self, first: Client) -> None:
        super().__init__()
        self._first = first
        self._lock = Lock()
        self.nodes: tuple[Node, ...] = ()
        self.failed: tuple[Node, ...] = ()

    def read(self, *clients: Client) -> None:
        """Read the slot map from a node that answers.

        Args:
            clients: The clients to ask; by default the first one, then those of known nodes.

        Raises:
            redis.RedisError: None of them answers; the error is that of the last one.
        """
        clients = clients or (self._first, *(node.server.client for node in self.nodes))
        for client in clients:
            try:
                self.nodes, self.failed = _nodes(client, self._server)
            except (RedisConnectionError, RedisTimeoutError):
                if client is clients[-1]:
                    raise
            else:
                return

    def find(self, tag: str) -> Node | None:
        """Return the node that serves the slot of a tag; None if there is none."""
        return self.serving(key_slot(tag.encode()))

    def serving(self, slot: int) -> Node | None:
        """Return the node that serves a slot; None if there is none."""
        return next((node for node in self.nodes if node.serves(slot)), None)

    def reasons(self) -> dict[Node, str]:
        """Return why each node is down; empty if it answers, and is not one of `failed`."""

        def reason(node: Node) -> str:
            try:
                ping(node.server.quick)
            except (RedisConnectionError, RedisTimeoutError) as error:
                return reason_of(error)
            except ResponseError:
                # It answers, if only that it denies this user PING.
                pass
            return COUNTED_AS_FAILED if node in self.failed else ""

        nodes = self.nodes + self.failed
        return dict(zip(nodes, each_at_once(reason, nodes), strict=True))

    def home(self) -> Client:
        """Return a client of the primary that serves the slot of the home.

        Raises:
            OperationError (cluster-incomplete): There is none.
        """
        node = self.find(HOME_TAG)
        if node is None:
            raise OperationError(
                "cluster-incomplete",
                f"no node of the cluster serves slot {key_slot(HOME_TAG.encode())}, which has"
                " keyleash's control keys",
                help="assign all slots to nodes; see `CLUSTER SLOTS`",
            )
        return node.server.client

    def _server(self, address: Address) -> Server:
        with self._lock:
            if address not in self._known:
                self._known[address] = Server(address, node_client(self._first, address))
            return self._known[address]


def each_at_once(function: Callable[[S], T], items: Iterable[S]) -> list[T]:
    """Return the results of *function* for *items*, called in up to `MOST_AT_ONCE` threads."""
    with ThreadPoolExecutor(MOST_AT_ONCE, "keyleash-node") as pool:
        return list(pool.map(function, items))


def _nodes(
    client: Client, server: Callable[[Address], Server]
) -> tuple[tuple[Node, ...], tuple[Node, ...]]:
    """Return all nodes but failed ones without slots, primaries first; and these failed ones."""
    by_slot, shards = round_trip(client, [("CLUSTER", "SLOTS"), ("CLUSTER", "SHARDS")])
    own_host = address_of(client).host
    is_tls = issubclass(client.connection_pool.connection_class, SSLConnection)
    addresses: dict[str, Address] = {}
    slots: dict[str, list[tuple[int, int]]] = {}
    replicas: dict[str, int] = {}
    failed: set[Address] = set()
    with reading_reply("CLUSTER SLOTS"):
        for first, last, (host, port, identifier, *_), *_ in by_slot:
            name = reply_text(identifier)
            addresses[name] = _address(host, port, own_host)
            slots.setdefault(name, []).append((int(first), int(last)))
    # CLUSTER SLOTS lacks nodes without slots, and replicas that have only just started.
    with reading_reply("CLUSTER SHARDS"):
        for shard in shards:
            members = [reply_mapping(node) for node in reply_mapping(shard)["nodes"]]
            live = [node for node in members if reply_text(node["health"]) != "fail"]
            copies = sum(reply_text(node["role"]) == "replica" for node in live)
            replicas |= dict.fromkeys((reply_text(node["id"]) for node in live), copies)
            for node in members:
                port = node.get("tls-port" if is_tls else "port")
                if port is None:
                    continue
                address = _address(node["endpoint"], port, own_host)
                if node in live:
                    addresses.setdefault(reply_text(node["id"]), address)
                else:
                    failed.add(address)
    nodes = (
        Node(at, server(at), tuple(slots.get(name, ())), replicas.get(name, 0))
        for name, at in addresses.items()
    )
    given_up = (Node(at, server(at)) for at in sorted(failed - set(addresses.values())))
    by_slots = sorted(nodes, key=lambda node: (not node.slots, node.slots, node.address))
    return tuple(by_slots), tuple(given_up)


def _address(host: Any, port: Any, own_host: str) -> Address:
    name = "" if host is None else reply_text(host)
    return Address(own_host if name in UNKNOWN_HOSTS else name, int(port))
