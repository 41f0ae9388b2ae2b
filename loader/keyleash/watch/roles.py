"""The address and role of a server, from itself or from Sentinels."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from redis import exceptions as redis_errors

from keyleash.store.connect import address_of, node_client
from keyleash.store.live_table import reply_mapping, reply_text
from keyleash.store.server_check import Client
from keyleash.store.wire import reading_reply
from keyleash.watch.events import WatchEvent, WatchEventKind


class Address(NamedTuple):
    """A host and its port; a path and 0 for a Unix socket."""

    host: str
    port: int

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}" if self.port else self.host


_REPLICA = re.compile(r"slave\d+")


@dataclass(frozen=True, slots=True)
class Role:
    """
    The role of a server in a deployment.

    Attributes:
        run_id: The run id of the process.
        primary: The server that it follows; None if it is a primary.
        is_linked: Whether it is linked to its primary; true for a primary.
        replicas: Its replicas.
    """

    run_id: str
    primary: Address | None
    is_linked: bool
    replicas: tuple[Address, ...]

    @property
    def neighbours(self) -> tuple[Address, ...]:
        """Every other server that it knows."""
        return self.replicas if self.primary is None else (self.primary, *self.replicas)

    def __str__(self) -> str:
        return "primary" if self.primary is None else f"replica of {self.primary}"


def read_role(client: Client) -> Role:
    """Read the role of a server; this also works while it loads its data."""
    info, server = client.info("replication"), client.info("server")
    with reading_reply("INFO"):
        primary = None
        if info["role"] != "master":
            primary = Address(str(info["master_host"]), int(info["master_port"]))
        return Role(
            str(server["run_id"]),
            primary,
            primary is None or info.get("master_link_status") == "up",
            tuple(Address(str(item["ip"]), int(item["port"])) for item in replicas_of(info)),
        )


def replicas_of(info: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """Yield the replicas in the replication section of INFO."""
    for name, item in info.items():
        if _REPLICA.fullmatch(name) and isinstance(item, dict):
            yield item


class Sentinels:
    """
    The Sentinels of one primary.

    Attributes:
        drifts: The Sentinels that did not answer the last time.
    """

    def __init__(self, clients: Sequence[tuple[Address, Client]], service: str) -> None:
        self.drifts: list[WatchEvent] = []
        self._clients = clients
        self._service = service

    def addresses(self) -> list[Address]:
        """Return the primary and replicas that any Sentinel knows, including dead ones."""
        self.drifts = []
        found: dict[Address, None] = {}
        for address, client in self._clients:
            try:
                found |= dict.fromkeys(self._addresses_of(client))
            except (redis_errors.RedisError, OSError) as error:
                message = f"the Sentinel does not answer: {error}"
                self.drifts.append(WatchEvent(str(address), WatchEventKind.UNREACHABLE, message))
        return list(found)

    def _addresses_of(self, client: Client) -> list[Address]:
        primary = client.execute_command("SENTINEL GET-MASTER-ADDR-BY-NAME", self._service)
        if primary is None:
            raise redis_errors.ResponseError(f"it knows no `{self._service}`")
        replicas = client.execute_command("SENTINEL REPLICAS", self._service)
        pairs = [primary, *((item["ip"], item["port"]) for item in map(reply_mapping, replicas))]
        return [Address(reply_text(host), int(port)) for host, port in pairs]


def node_connector(
    nodes: Sequence[Client], first: Client, timeout_s: float | None = None
) -> tuple[list[Address], Callable[[Address], Client]]:
    """Return the addresses of servers, and a function that makes a client for any address.

    Args:
        nodes: Clients or URLs; the first has the options for addresses that are found later.
        first: The client whose user and password a URL without them has.
        timeout_s: Time to wait for each reply; see `node_client`.

    Raises:
        OperationError (bad-url): a URL does not name a server.
    """
    clients = {Address(*address_of(node)): node_client(first, node, timeout_s) for node in nodes}
    named = next(iter(clients.values()), first)

    def connect(address: Address) -> Client:
        found = clients.get(address)
        return node_client(named, address, timeout_s) if found is None else found

    return list(clients), connect
