"""Facts about a server: INFO, settings, commands, clients, and its role among replicas."""

from __future__ import annotations

import re
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from redis.exceptions import NoPermissionError

from keyleash.store.server_check import Client
from keyleash.store.wire import reading_reply


def round_trip(client: Client, calls: Iterable[Sequence[Any]], *, raises: bool = True) -> list[Any]:
    """Send commands in one packet; return their replies, and errors in place without *raises*."""
    with client.pipeline(transaction=False) as pipe:
        for words in calls:
            pipe.execute_command(*words)
        replies: list[Any] = pipe.execute(raise_on_error=raises)
        return replies


def info_section(client: Client, section: str) -> Mapping[str, Any]:
    """Return a section of INFO, with the types that redis-py gives its fields."""
    reply: Mapping[str, Any] = client.info(section)
    return reply


def read_settings(client: Client, *names: str) -> Mapping[str, str]:
    """Return those of some settings that the server has, by CONFIG GET."""
    reply: Mapping[str, str] = client.config_get(*names)
    return reply


def count_keys(client: Client) -> int:
    """Return the number of keys in the database."""
    return int(client.dbsize())


def ping(client: Client) -> None:
    """Require that the server answers."""
    client.ping()


def denied_commands(client: Client, key: str) -> dict[str, str]:
    """Return why the user may not run commands that guards and loads need, by their names."""
    # No script: the server compiles nothing, and loads nothing.
    calls = (("MEMORY", "USAGE", key), ("SCRIPT", "LOAD", "("))
    replies = zip(calls, round_trip(client, calls, raises=False), strict=True)
    return {
        name: str(reply)
        for (name, *_), reply in replies
        if isinstance(reply, NoPermissionError) or "unknown command" in str(reply)
    }


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
    """The role of a server in a deployment.

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


def primary_of(info: Mapping[str, Any]) -> Address | None:
    """Return the primary of a replica by the section `replication` of INFO, or None."""
    if info.get("role", "master") == "master":
        return None
    return Address(str(info["master_host"]), int(info["master_port"]))


def read_role(client: Client) -> Role:
    """Read the role of a server; this also works while it loads its data."""
    info, server = info_section(client, "replication"), info_section(client, "server")
    with reading_reply("INFO"):
        primary = primary_of(info)
        return Role(
            str(server["run_id"]),
            primary,
            primary is None or info.get("master_link_status") == "up",
            tuple(Address(str(item["ip"]), int(item["port"])) for item in _replicas(info)),
        )


def read_replicas(client: Client) -> list[Mapping[str, Any]]:
    """Return the replicas of a server, with the fields of INFO: `ip`, `port`, `state`, `lag`."""
    return list(_replicas(info_section(client, "replication")))


def _replicas(info: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    for name, item in info.items():
        if _REPLICA.fullmatch(name) and isinstance(item, dict):
            yield item


def client_names(client: Client) -> Iterator[tuple[str, str]]:
    """Yield the address and the name of each client of the server that has one, or its user."""
    for item in client.client_list():
        name = item["name"] or item["user"].replace("default", "")
        if name:
            yield item["addr"], name


def monitored(client: Client, seconds: float) -> Iterator[tuple[bytes | None, float]]:
    """Yield lines of MONITOR, or None after an idle second, and the seconds since the start."""
    connection = client.connection_pool.get_connection()
    try:
        connection.send_command("MONITOR")
        connection.read_response()
        begun = time.monotonic()
        while (past_s := time.monotonic() - begun) < seconds:
            has_line = connection.can_read(min(1.0, seconds - past_s))
            yield (connection.read_response(disable_decoding=True) if has_line else None), past_s
    finally:
        # No other command may follow MONITOR.
        connection.disconnect()
        client.connection_pool.release(connection)
