"""Servers whose streams a test writes without guards."""

from __future__ import annotations

import pytest

from support.servers import RealServer
from support.streams import Streams


@pytest.fixture
def streams(server: RealServer) -> Streams:
    """Each server in turn, with empty streams."""
    return Streams(server.client())


@pytest.fixture
def embedded_streams(embedded: RealServer) -> Streams:
    """The embedded server, with empty streams."""
    return Streams(embedded.client())
