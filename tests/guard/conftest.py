"""A leash on every available server."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from keyleash.store.wire import Transport
from support.leash import Leash
from support.servers import RealServers, find_server_binaries


@pytest.fixture(
    params=[(label, Transport.EVALSHA) for label in find_server_binaries()],
    ids=list(find_server_binaries()),
)
def leash(request: pytest.FixtureRequest, real_servers: RealServers) -> Iterator[Leash]:
    label, transport = request.param
    with real_servers.lend(label) as server:
        yield Leash(server, transport=transport)
