"""The settings and the command lines of the page on MCP, started as applications start them."""

from __future__ import annotations

import asyncio
import json
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import httpx2
import pytest
from mcp import Client, StdioServerParameters
from mcp.client.stdio import stdio_client
from mcp.client.streamable_http import streamable_http_client

from support.deployment import assert_accepted
from support.how_to import PAGES, HowTo
from support.mcp_clients import http_server
from support.servers import RealServer

PAGE = "mcp"
TEXT = (PAGES / "mcp.md").read_text(encoding="utf-8")
LINES = re.findall(r"^    (keyleash mcp.*)$| -- (keyleash mcp .*)$", TEXT, re.M)
HOST = "redis.example.com"


def settings() -> list[Any]:
    """Return each server of each block of settings, with the heading and its name as the id."""
    servers: list[Any] = []
    for section in re.split(r"^#+ ", TEXT, flags=re.M):
        for block in re.findall(r"^```json\n(.*?)^```$", section, re.M | re.S):
            document = json.loads(block)
            (named,) = (document[key] for key in ("servers", "mcpServers") if key in document)
            heading = section.partition("\n")[0]
            marks = [pytest.mark.slow] if servers else []  # each starts a server
            servers += [
                pytest.param(named[name], id=f"{heading}: {name}", marks=marks)
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


async def tools(server: Mapping[str, Any], home: Path, url: str = "") -> set[str]:
    """Return the names of the tools of a server of the settings; over HTTP, of that at a URL."""
    path = f"{home / '.local' / 'bin'}{os.pathsep}{os.environ['PATH']}"
    # The proxy of the page passes on the name of the host.
    headers = {**server.get("headers", {}), "Host": HOST}
    async with asyncio.timeout(60), httpx2.AsyncClient(headers=headers) as http:
        if "command" in server:
            words = {"command": server["command"], "args": server["args"]}
            env = {"PATH": path, **server["env"]}
            transport = stdio_client(StdioServerParameters(**words, env=env))
        else:
            assert server["url"] == f"https://{HOST}/mcp"
            transport = streamable_http_client(url, http_client=http)
        async with Client(transport) as client:
            return {tool.name for tool in (await client.list_tools()).tools}


@pytest.mark.parametrize("server", SETTINGS)
def test_settings_of_the_page_start_a_server_with_tools(
    server: dict[str, Any], home: Path, how_to: HowTo, embedded: RealServer
) -> None:
    """By stdio they start it; by HTTP they reach the one of the page with a proxy in front."""
    server = json.loads(filled(json.dumps(server), embedded.url, home))
    expected = {"timeline", "undo_plan"} if "--operator" in server.get("args", ()) else {"set"}
    if "command" in server:
        assert expected <= asyncio.run(tools(server, home))
        return
    (option,) = re.findall(r"^With a proxy.*\n\n    keyleash .* (--allow-host \S+)$", TEXT, re.M)
    with http_server(embedded.url, *option.split()) as url:
        assert expected <= asyncio.run(tools(server, home, url))


def test_settings_of_the_page_have_no_secret() -> None:
    """Each application has its settings for stdio, and by HTTP where it takes a bearer."""
    assert len(SETTINGS) == 9
    assert "kl_" not in "".join(re.findall(r"^```json\n(.*?)^```$", TEXT, re.M | re.S))


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


def test_program_of_the_page_lists_tools_and_shows_a_denial(home: Path, how_to: HowTo) -> None:
    """A reader tries the server before an application does."""
    program = re.findall(r"^```python\n(.*?)^```$", TEXT, re.M | re.S)[0]
    path = f"{home / '.local' / 'bin'}{os.pathsep}{os.environ['PATH']}"
    env = {**os.environ, "HOME": str(home), "PATH": path, "KEYLEASH_URL": how_to.cli.url}

    printed = subprocess.check_output([sys.executable, "-c", program], env=env, text=True)

    listed, denied, *_, done = printed.splitlines()
    assert "'set'" in listed
    assert denied.startswith("KEY_NOT_GRANTED")
    assert done == '{"result":true}'


def test_write_path_of_the_page_has_no_tool_that_reads_values(home: Path, how_to: HowTo) -> None:
    """A context gateway reads beside it."""
    how_to.load(1)
    server = {
        "command": "keyleash",
        "args": ["mcp", "--token", str(home / ".keyleash" / "token")],
        "env": {"KEYLEASH_URL": how_to.cli.url},
    }

    found = asyncio.run(tools(server, home))

    assert "set" in found
    assert not found & {"get", "getrange", "hgetall", "smembers", "xrange"}
