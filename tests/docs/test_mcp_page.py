"""The settings and the command lines of the page on MCP, started as applications start them."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import httpx2
import pytest
from mcp import ClientSession, StdioServerParameters
from mcp.client.stdio import stdio_client
from mcp.client.streamable_http import streamable_http_client

from support.command_line import Spawned
from support.deployment import assert_accepted
from support.how_to import PAGES, HowTo
from support.servers import RealServer

PAGE = "mcp"
TEXT = (PAGES / "mcp.md").read_text(encoding="utf-8")
LINES = re.findall(r"^    (keyleash mcp.*)$| -- (keyleash mcp .*)$", TEXT, re.M)
HOST = "redis.example.com"


def settings() -> list[Any]:
    """Return each server of each block of settings, with the heading and its name as the id."""
    servers = []
    for section in re.split(r"^#+ ", TEXT, flags=re.M):
        for block in re.findall(r"^```json\n(.*?)^```$", section, re.M | re.S):
            document = json.loads(block)
            (named,) = (document[key] for key in ("servers", "mcpServers") if key in document)
            heading = section.partition("\n")[0]
            servers += [
                pytest.param(named[name], id=f"{heading}: {name}")
                for name in named
                if name != "context"
            ]
    return servers


SETTINGS = settings()


@pytest.fixture
def home(how_to: HowTo) -> Path:
    """The home directory of a reader who followed the page."""
    how_to.load()
    return how_to.home("agent-runner")


def filled(text: str, url: str, home: Path) -> str:
    """Return a text of the settings with the values of its variables, and of a reader's machine."""
    token = (home / ".keyleash" / "token").read_text()
    for variable, value in (
        (r"/Users/ann|\$\{(HOME|userHome)\}", str(home)),
        (r"redis://127.0.0.1:6379|\$\{(KEYLEASH_URL|env:KEYLEASH_URL|input:keyleash-url)\}", url),
        (r"\$\{(KEYLEASH_TOKEN|env:KEYLEASH_TOKEN|input:token)\}", token),
    ):
        text = re.sub(variable, value, text)
    assert "${" not in text
    return text


@asynccontextmanager
async def connected(server: Mapping[str, Any], home: Path, port: int) -> AsyncIterator[Any]:
    """Yield the streams of a server of the settings; by HTTP, of the one at a port."""
    if "command" in server:
        path = f"{home / '.local' / 'bin'}{os.pathsep}{os.environ['PATH']}"
        process = StdioServerParameters(
            command=server["command"], args=server["args"], env={"PATH": path, **server["env"]}
        )
        async with stdio_client(process) as streams:
            yield streams
        return
    # The proxy of the page passes on the name of the host.
    headers = {**server["headers"], "Host": HOST}
    assert server["url"] == f"https://{HOST}/mcp"
    async with (
        httpx2.AsyncClient(headers=headers) as client,
        streamable_http_client(f"http://127.0.0.1:{port}/mcp", http_client=client) as streams,
    ):
        yield streams


async def tools(server: Mapping[str, Any], home: Path, port: int = 0) -> set[str]:
    """Return the names of the tools of a server of the settings."""
    with anyio.fail_after(60):
        async with connected(server, home, port) as streams, ClientSession(*streams) as session:
            await session.initialize()
            return {tool.name for tool in (await session.list_tools()).tools}


@pytest.mark.parametrize("server", SETTINGS)
def test_settings_of_the_page_start_a_server_with_tools(
    server: dict[str, Any], home: Path, how_to: HowTo, embedded: RealServer
) -> None:
    """By stdio they start it; by HTTP they reach the one that the page puts behind a proxy."""
    server = json.loads(filled(json.dumps(server), embedded.url, home))
    expected = {"timeline", "undo_plan"} if "--operator" in server.get("args", ()) else {"set"}
    if "command" in server:
        assert expected <= anyio.run(tools, server, home)
        return
    (line,) = re.findall(r"^    keyleash (mcp .* --allow-host \S+)$", behind_a_proxy(), re.M)
    with how_to.cli.spawn(shlex.split(line.replace(":8377", ":0"))) as process:
        assert expected <= anyio.run(tools, server, home, port_of(process))
        process.terminate()


def behind_a_proxy() -> str:
    """Return the part of the page on proxies."""
    return TEXT.partition("Behind a proxy")[2].partition("Caddyfile")[0]


def port_of(process: Spawned) -> int:
    """Return the port of a server, which prints its URL when it listens."""
    assert process.stdout is not None
    return int(process.stdout.readline().rpartition(":")[2].removesuffix("/mcp\n"))


def test_settings_of_the_page_have_no_secret() -> None:
    """Each application has its settings for stdio, and by HTTP where it takes a bearer."""
    assert len(SETTINGS) == 9
    assert "keyleash_" not in "".join(re.findall(r"^```json\n(.*?)^```$", TEXT, re.M | re.S))


@pytest.mark.parametrize("line", ["".join(found) for found in LINES])
def test_command_of_the_page_has_options_of_the_program(line: str) -> None:
    """A reader copies it."""
    assert_accepted(shlex.split(line)[1:])


def test_shell_lines_of_the_page_write_a_token_that_others_cannot_read(
    how_to: HowTo, tmp_path: Path
) -> None:
    """The policy of the page loads, and the file has mode 600."""
    how_to.load()
    (lines,) = re.findall(r"^    mkdir (?:.*\n)    .*\n", TEXT, re.M)
    command = f'keyleash() {{ {" ".join(how_to.cli.command)} "$@"; }}\n{lines}'

    subprocess.run(
        ["bash", "-ec", command], check=True,
        env={**how_to.cli.process_env(), "HOME": str(tmp_path)},
    )  # fmt: skip

    token = tmp_path / ".keyleash" / "token"
    assert token.stat().st_mode & 0o777 == 0o600
    assert how_to.cli.json("whoami", "--token", token)["identity"] == "agent-runner"


def test_write_path_of_the_page_has_no_tool_that_reads_values(home: Path, how_to: HowTo) -> None:
    """A context gateway reads beside it."""
    how_to.load(1)
    server = {
        "command": "keyleash",
        "args": ["mcp", "--token", str(home / ".keyleash" / "token")],
        "env": {"KEYLEASH_URL": how_to.cli.url},
    }

    found = anyio.run(tools, server, home)

    assert "set" in found
    assert not found & {"get", "getrange", "hgetall", "smembers", "xrange"}
