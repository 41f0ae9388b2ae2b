from __future__ import annotations

import asyncio
from typing import Any

from compat.conftest import every_scheme
from compat.page import Library

LIBRARY = Library(
    "pyrate-limiter",
    recipe="""
from pyrate_limiter import Duration, Limiter, Rate, RedisBucket

rates = [Rate(2, Duration.MINUTE)]
client = redis.Redis(connection_pool=keyleash.pool(url, token))
limiter = Limiter(RedisBucket.init(rates, client, "limit:a"))
""",
    policy="""
version: 1
identities:
  agent-runner:
    kind: machine
    grants:
      - {allow: [read, write, delete], keys: ["limit:*"], scripts: [pyrate-limiter]}
""",
)


@every_scheme
def test_calls_are_limited(recipe: Any) -> None:
    """Buckets: acquire, count and flush"""
    limiter = recipe.limiter
    (bucket,) = limiter.buckets()

    assert [limiter.try_acquire("x", blocking=False) for _ in range(3)] == [True, True, False]
    assert bucket.count() == 2
    bucket.flush()
    assert limiter.try_acquire("x", blocking=False)
    limiter.close()


def test_asyncio_calls_are_limited(recipe: Any) -> None:
    """Buckets for asyncio"""

    async def use() -> list[bool]:
        pool = recipe.keyleash.asyncio.pool(recipe.url, recipe.token)
        client = recipe.redis.asyncio.Redis(connection_pool=pool)
        bucket = await recipe.RedisBucket.init(recipe.rates, client, "limit:b")
        limiter = recipe.Limiter(bucket)
        found = [await limiter.try_acquire_async("x", blocking=False) for _ in range(3)]
        limiter.close()
        return found

    assert asyncio.run(use()) == [True, True, False]
