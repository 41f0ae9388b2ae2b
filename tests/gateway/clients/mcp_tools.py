"""redis-mcp-server, by `--url`: a client of the Model Context Protocol calls its tools."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path
from typing import Any

from mcp import ClientSession, StdioServerParameters
from mcp.client.stdio import stdio_client
from steps import URL, key, step

SERVER = StdioServerParameters(
    command=str(Path(sys.executable).with_name("redis-mcp-server")), args=["--url", URL]
)


async def call(*calls: tuple[str, dict[str, Any]]) -> list[str]:
    """Return the texts that tools reply with."""
    async with stdio_client(SERVER) as streams, ClientSession(*streams) as session:
        await session.initialize()
        replies: list[Any] = [await session.call_tool(name, arguments) for name, arguments in calls]
        return [" ".join(part.text for part in reply.content) for reply in replies]


def called(*calls: tuple[str, dict[str, Any]]) -> list[str]:
    return asyncio.run(call(*calls))


step(
    "Tools for strings, hashes, lists, sorted sets, streams",
    lambda: called(
        ("set", {"key": key("state"), "value": "running", "expiration": 100}),
        ("get", {"key": key("state")}),
        ("hset", {"name": key("h"), "key": "a", "value": "1"}),
        ("hget", {"name": key("h"), "key": "a"}),
        ("rpush", {"name": key("q"), "value": "x"}),
        ("lrange", {"name": key("q"), "start": 0, "stop": -1}),
        ("zadd", {"key": key("z"), "score": 1.5, "member": "m"}),
        ("zrange", {"key": key("z"), "start": 0, "end": -1, "with_scores": True}),
        ("xadd", {"key": key("x"), "fields": {"f": "v"}}),
    )[1:8:2],
    ["running", "1", '["x"]', "[('m', 1.5)]"],
)
step(
    "Tools `type`, `scan_all_keys` and `publish`",
    lambda: [
        '"type": "hash"' in text or text
        for text in called(
            ("type", {"key": key("h")}),
            ("scan_all_keys", {"pattern": key("h*")}),
            ("publish", {"channel": "agents:news:1", "message": "hi"}),
        )
    ],
    [True, key("h"), "Message published to channel 'agents:news:1'."],
)
step(
    "Denials, which the tools return as texts",
    lambda: [
        text.partition("LEASH ")[2].split(" ")[0]
        for text in called(
            ("get", {"key": "agents:context:1"}), ("publish", {"channel": "other", "message": "x"})
        )
    ],
    ["KEY_NOT_GRANTED", "CHANNEL_NOT_GRANTED"],
)
