"""Calls of a tool over stdio and HTTP, next to keyleash's client and to a server of no tools.

    python -m benchmarks.mcp [--server NAME] [--rounds 5]

All take turns in one run, with the official SDK as client. A server that returns a text and calls
nothing shows what the protocol costs itself.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import statistics
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import httpx2
import redis
from benchmarks.support.policy import load_target
from benchmarks.support.servers import EMBEDDED, choose_servers, running, version_of
from benchmarks.support.variants import KEY
from mcp import Client, StdioServerParameters
from mcp.client.stdio import stdio_client
from mcp.client.streamable_http import streamable_http_client

import keyleash.asyncio

CALLS = 300
ADDED_MS = 2.0
"""The bar: what a call over stdio may take more than the client alone."""
GIVEN = {"key": KEY.format(job=f"{0:012d}"), "value": "x"}
BARE = """
import asyncio
from mcp.server import Server
from mcp.server.stdio import stdio_server
from mcp_types import CallToolResult, ListToolsResult, TextContent, Tool

async def call(_, params):
    found = {"result": True}
    return CallToolResult(content=[TextContent(text="{}")], structured_content=found)

async def tools(_, params):
    return ListToolsResult(tools=[Tool(name="set", input_schema={"type": "object"})])

async def main():
    server = Server("bare", on_call_tool=call, on_list_tools=tools)
    async with stdio_server() as (read, write):
        await server.run(read, write, server.create_initialization_options())

asyncio.run(main())
"""


def main(argv: list[str] | None = None) -> int:
    """Print the figures; return 1 if the bar is missed."""
    parser = argparse.ArgumentParser(prog="mcp", description=__doc__)
    parser.add_argument("--server", default=EMBEDDED, help="default: %(default)s")
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args(argv)
    (choice,) = choose_servers([options.server])
    with running(choice, None) as server, redis.Redis.from_url(server.url) as admin:
        print(version_of(admin))
        token = load_target(admin).token
        rounds = asyncio.run(measured(server.url, token, options.rounds))
    of = {name: [item[name] for item in rounds] for name in rounds[0]}
    for name, values in of.items():
        ratio = statistics.median(v / c for v, c in zip(values, of["client"], strict=True))
        print(f"  p50 of SET, {name:<12}{statistics.median(values):7.2f} ms {ratio:6.1f} × client")
    added = statistics.median(s - c for s, c in zip(of["stdio"], of["client"], strict=True))
    print(f"  stdio adds {added:.2f} ms; the bar is {ADDED_MS:g}")
    return 0 if added <= ADDED_MS else 1


async def measured(url: str, token: str, rounds: int) -> list[dict[str, float]]:
    """Return the medians of a call in ms, by what makes it, of each round."""
    env = {**os.environ, "KEYLEASH_URL": url, "KEYLEASH_TOKEN": token}
    words = ["-m", "keyleash", "mcp"]
    async with contextlib.AsyncExitStack() as stack:
        client = keyleash.asyncio.Redis.from_url(url, token=token)
        stack.push_async_callback(client.aclose)
        stdio = await stack.enter_async_context(over_stdio(words, env))
        bare = await stack.enter_async_context(over_stdio(["-c", BARE], env))
        http = await stack.enter_async_context(over_http(words, env, token))
        calls: dict[str, Callable[[], Awaitable[Any]]] = {
            "client": lambda: client.set(GIVEN["key"], GIVEN["value"]),
            "no tools": lambda: bare.call_tool("set", GIVEN),
            "stdio": lambda: stdio.call_tool("set", GIVEN),
            "http": lambda: http.call_tool("set", GIVEN),
        }
        return [
            {name: await median_ms(call) for name, call in calls.items()} for _ in range(rounds)
        ]


async def median_ms(call: Callable[[], Awaitable[Any]]) -> float:
    """Return the median time of a call, one after the other."""
    taken = []
    for _ in range(CALLS):
        begin = time.perf_counter()
        await call()
        taken.append(time.perf_counter() - begin)
    return statistics.median(taken) * 1000


@contextlib.asynccontextmanager
async def over_stdio(words: list[str], env: dict[str, str]) -> AsyncIterator[Client]:
    """Run a server over stdio; yield its client."""
    server = StdioServerParameters(command=sys.executable, args=words, env=env)
    async with Client(stdio_client(server)) as client:
        await client.list_tools()
        yield client


@contextlib.asynccontextmanager
async def over_http(words: list[str], env: dict[str, str], token: str) -> AsyncIterator[Client]:
    """Run a server over HTTP; yield its client."""
    command = [sys.executable, *words, "--http", "127.0.0.1:0"]
    process = subprocess.Popen(
        command, env=env, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )
    assert process.stdout is not None  # noqa: S101 - it is a pipe
    bearer = {"Authorization": f"Bearer {token}"}
    try:
        url = process.stdout.readline().strip()
        async with (
            httpx2.AsyncClient(headers=bearer) as http,
            Client(streamable_http_client(url, http_client=http)) as client,
        ):
            await client.list_tools()
            yield client
    finally:
        process.terminate()
        process.communicate()


if __name__ == "__main__":
    sys.exit(main())
