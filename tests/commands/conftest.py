"""Fixtures: the servers of the command table."""

from __future__ import annotations

import pytest
from tools.refresh_table import ask

from keyleash.commands import load_table
from support.servers import RealServer


@pytest.fixture
def label(server: RealServer) -> str:
    """The server's label in the table; a server that the table was not made from is skipped."""
    label, _ = ask(server.client())
    known = load_table().servers
    if label not in known:
        pytest.skip(f"the table knows {', '.join(known)}, not {label}")
    return label
