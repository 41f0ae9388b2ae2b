"""MCP servers of tests, and clients of the official SDK on both revisions of the protocol."""

from __future__ import annotations

import asyncio
import re
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any

import httpx2
from mcp import Client, StdioServerParameters
from mcp.client.stdio import stdio_client
from mcp.client.streamable_http import streamable_http_client

from keyleash.addons.mcp.holder import Holder
from keyleash.addons.mcp.serve import McpServer
from support.command_line import Cli, Spawned

REVISIONS = {"legacy": "2025-11-25", "auto": "2026-07-28"}
"""The mode of a client, and the revision that it speaks with the server."""


def run(body: Callable[[], Awaitable[None]]) -> None:
    """Run the body of a test."""
    asyncio.run(body())  # type: ignore[arg-type]


@asynccontextmanager
async def in_process(
    url: str, token: str, mode: str = "auto", **extra: Any
) -> AsyncIterator[Client]:
    """A client of a server in this process, which is faster than one over stdio."""
    server = McpServer(lambda _: Holder(url, token, by_class=False, delegate=True, timeout_s=5))
    async with Client(server, mode=mode, **extra) as client:
        yield client


@asynccontextmanager
async def over_stdio(
    url: str, token: str, *options: str, mode: str = "auto", **extra: Any
) -> AsyncIterator[Client]:
    """A client of a server in a process of its own."""
    env = {**Cli(url).env, **({"KEYLEASH_TOKEN": token} if token else {})}
    words = ["-m", "keyleash", "mcp", *options]
    server = StdioServerParameters(command=sys.executable, args=words, env=with_path(env))
    async with Client(stdio_client(server), mode=mode, **extra) as client:
        yield client


def with_path(env: dict[str, str]) -> dict[str, str]:
    """Return an environment with the paths of modules of this process."""
    return {**env, "PYTHONPATH": ":".join(path for path in sys.path if path)}


@contextmanager
def http_server(url: str, *options: str) -> Iterator[str]:
    """A server over HTTP in a process of its own; yield its URL."""
    words = [*Cli.command, "mcp", "--http", "127.0.0.1:0", *options]
    with (
        tempfile.TemporaryFile("w+") as log,
        Spawned(
            words, env=with_path(Cli(url).env), stdout=subprocess.PIPE, stderr=log, text=True
        ) as process,
    ):
        assert process.stdout is not None
        yield process.stdout.readline().strip()
        process.terminate()
        process.communicate(timeout=20)
        log.seek(0)
        errors = log.read()
        assert process.returncode == 0, errors
        assert "kl_" not in errors
        assert "Traceback" not in errors, errors
        assert not re.search(r"\b[0-9a-f]{32}\b", errors), "ids of sessions are secrets"


@asynccontextmanager
async def over_http(
    url: str, token: str, mode: str = "auto", **extra: Any
) -> AsyncIterator[Client]:
    """A client of a server at a URL."""
    bearer = {"Authorization": f"Bearer {token}"}
    async with httpx2.AsyncClient(headers=bearer) as http:
        transport = streamable_http_client(url, http_client=http)
        async with Client(transport, mode=mode, **extra) as client:
            yield client
