"""The nodes of a cluster, found from any one of them, and clients for them."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from threading import Lock
from typing import Any, TypeVar

from redis.connection import SSLConnection
from redis.crc import key_slot
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import ResponseError
from redis.exceptions import TimeoutError as RedisTimeoutError

from keyleash.errors import OperationError
from keyleash.store.connect import NODE_TIMEOUT_S, address_of, node_client
from keyleash.store.keyspace import HOME_TAG
from keyleash.store.live_table import reply_mapping, reply_text
from keyleash.store.server import Address, ping
from keyleash.store.server_check import Client
from keyleash.store.wire import reading_reply, reason_of

S = TypeVar("S")
T = TypeVar("T")

MOST_AT_ONCE = 32
"""Nodes that are called at the same time."""
FAILED = "the cluster counts it as failed"
"""The reason why a node is down that answers."""
UNKNOWN_HOSTS = frozenset(("", "?"))
"""The hosts that a node reports if it does not know its own."""


@dataclass(frozen=True, slots=True)
class Node:
    """A node of a cluster.

    Attributes:
        address: Its preferred endpoint.
        slots: The first and last slot of each range that it serves; replicas serve none.
        replicas: The number of its replicas, also of those without a link to it.
    """

    address: Address
    slots: tuple[tuple[int, int], ...] = ()
    replicas: int = 0

    def __str__(self) -> str:
        return str(self.address)

    def serves(self, slot: int) -> bool:
        """Return whether it serves a slot."""
        return any(first <= slot <= last for first, last in self.slots)


class Cluster:
    """All nodes of a cluster.

    Args:
        first: A client of any node. The clients of other nodes have its options.

    Attributes:
        all: The nodes, as they were last read.
        failed: Those without slots that the cluster counts as failed, until CLUSTER FORGET.
    """

    def __init__(self, first: Client) -> None:
        self._first = first
        self._clients: dict[tuple[Address, float | None], Client] = {}
        self._lock = Lock()
        self.all: tuple[Node, ...] = ()
        self.failed: tuple[Node, ...] = ()

    def read(self, *clients: Client) -> None:
        """Read the slot map from a node that answers.

        Args:
            clients: The clients to ask; by default the first one, then those of known nodes.

        Raises:
            redis.RedisError: None of them answers; the error is that of the last one.
        """
        clients = clients or (self._first, *map(self.client, self.all))
        for client in clients:
            try:
                self.all, self.failed = _nodes(client)
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
        return next((node for node in self.all if node.serves(slot)), None)

    def quick_client(self, node: Node) -> Client:
        """Return a client of a node that must not delay what is done at others."""
        options = self._first.connection_pool.connection_kwargs
        timeout_s = min(options.get("socket_timeout") or NODE_TIMEOUT_S, NODE_TIMEOUT_S)
        return self.client(node, timeout_s)

    def reasons(self) -> dict[Node, str]:
        """Return why each node is down, also failed ones; empty for those that answer a PING."""

        def reason(node: Node) -> str:
            try:
                ping(self.quick_client(node))
            except (RedisConnectionError, RedisTimeoutError) as error:
                return reason_of(error)
            except ResponseError:
                # It answers, if only that it denies this user PING.
                pass
            return FAILED if node in self.failed else ""

        nodes = self.all + self.failed
        return dict(zip(nodes, each_at_once(reason, nodes), strict=True))

    def client(self, node: Node, timeout_s: float | None = None) -> Client:
        """Return a client of a node.

        Args:
            node: The node.
            timeout_s: Time to wait for each reply; by default that of the first client.
        """
        key = (node.address, timeout_s)
        with self._lock:
            if key not in self._clients:
                self._clients[key] = node_client(self._first, tuple(node.address), timeout_s)
            return self._clients[key]

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
        return self.client(node)

    def close(self) -> None:
        """Close the connections to all nodes, without that of the first client."""
        for client in self._clients.values():
            client.close()


def each_at_once(function: Callable[[S], T], items: Iterable[S]) -> list[T]:
    """Return the results of *function* for *items*, each called in a thread of its own."""
    with ThreadPoolExecutor(MOST_AT_ONCE, "keyleash-node") as pool:
        return list(pool.map(function, items))


def _nodes(client: Client) -> tuple[tuple[Node, ...], tuple[Node, ...]]:
    """Return all nodes but failed ones without slots, primaries first; and these failed ones."""
    with client.pipeline(transaction=False) as pipe:
        pipe.execute_command("CLUSTER", "SLOTS")
        pipe.execute_command("CLUSTER", "SHARDS")
        by_slot, shards = pipe.execute()
    asked = address_of(client)[0]
    is_tls = issubclass(client.connection_pool.connection_class, SSLConnection)
    addresses: dict[str, Address] = {}
    slots: dict[str, list[tuple[int, int]]] = {}
    replicas: dict[str, int] = {}
    failed: set[Address] = set()
    with reading_reply("CLUSTER SLOTS"):
        for first, last, (host, port, identifier, *_), *_ in by_slot:
            name = reply_text(identifier)
            addresses[name] = _address(host, port, asked)
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
                address = _address(node["endpoint"], port, asked)
                if node in live:
                    addresses.setdefault(reply_text(node["id"]), address)
                else:
                    failed.add(address)
    found = (
        Node(at, tuple(slots.get(name, ())), replicas.get(name, 0))
        for name, at in addresses.items()
    )
    given_up = map(Node, sorted(failed - set(addresses.values())))
    by_slots = sorted(found, key=lambda node: (not node.slots, node.slots, node.address))
    return tuple(by_slots), tuple(given_up)


def _address(host: Any, port: Any, asked: str) -> Address:
    name = "" if host is None else reply_text(host)
    return Address(asked if name in UNKNOWN_HOSTS else name, int(port))
