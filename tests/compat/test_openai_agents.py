from __future__ import annotations

import asyncio
from typing import Any

from agents.extensions.memory import RedisSession

from compat.conftest import Guarded

LIBRARY = "openai-agents"
CLIENT = """
from agents.extensions.memory import RedisSession

pool = keyleash.asyncio.pool(url, token)
session = RedisSession("user-1", redis_client=redis.asyncio.Redis(connection_pool=pool))
"""


def test_session_keeps_its_items(guarded: Guarded) -> None:
    """Sessions: add, read, pop and clear items"""

    async def use() -> Any:
        session = RedisSession("user-1", redis_client=guarded.aclient())
        await session.add_items([{"role": "user", "content": str(n)} for n in range(5)])
        last = await session.get_items(limit=2)
        popped = await session.pop_item()
        rest = await session.get_items()
        await session.clear_session()
        return last, popped, rest, await session.get_items(), await session.ping()

    items = [{"role": "user", "content": str(n)} for n in range(5)]
    assert asyncio.run(use()) == (items[3:], items[4], items[:4], [], True)


def test_concurrent_writers_lose_no_item(guarded: Guarded) -> None:
    """Sessions: several writers at the same time"""

    async def use() -> int:
        sessions = [RedisSession("user-1", redis_client=guarded.aclient()) for _ in range(5)]
        await asyncio.gather(
            *(
                session.add_items([{"role": "user", "content": "x"}])
                for session in sessions
                for _ in range(5)
            )
        )
        return len(await sessions[0].get_items())

    assert asyncio.run(use()) == 25
