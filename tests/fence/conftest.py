"""A fenced leash on every available server."""

from __future__ import annotations

import pytest

from support.fences import FencedLeash
from support.servers import RealServer


@pytest.fixture
def leash(server: RealServer) -> FencedLeash:
    return FencedLeash(server)
