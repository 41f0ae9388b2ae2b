from __future__ import annotations

import asyncio
from typing import Any

from compat.conftest import every_scheme
from compat.page import Library

LIBRARY = Library(
    "python-socketio",
    recipe="""
import socketio


class GuardedManager(socketio.AsyncRedisManager):
    def _redis_connect(self):
        super()._redis_connect()
        pool = self.redis.connection_pool
        pool.connection_class = keyleash.asyncio.connection_class(token, pool.connection_class)
        assert keyleash.is_guarded(self.redis)


manager = GuardedManager(url)
""",
    policy="""
version: 1
identities:
  agent-runner:
    kind: machine
    grants:
      - {allow: [publish, subscribe], channels: [socketio]}
""",
)


@every_scheme
def test_event_reaches_another_process(recipe: Any) -> None:
    """Events between processes, write-only managers"""

    async def use() -> Any:
        reader = recipe.manager
        writer = recipe.GuardedManager(recipe.url, write_only=True)
        listening = reader._listen()
        first = asyncio.ensure_future(anext(listening))
        while not (reader.pubsub and reader.pubsub.subscribed):
            await asyncio.sleep(0.01)
        await asyncio.sleep(0.1)
        await writer.emit("news", {"a": 1})
        return await asyncio.wait_for(first, 60)

    assert b"news" in asyncio.run(use())
