"""Fixtures that every test may use: real servers, clean for each test."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from support.clocks import clock_library
from support.servers import RealServer, RealServers, embedded_label, find_server_binaries

# So that a golden file that differs shows where.
pytest.register_assert_rewrite("support.golden")


@pytest.fixture(scope="session")
def real_servers() -> Iterator[RealServers]:
    """The session's server processes, each started when it is first lent."""
    servers = RealServers()
    try:
        yield servers
    finally:
        servers.stop()


@pytest.fixture(params=list(find_server_binaries()))
def server(request: pytest.FixtureRequest, real_servers: RealServers) -> Iterator[RealServer]:
    """Every available server in turn, clean."""
    with real_servers.lend(request.param) as server:
        yield server


@pytest.fixture
def embedded(real_servers: RealServers) -> Iterator[RealServer]:
    """The embedded Valkey, clean, for a test to which one server is enough."""
    with real_servers.lend(embedded_label()) as server:
        yield server


@pytest.fixture(scope="session")
def clock(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A library that puts a server's clock forward."""
    return clock_library(tmp_path_factory.mktemp("clock"))
