"""The servers of a deployment: which there are, how they are asked, and what is known of each.

A deployment is a primary with its replicas (`Replication`) or a cluster (`Cluster`). An operation
asks:

- `store.client`: the primary; of a cluster that of the home, which has the control keys
- `Store.primaries()`: the same, or all primaries of a cluster
- `store.cluster.nodes`: all nodes of a cluster
- `servers_with_users()` of `fence/servers.py`: those whose ACL users change
- `connect_nodes()`: further servers that the caller names; each must answer
- `run_at_shards()`: the nodes of given shards of a cluster
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
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
from keyleash.store.server import Address, Role, addresses_of_sentinel, ping, read_role, round_trip
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
FORGOTTEN_AFTER_LOOKS = 600
"""Looks after which a silent server is dropped if no other server lists it: primaries do not list
crashed replicas, which should be reported for a while."""


class Server:
    """A server of a deployment.

    Args:
        name: Its name in messages, such as its address.

    Attributes:
        role: Its role; None if it did not answer the last look.
        error: Why it did not; None if it did.
        run_id: Its last known run id; its name if it never answered.
        silences: The number of looks since it last answered.
    """

    def __init__(self, name: object, client: Client) -> None:
        self.name = str(name)
        self.client = operator_client(client)
        self.role: Role | None = None
        self.error: Exception | None = None
        self.run_id = self.name
        self.silences = 0

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
            self.role, self.error, self.silences = None, error, self.silences + 1
        else:
            self.run_id, self.error, self.silences = self.role.run_id, None, 0
        return self.role

    def close(self) -> None:
        """Close the connections."""
        self.client.close()
        self.quick.close()


class Deployment:
    """The servers that belong together, as they were found at the last look.

    Attributes:
        servers: Each server once.
        sentinel_errors: Why Sentinels did not answer, by name.
    """

    def __init__(self) -> None:
        self.servers: Sequence[Server] = ()
        self.sentinel_errors: dict[str, Exception] = {}
        self._known: dict[Address, Server] = {}

    def look(self) -> None:
        """Find all servers, and read their roles."""
        raise NotImplementedError

    def named(self, address: Address) -> Server | None:
        """Return the server with this address, or an alias of it."""
        return self._known.get(address)

    def close(self) -> None:
        """Close the connections, but not that of the first client of a cluster."""
        for server in self._known.values():
            server.close()


class Replication(Deployment):
    """A primary and its replicas.

    A silent server remains while another one lists it, and for a while longer. Seeds always remain.

    Args:
        first: A client. URLs of seeds without user and password get its own.
        seeds: Clients or URLs of servers to begin with. The first one has the options for servers
            that are found later.
        sentinels: Clients or URLs of Sentinels that know the servers.
        service: The name of the primary in Sentinel.
        timeout_s: Time to wait for each reply; see `node_client`.

    Attributes:
        seeds: The servers to begin with, by address.

    Raises:
        OperationError (bad-url): a URL does not name a server.
    """

    def __init__(
        self,
        first: Client,
        seeds: Iterable[Client],
        sentinels: Iterable[Client] = (),
        service: str = "",
        timeout_s: float | None = None,
    ) -> None:
        super().__init__()
        self._first, self._timeout_s = first, timeout_s
        self.seeds = {address_of(node): self._server(node) for node in seeds}
        self._first = next((server.client for server in self.seeds.values()), first)
        # Sentinels have users of their own, or none.
        self._sentinels = [
            Server(address_of(node), node_client(first, node, own_user=True)) for node in sentinels
        ]
        self._service = service
        self._known = self.seeds
        self._aliases: dict[Address, Server] = {}

    def look(self) -> None:
        """Find all servers, and read their roles."""
        listed = {*self.seeds, *(by_sentinels := self._ask_sentinels())}
        # Silent servers come last, because they may block again.
        waiting = deque(sorted([*self.seeds, *by_sentinels, *self._known], key=self._was_silent))
        seen = dict[Address, Server]()
        while waiting:
            address = waiting.popleft()
            if address not in seen:
                server = seen[address] = self._known.get(address) or self._server(address)
                if role := server.look():
                    listed.update(role.neighbours)
                    waiting += role.neighbours
        silent = {item for item, server in seen.items() if server.silences > FORGOTTEN_AFTER_LOOKS}
        for address in silent - listed:
            seen.pop(address).close()
        self._known = seen
        # A server has one address: that of a seed, or else the first.
        by_run: dict[str, Server] = {}
        by_seed = sorted(seen.items(), key=lambda item: item[0] not in self.seeds)
        self._aliases = {item: by_run.setdefault(at.run_id, at) for item, at in by_seed}
        self.servers = [server for item, server in seen.items() if self._aliases[item] is server]

    def named(self, address: Address) -> Server | None:
        """Return the server with this address, or an alias of it."""
        return self._aliases.get(address)

    def _server(self, node: Client) -> Server:
        """Return a server for a client, a URL or an address."""
        client = node_client(self._first, node, self._timeout_s)
        return Server(address_of(client), client)

    def _was_silent(self, address: Address) -> bool:
        server = self._known.get(address)
        return server is not None and server.silences > 0

    def _ask_sentinels(self) -> list[Address]:
        """Return the primary and replicas that any Sentinel knows, including dead ones."""
        self.sentinel_errors, addresses = {}, dict[Address, None]()
        for sentinel in self._sentinels:
            try:
                addresses |= dict.fromkeys(addresses_of_sentinel(sentinel.client, self._service))
            except (RedisError, OSError) as error:
                self.sentinel_errors[sentinel.name] = error
        return list(addresses)


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

    def look(self) -> None:
        """Read the slot map and the roles of all nodes."""
        with suppress(RedisError):
            # Known nodes remain if none reports the others.
            self.read()
        self.servers = [node.server for node in self.nodes + self.failed]
        each_at_once(Server.look, self.servers)

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
