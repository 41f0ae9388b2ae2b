from __future__ import annotations

import asyncio
from typing import Any

import pytest
import throttled
import throttled.asyncio

from compat.conftest import every_scheme
from compat.page import Library

LIBRARY = Library(
    "throttled-py",
    recipe="""
import throttled
import throttled.asyncio

options = {
    "CONNECTION_POOL_KWARGS": {"connection_class": keyleash.connection_class(token, url)},
    "REUSE_CONNECTION": False,
}
store = throttled.RedisStore(server=url, options=options)
assert keyleash.is_guarded(store._backend.get_client())

astore = throttled.asyncio.RedisStore(server=url, options={"REUSE_CONNECTION": False})
pool = astore._backend.get_client().connection_pool
pool.connection_class = keyleash.asyncio.connection_class(token, pool.connection_class)
""",
    policy="""
version: 1
identities:
  agent-runner:
    kind: machine
    grants:
      - allow: [read, write]
        keys: ["throttled:*"]
        scripts: [throttled-py]
""",
)


KINDS = ["fixed_window", "sliding_window", "leaking_bucket", "token_bucket", "gcra"]


@pytest.mark.parametrize("kind", KINDS)
def test_calls_are_limited(recipe: Any, kind: str) -> None:
    """Each algorithm: limit and peek"""
    quota = throttled.per_min(2, burst=2)
    limiter = throttled.Throttled(key="a", using=kind, quota=quota, store=recipe.store)

    assert [limiter.limit().limited for _ in range(3)] == [False, False, True]
    assert limiter.peek("a").remaining == 0


@every_scheme
def test_asyncio_calls_are_limited(recipe: Any) -> None:
    """Algorithms for asyncio"""
    limiters = [
        module.Throttled(key="b", using="gcra", quota=throttled.per_min(2, burst=2), store=store)
        for module, store in ((throttled, recipe.store), (throttled.asyncio, recipe.astore))
    ]

    async def use() -> list[bool]:
        return [(await limiters[1].limit()).limited for _ in range(2)]

    assert not limiters[0].limit().limited
    assert asyncio.run(use()) == [False, True]
