"""Servers whose trails a test writes itself."""

from __future__ import annotations

import pytest

from support.servers import RealServer
from support.streams import Streams


@pytest.fixture
def streams(server: RealServer) -> Streams:
    """Every server in turn, with empty trails."""
    return Streams(server.client())


@pytest.fixture
def embedded_trails(embedded: RealServer) -> Streams:
    """The embedded server, with empty trails."""
    return Streams(embedded.client())
