"""A leash on every available server."""

from __future__ import annotations

import pytest

from support.leash import Leash
from support.servers import RealServer


@pytest.fixture
def leash(server: RealServer) -> Leash:
    return Leash(server)
