"""A fenced leash on every available server, and once with functions."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from keyleash.store.wire import Transport
from support.fences import FencedLeash
from support.servers import RealServers, find_server_binaries

LABELS = list(find_server_binaries())


@pytest.fixture(
    params=[
        *((label, Transport.EVALSHA) for label in LABELS),
        *((label, Transport.FUNCTION) for label in LABELS[:2]),
    ],
    ids="-".join,
)
def leash(request: pytest.FixtureRequest, real_servers: RealServers) -> Iterator[FencedLeash]:
    label, transport = request.param
    with real_servers.lend(label) as server:
        yield FencedLeash(server, transport=transport)
