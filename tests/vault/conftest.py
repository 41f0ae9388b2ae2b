"""An open server with a policy, and one that is sealed."""

from __future__ import annotations

from typing import Any

import pytest

from keyleash.vault import seal
from support.leash import Leash, grant
from support.servers import RealServer

ALL: dict[str, Any] = {
    "grants": [grant("read", "write", "delete", "scan", keys="a:*")],
    "budget": {"requests": "50/month"},
    "rate": {"writes": {"limit": "20/day", "per": "token"}},
    "audit": {"before_images": {"max_bytes": "1kb"}},
}


@pytest.fixture
def leash(server: RealServer) -> Leash:
    """Two identities with the same rights, nothing sealed."""
    leash = Leash(server)
    leash.load(one=ALL, two=ALL)
    return leash


@pytest.fixture
def sealed(leash: Leash) -> Leash:
    """The same, sealed; every tool finds the prefixes by itself."""
    seal(leash.admin, actor="ops")
    leash.follow()
    return leash
