"""The address and role of a server, from itself or from Sentinels."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from redis import exceptions as redis_errors

from keyleash.store.records import Client
from keyleash.store.wire import reading_reply
from keyleash.watch.events import Drift, WatchEventKind


class Address(NamedTuple):
    """A host and its port; a path and 0 for a socket in the file system."""

    host: str
    port: int

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}" if self.port else self.host


_REPLICA = re.compile(r"slave\d+")


@dataclass(frozen=True, slots=True)
class Role:
    """
    A server's part in a deployment.

    Attributes:
        run_id: Of this life of the process.
        primary: Whom it follows; None if it is a primary itself.
        is_linked: Whether it gets its primary's writes; True of a primary.
        replicas: Who follows it.
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
    """Ask a server who it is; also one that still loads its data answers."""
    said, server = client.info("replication"), client.info("server")
    with reading_reply("INFO"):
        return _role(said, server)


def _role(said: Mapping[str, Any], server: Mapping[str, Any]) -> Role:
    primary = None
    if said["role"] != "master":
        primary = Address(str(said["master_host"]), int(said["master_port"]))
    return Role(
        run_id=str(server["run_id"]),
        primary=primary,
        is_linked=primary is None or said.get("master_link_status") == "up",
        replicas=tuple(_replicas(said)),
    )


def _replicas(said: Mapping[str, Any]) -> Iterator[Address]:
    for name, item in said.items():
        if _REPLICA.fullmatch(name) and isinstance(item, dict):
            yield Address(str(item["ip"]), int(item["port"]))


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
                self.drifts.append(Drift(str(address), WatchEventKind.UNREACHABLE, message))
        return list(found)

    def _addresses_of(self, client: Client) -> list[Address]:
        primary = client.execute_command("SENTINEL GET-MASTER-ADDR-BY-NAME", self._service)
        if primary is None:
            raise redis_errors.ResponseError(f"it knows no `{self._service}`")
        replicas = client.execute_command("SENTINEL REPLICAS", self._service)
        said = [primary, *((item["ip"], item["port"]) for item in map(_fields, replicas))]
        return [Address(_text(host), int(port)) for host, port in said]


def _fields(said: object) -> dict[str, object]:
    if isinstance(said, dict):
        return {_text(name): value for name, value in said.items()}
    assert isinstance(said, list)  # noqa: S101 - the two forms in which redis-py has it
    return {_text(name): value for name, value in zip(said[::2], said[1::2], strict=True)}


def _text(word: object) -> str:
    return word.decode() if isinstance(word, bytes) else str(word)
