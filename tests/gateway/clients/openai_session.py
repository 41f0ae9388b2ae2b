"""Sessions of the OpenAI Agents SDK, by `RedisSession.from_url`."""

from __future__ import annotations

import asyncio
from typing import Any

from agents.extensions.memory import RedisSession
from steps import URL, denied, step

items: list[Any] = [{"role": "user", "content": str(number)} for number in range(5)]


async def use() -> list[Any]:
    session = RedisSession.from_url("user-1", url=URL)
    await session.add_items(items)
    seen = [await session.get_items(limit=2), await session.pop_item(), await session.get_items()]
    await session.clear_session()
    seen += [await session.get_items(), await session.ping()]
    await session.close()
    return seen


async def use_together() -> int:
    sessions = [RedisSession.from_url("user-1", url=URL) for _ in range(3)]
    await asyncio.gather(*(session.add_items(items) for session in sessions for _ in range(3)))
    count = len(await sessions[0].get_items())
    for session in sessions:
        await session.close()
    return count


async def use_another_prefix() -> None:
    session = RedisSession.from_url("user-1", url=URL, key_prefix="other")
    try:
        await session.add_items(items)
    finally:
        await session.close()


step(
    "Sessions: add, read, pop and clear items",
    lambda: asyncio.run(use()),
    [items[3:], items[4], items[:4], [], True],
)
step("Several writers at the same time", lambda: asyncio.run(use_together()), 45)
denied("Denials, as errors", {"KEY_NOT_GRANTED": lambda: asyncio.run(use_another_prefix())})
