"""A gateway to every available server, and its raw connections."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from support.gateways import Raw, ServedGateway, gateway_to
from support.leash import Leash, grant
from support.servers import RealServer

BROAD = {
    "grants": [
        grant("read", "write", "delete", "scan", keys="k:*"),
        {"allow": ["publish", "subscribe"], "channels": ["c:*"]},
    ]
}


@pytest.fixture
def leash(server: RealServer) -> Leash:
    """Every server in turn, with one identity that may do anything to `k:*`."""
    leash = Leash(server)
    leash.load(one=BROAD)
    return leash


@pytest.fixture
def one_leash(embedded: RealServer) -> Leash:
    """The same on the embedded server alone."""
    leash = Leash(embedded)
    leash.load(one=BROAD)
    return leash


@pytest.fixture
def gateway(leash: Leash) -> Iterator[ServedGateway]:
    """A gateway to the server of `leash`."""
    with gateway_to(leash.server.url) as served:
        yield served


@pytest.fixture
def one_gateway(one_leash: Leash) -> Iterator[ServedGateway]:
    """A gateway to the server of `one_leash`."""
    with gateway_to(one_leash.server.url) as served:
        yield served


@pytest.fixture
def connect() -> Iterator[Callable[..., Raw]]:
    """Return a raw connection to a port, authenticated if a token is given."""
    opened: list[Raw] = []

    def connect(port: int, token: str | None = None, protocol: int = 2) -> Raw:
        raw = Raw(port)
        opened.append(raw)
        if token is not None:
            reply: Any = raw.call("HELLO", protocol, "AUTH", "default", token)
            assert reply.startswith((b"*", b"%")), reply
        return raw

    yield connect
    for raw in opened:
        raw.close()
