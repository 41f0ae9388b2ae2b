"""Servers whose trails a test writes itself."""

from __future__ import annotations

import pytest

from support.servers import RealServer
from support.trails import Trails


@pytest.fixture
def trails(server: RealServer) -> Trails:
    """Every server in turn, with empty trails."""
    return Trails(server.client())


@pytest.fixture
def embedded_trails(embedded: RealServer) -> Trails:
    """The embedded server, with empty trails."""
    return Trails(embedded.client())
