"""An open server and a sealed one, each with a policy."""

from __future__ import annotations

from typing import Any

import pytest

from keyleash.vault.change import seal
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
    """An open server with two identities of the same rights."""
    leash = Leash(server)
    leash.load(one=ALL, two=ALL)
    return leash


@pytest.fixture
def sealed(leash: Leash) -> Leash:
    """The same server, sealed."""
    seal(leash.store)
    leash.follow()
    return leash
