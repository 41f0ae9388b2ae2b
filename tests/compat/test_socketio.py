from __future__ import annotations

import asyncio
from typing import Any

import socketio

import keyleash
from compat.conftest import Guarded

LIBRARY = "python-socketio"
CLIENT = """
import socketio

guarded = keyleash.asyncio.connection_class(token)
manager = socketio.AsyncRedisManager(url, redis_options={"connection_class": guarded})
"""


def test_event_reaches_another_process(guarded: Guarded) -> None:
    """Events between processes, write-only managers"""

    async def use() -> Any:
        guarded_class = keyleash.asyncio.connection_class(guarded.token)
        options = {"connection_class": guarded_class}
        reader = socketio.AsyncRedisManager(guarded.url, redis_options=options)
        writer = socketio.AsyncRedisManager(guarded.url, redis_options=options, write_only=True)
        listening = reader._listen()
        first = asyncio.ensure_future(anext(listening))
        await asyncio.sleep(0.3)
        await writer.emit("news", {"a": 1})
        return await asyncio.wait_for(first, 5)

    assert b"news" in asyncio.run(use())
