"""Sentinels, which know the servers of a deployment."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from redis import exceptions as redis_errors

from keyleash.store.connect import address_of, node_client
from keyleash.store.server import Address, addresses_of_sentinel
from keyleash.store.server_check import Client
from keyleash.watch.events import WatchEvent, WatchEventKind


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
                found |= dict.fromkeys(addresses_of_sentinel(client, self._service))
            except (redis_errors.RedisError, OSError) as error:
                message = f"the Sentinel does not answer: {error}"
                self.drifts.append(WatchEvent(str(address), WatchEventKind.UNREACHABLE, message))
        return list(found)


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
