"""Asking Sentinels which servers there are."""

from __future__ import annotations

from collections.abc import Sequence

from redis import exceptions as redis_errors

from keyleash.deploy.watch.address import Address
from keyleash.deploy.watch.news import Drift, Kind
from keyleash.protocol.active import Client


class Sentinels:
    """
    The Sentinels of one primary.

    Attributes:
        drifts: Which of them did not answer the last time.
    """

    def __init__(self, clients: Sequence[tuple[Address, Client]], service: str) -> None:
        self.drifts: list[Drift] = []
        self._clients = clients
        self._service = service

    def addresses(self) -> list[Address]:
        """The primary and its replicas, as all that answer have them; dead ones too."""
        self.drifts = []
        found: dict[Address, None] = {}
        for address, client in self._clients:
            try:
                found |= dict.fromkeys(self._addresses_of(client))
            except (redis_errors.RedisError, OSError) as error:
                message = f"the Sentinel gives no answer: {error}"
                self.drifts.append(Drift(str(address), Kind.UNREACHABLE, message))
        return list(found)

    def _addresses_of(self, client: Client) -> list[Address]:
        primary = client.execute_command("SENTINEL GET-MASTER-ADDR-BY-NAME", self._service)
        if primary is None:
            raise redis_errors.ResponseError(f"it knows no `{self._service}`")
        replicas = client.execute_command("SENTINEL REPLICAS", self._service)
        said = [primary, *((one["ip"], one["port"]) for one in map(_fields, replicas))]
        return [Address(_text(host), int(port)) for host, port in said]


def _fields(said: object) -> dict[str, object]:
    if isinstance(said, dict):
        return {_text(name): value for name, value in said.items()}
    assert isinstance(said, list)  # noqa: S101 - the two forms in which redis-py has it
    return {_text(name): value for name, value in zip(said[::2], said[1::2], strict=True)}


def _text(word: object) -> str:
    return word.decode() if isinstance(word, bytes) else str(word)
