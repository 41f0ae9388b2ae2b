"""Facts about a server: its clock and identities, and a summary before a command changes it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from redis.exceptions import RedisError, ResponseError

from keyleash.errors import KeyleashError
from keyleash.operations import operation
from keyleash.results import Result
from keyleash.store.deployment import Cluster, each_at_once
from keyleash.store.identities import require_known
from keyleash.store.keyspace import HOME_TAG
from keyleash.store.records import database_of, read_active
from keyleash.store.server import count_keys, info_section, primary_of
from keyleash.store.server_check import Client, is_cluster, operator_client, release_of
from keyleash.store.store import Store
from keyleash.text import moment

SERVE_ZONE = "keyleash-serve"
"""The `availability-zone` of a server that `keyleash serve` started.

INFO reports it. It is part of no data, so it stays with the process.
"""


@dataclass(frozen=True, slots=True)
class ServerSummary(Result):
    """Facts that distinguish one server from another.

    Attributes:
        product: `redis` or `valkey`.
        version: Its version; empty if the user may not run INFO.
        database: The number of the database.
        keys: The number of keys in it, of a cluster in all nodes; None if the user may not run
            DBSIZE, or a node does not answer.
        generation: The generation of the active policy; 0 if there is none, None if it cannot be
            read.
        is_from_serve: Whether `keyleash serve` started it.
        nodes: The number of nodes of the cluster; 0 for one server.
        home: The node of the cluster that serves the home; empty if there is none.
        primary: The server that it is a replica of; empty if it is a primary.
    """

    product: str
    version: str
    database: int
    keys: int | None
    generation: int | None
    is_from_serve: bool
    nodes: int = 0
    home: str = ""
    primary: str = ""

    @property
    def release(self) -> str:
        """Product and version, such as `Valkey 9.1.2`."""
        return f"{self.product.capitalize()} {self.version}"


@operation()
def server_time(store: Store) -> datetime:
    """Return the time by the server's clock, which decides expiries and limits."""
    return moment(store.now_ms())


@operation()
def all_identities(store: Store) -> tuple[str, ...]:
    """Return the names of all identities that were ever active, sorted.

    Raises:
        OperationError (no-policy): no policy was ever loaded.
    """
    return tuple(require_known(store, None))


def summarize_server(client: Client, open: Callable[[], Store] | None = None) -> ServerSummary:
    """Read the summary of a server.

    Args:
        open: Opens the store with the active policy, which another node of a cluster may have.

    Raises:
        redis.RedisError: The server does not answer.
    """
    info: Mapping[str, Any] = {}
    generation = None
    with suppress(ResponseError):
        info = {**info_section(client, "server"), **info_section(client, "replication")}
    cluster = _read_nodes(client) if is_cluster(info) else None
    with suppress(ResponseError, KeyleashError):
        active = read_active(Store(client) if open is None else open())
        generation = active.generation if active else 0
    return ServerSummary(
        *release_of(info),
        database=database_of(client),
        keys=_count_keys(client, cluster),
        generation=generation,
        is_from_serve=info.get("availability_zone") == SERVE_ZONE,
        nodes=len(cluster.nodes) if cluster else 0,
        home=str(cluster.find(HOME_TAG) or "") if cluster else "",
        # A change at any node of a cluster is made at its primaries.
        primary="" if is_cluster(info) else str(primary_of(info) or ""),
    )


def _read_nodes(client: Client) -> Cluster:
    nodes = Cluster(operator_client(client))
    with suppress(ResponseError, KeyleashError):
        nodes.read()
    return nodes


def _count_keys(client: Client, cluster: Cluster | None) -> int | None:
    """Return the number of keys of a server, or of all primaries of a cluster; None if unknown."""
    if cluster is None:
        with suppress(ResponseError):
            return count_keys(client)
        return None
    primaries = [node.server.quick for node in cluster.nodes if node.slots]
    try:
        return sum(each_at_once(count_keys, primaries)) if primaries else None
    except RedisError:
        return None
    finally:
        cluster.close()
