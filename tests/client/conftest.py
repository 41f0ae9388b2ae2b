"""A leash on every available server, or on the embedded one where one is enough."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import redis
import redis.asyncio

from client.alike import AsyncLeash, SyncLeash
from support.leash import Leash, grant
from support.servers import RealServer, RealServers, find_server_binaries

BROAD = {"grants": [grant("read", "write", "delete", keys="t:*")]}


@pytest.fixture(params=[(label, "sync") for label in find_server_binaries()], ids="-".join)
def leash(request: pytest.FixtureRequest, real_servers: RealServers) -> Iterator[Leash]:
    """Every server in turn, with one identity that may do anything to `t:*`."""
    label, kind = request.param
    with real_servers.lend(label) as server:
        yield from lent(server, kind)


@pytest.fixture(params=["sync"])
def one_leash(request: pytest.FixtureRequest, embedded: RealServer) -> Iterator[Leash]:
    """The same on the embedded server alone."""
    yield from lent(embedded, request.param)


def lent(server: RealServer, kind: str) -> Iterator[Leash]:
    leash = broad(server, AsyncLeash if kind == "async" else SyncLeash)
    yield leash
    if isinstance(leash, AsyncLeash):
        leash.close()


def broad(server: RealServer, kind: type[Leash]) -> Leash:
    leash = kind(server)
    leash.load(one=BROAD)
    return leash


@pytest.fixture
def packets(monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """Everything that connections send, sync or async: one entry for each packet."""
    sent: list[bytes] = []
    send: Any = redis.Connection.send_packed_command
    asend: Any = redis.asyncio.Connection.send_packed_command

    def recorded(self: Any, command: Any, check_health: bool = True) -> None:
        sent.append(b"".join(map(bytes, command)))
        send(self, command, check_health)

    async def arecorded(self: Any, command: Any, check_health: bool = True) -> None:
        sent.append(b"".join(map(bytes, command)))
        await asend(self, command, check_health)

    monkeypatch.setattr(redis.Connection, "send_packed_command", recorded)
    monkeypatch.setattr(redis.asyncio.Connection, "send_packed_command", arecorded)
    return sent
