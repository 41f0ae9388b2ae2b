"""A server with the policy of the examples, and sessions over both transports."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from support.leash import Leash
from support.mcp_clients import http_server, over_http, over_stdio
from support.servers import RealServer, RealServers, embedded_label

EXAMPLE = (Path(__file__).parents[2] / "examples/agents.yaml").read_text(encoding="utf-8")


@pytest.fixture
def leash(embedded: RealServer) -> Leash:
    """The embedded server with the identities of the examples."""
    leash = Leash(embedded)
    leash.load(EXAMPLE)
    return leash


@pytest.fixture(scope="session")
def shared_url(real_servers: RealServers) -> Iterator[str]:
    """The URL of one server over HTTP for all tests, also called `mcp.internal`.

    It empties the embedded server, so a test asks for it before it loads a policy.
    """
    with real_servers.lend(embedded_label()) as server:
        redis_url = server.url
    with http_server(redis_url, "--allow-host", "mcp.internal") as url:
        yield url


@pytest.fixture
def url(shared_url: str, leash: Leash) -> str:
    """The URL of a server over HTTP for the embedded server."""
    return shared_url


@pytest.fixture(params=["stdio", "http"])
def connect(request: pytest.FixtureRequest, shared_url: str, leash: Leash) -> Callable[..., Any]:
    """Return a function that opens a session with a token, over each transport in turn."""
    if request.param == "stdio":
        return partial(over_stdio, leash.server.url)
    return partial(over_http, shared_url)
