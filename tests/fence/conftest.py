"""A fenced leash on every available server."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from support.fences import FencedLeash
from support.servers import RealServers, find_server_binaries


@pytest.fixture(params=list(find_server_binaries()))
def leash(request: pytest.FixtureRequest, real_servers: RealServers) -> Iterator[FencedLeash]:
    with real_servers.lend(request.param) as server:
        yield FencedLeash(server)
