from __future__ import annotations

import asyncio
from typing import Any

import redis.asyncio

from compat.conftest import every_scheme
from compat.page import Library

LIBRARY = Library(
    "openai-agents",
    recipe="""
from agents.extensions.memory import RedisSession

pool = keyleash.asyncio.pool(url, token)
session = RedisSession("user-1", redis_client=redis.asyncio.Redis(connection_pool=pool))
""",
    policy="""
version: 1
identities:
  agent-runner:
    kind: machine
    grants:
      - {allow: [read, write, delete], keys: ["agents:session:*"]}
""",
)


@every_scheme
def test_session_keeps_its_items(recipe: Any) -> None:
    """Sessions: add, read, pop and clear items"""

    async def use() -> Any:
        session = recipe.session
        await session.add_items([{"role": "user", "content": str(n)} for n in range(5)])
        last = await session.get_items(limit=2)
        popped = await session.pop_item()
        rest = await session.get_items()
        await session.clear_session()
        return last, popped, rest, await session.get_items(), await session.ping()

    items = [{"role": "user", "content": str(n)} for n in range(5)]
    assert asyncio.run(use()) == (items[3:], items[4], items[:4], [], True)


def test_concurrent_writers_lose_no_item(recipe: Any) -> None:
    """Sessions: several writers at the same time"""

    async def use() -> int:
        client = redis.asyncio.Redis(connection_pool=recipe.pool)
        sessions = [recipe.RedisSession("user-1", redis_client=client) for _ in range(5)]
        await asyncio.gather(
            *(
                session.add_items([{"role": "user", "content": "x"}])
                for session in sessions
                for _ in range(5)
            )
        )
        return len(await sessions[0].get_items())

    assert asyncio.run(use()) == 25
