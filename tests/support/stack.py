"""A server with the modules of Redis Stack."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from support.modules import server_with_module, stack_modules
from support.servers import RealServer, find_server_binaries


@contextlib.contextmanager
def stack_server(folder: Path) -> Iterator[RealServer]:
    """Start redis-server 8.0 with the modules; skip without one of them."""
    label = next((name for name in find_server_binaries() if name.startswith("redis-8.0")), None)
    modules = stack_modules()
    if label is None:
        pytest.skip("the modules of Redis Stack need redis-server 8.0")
    with server_with_module(label, folder, *modules) as server:
        yield server
