"""Who a server is, and whom it knows, by what it says of its replication."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from keyleash.deploy.watch.address import Address
from keyleash.protocol.active import Client
from keyleash.protocol.reply import reading_reply

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
    for name, one in said.items():
        if _REPLICA.fullmatch(name) and isinstance(one, dict):
            yield Address(str(one["ip"]), int(one["port"]))
