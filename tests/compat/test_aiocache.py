from __future__ import annotations

import asyncio
from typing import Any

import pytest
from aiocache.lock import OptimisticLock, OptimisticLockError, RedLock

from compat.conftest import every_scheme
from compat.page import Library

LIBRARY = Library(
    "aiocache",
    recipe="""
from aiocache import Cache

cache = Cache(Cache.REDIS, namespace="cache")
pool = keyleash.asyncio.pool(url, token)
cache.client = redis.asyncio.Redis(connection_pool=pool)
""",
    policy="""
version: 1
identities:
  agent-runner:
    kind: machine
    grants:
      # `scan` is for `clear` of a namespace.
      - {allow: [read, write, delete, scan], keys: ["cache:*"], scripts: [aiocache]}
""",
)


@every_scheme
def test_values_are_cached(recipe: Any) -> None:
    """Get, set, add, increment, many at once, expiry, clear"""
    cache = recipe.cache

    async def use() -> Any:
        await cache.set("a", {"b": 1}, ttl=60)
        await cache.multi_set([("x", 1), ("y", 2)], ttl=60)
        values = await cache.get("a"), await cache.multi_get(["x", "y"])
        with pytest.raises(ValueError, match="already exists"):
            await cache.add("a", 2)
        counted = await cache.increment("n", 2), await cache.expire("n", 5)
        await cache.delete("x")
        exists = await cache.exists("x"), await cache.exists("y")
        await cache.clear(namespace="cache")
        return values, counted, exists, await cache.exists("y")

    expected = ({"b": 1}, [1, 2]), (2, True), (False, True), False
    assert asyncio.run(use()) == expected


def test_locks_exclude(recipe: Any) -> None:
    """`RedLock` and `OptimisticLock`"""

    async def use() -> Any:
        async with RedLock(recipe.cache, "l", lease=60):
            await recipe.cache.set("a", 1)
        async with OptimisticLock(recipe.cache, "a") as lock:
            await lock.cas(2)
            with pytest.raises(OptimisticLockError):
                await lock.cas(3)
        return await recipe.cache.get("a"), await recipe.cache.exists("l-lock")

    assert asyncio.run(use()) == (2, False)
