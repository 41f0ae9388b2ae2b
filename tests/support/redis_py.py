"""Differences between the versions of redis-py that keyleash supports."""

from __future__ import annotations

from typing import Any

import pytest
import redis

MAJOR = int(redis.__version__.partition(".")[0])
needs_redis_py_8 = pytest.mark.skipif(MAJOR < 8, reason="not in redis-py 7")

_pools: list[redis.ConnectionPool] = []


def remember_pools() -> None:
    """Note each pool of connections that is made from now on."""
    make = redis.ConnectionPool.__init__

    def noted(self: redis.ConnectionPool, *args: Any, **options: Any) -> None:
        make(self, *args, **options)
        _pools.append(self)

    redis.ConnectionPool.__init__ = noted  # type: ignore[method-assign]


def close_pools() -> None:
    """Close the connections of pools that were made since the last call."""
    # A collection of garbage may end a socket before the connection that would close it.
    while _pools:
        _pools.pop().disconnect()
