"""A leash on every available server, or on the embedded one where one is enough."""

from __future__ import annotations

import pytest

from support.leash import Leash, grant
from support.servers import RealServer

BROAD = {"grants": [grant("read", "write", "delete", keys="t:*")]}


@pytest.fixture
def leash(server: RealServer) -> Leash:
    """Every server in turn, with one identity that may do anything to `t:*`."""
    return broad(server)


@pytest.fixture
def one_leash(embedded: RealServer) -> Leash:
    """The same on the embedded server alone."""
    return broad(embedded)


def broad(server: RealServer) -> Leash:
    leash = Leash(server)
    leash.load(one=BROAD)
    return leash
