"""A server with the policy of the examples, and sessions over both transports."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from support.leash import Leash
from support.mcp_clients import http_server, over_http, over_stdio
from support.servers import RealServer

EXAMPLE = (Path(__file__).parents[2] / "examples/agents.yaml").read_text(encoding="utf-8")


@pytest.fixture
def leash(embedded: RealServer) -> Leash:
    """The embedded server with the identities of the examples."""
    leash = Leash(embedded)
    leash.load(EXAMPLE)
    return leash


@pytest.fixture(params=["stdio", "http"])
def connect(request: pytest.FixtureRequest, leash: Leash) -> Iterator[Callable[..., Any]]:
    """Return a function that opens a session with a token, over each transport in turn."""
    if request.param == "stdio":
        yield partial(over_stdio, leash.server.url)
        return
    with http_server(leash.server.url) as url:
        yield partial(over_http, url)
