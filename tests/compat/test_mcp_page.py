"""The agent of the page on MCP, with a model that is a script, over real sessions."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest

from support.command_line import Cli
from support.how_to import HowTo
from support.mcp_clients import http_server
from support.servers import RealServer

PAGE = HowTo("mcp", Cli(""), Path()).text
(_, PROGRAM, BY_HTTP), (SHOWN, *_) = (
    re.findall(rf"^```{kind}\n(.*?)^```$", PAGE, re.M | re.S) for kind in ("python", "text")
)


def answer(request: Any) -> dict[str, Any]:
    """Return what a model outputs next.

    It knows the tools, the task and the results of its calls. It first tries a key of its own
    invention, and of a denial it knows nothing but what its text says.
    """
    (task,) = (item["content"] for item in request["input"] if item.get("role") == "user")
    results = [item["output"] for item in request["input"] if item.get("output")]
    if "set" not in [tool["name"] for tool in request["tools"]]:
        return says("no tool writes")
    number = re.findall(r"\d+", task)[0]
    key = f"job:{number}"
    if results:
        text = results[-1] if isinstance(results[-1], str) else results[-1][0]["text"]
        allowed = re.findall(r"^allowed_instead: (.*)$", text, re.M)
        if not allowed:
            call = [item for item in request["input"] if item.get("type") == "function_call"][-1]
            return says(f"done: {json.loads(call['arguments'])['key']}")
        key = re.sub(r"\{\w+\}|\*", number, json.loads(allowed[0])[0])
    arguments = json.dumps({"key": key, "value": "done"})
    ids = {"id": f"call-{len(results)}", "call_id": f"call-{len(results)}"}
    return {"type": "function_call", "name": "set", "arguments": arguments, **ids}


def says(text: str) -> dict[str, Any]:
    """Return the last output of a model."""
    content = [{"type": "output_text", "text": text, "annotations": []}]
    kind = {"type": "message", "role": "assistant", "status": "completed", "id": "message"}
    return {**kind, "content": content}


class Model(BaseHTTPRequestHandler):
    """The API of models, as the program calls it."""

    def do_POST(self) -> None:
        request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        fields = {"id": "response", "object": "response", "created_at": 0, "model": "script"}
        body = json.dumps({**fields, "output": [answer(request)], "tools": []}).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        """Log nothing."""


@pytest.fixture
def model() -> Iterator[str]:
    """The URL of the model."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Model)
    Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/v1"
    server.shutdown()
    server.server_close()


@pytest.fixture
def page(embedded: RealServer, tmp_path: Path) -> HowTo:
    """The page, for a reader who followed it."""
    page = HowTo("mcp", Cli(embedded.url), tmp_path)
    page.load()
    page.home("agent-runner")
    return page


def run(page: HowTo, model: str, home: Path, program: str = PROGRAM) -> str:
    """Run the program of the page in a process of its own; return what it prints."""
    ran = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False, timeout=120,
        env={
            **os.environ, "HOME": str(home), "OPENAI_BASE_URL": model,
            "KEYLEASH_URL": page.cli.url, "KEYLEASH_TOKEN": (home / ".keyleash/token").read_text(),
            "PATH": f"{home}/.local/bin{os.pathsep}{os.environ['PATH']}",
            "OPENAI_API_KEY": "none", "OPENAI_AGENTS_DISABLE_TRACING": "1",
        },
    )  # fmt: skip
    assert ran.returncode == 0, ran.stderr
    return ran.stdout


def test_denied_agent_goes_on_with_what_the_denial_allows(
    page: HowTo, model: str, embedded: RealServer, tmp_path: Path
) -> None:
    """The program prints what the page shows, and the audit log has both calls of one session."""
    assert run(page, model, tmp_path) == SHOWN

    assert embedded.client().get("agents:jobs:42:state") == b"done"
    assert embedded.client().exists("job:42") == 0
    (denial,) = page.cli.lines("audit", "log", "--denied")
    (event,) = page.cli.lines("audit", "log")
    assert denial["code"] == "KEY_NOT_GRANTED"
    assert denial["correlation"] == event["correlation"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("pattern", "allow", "end"),
    [
        ("work:{id}:is:*", "write", "done: work:42:is:42"),
        ("agents:jobs:*", "read", "no tool writes"),
    ],
)
def test_agent_follows_the_grants_of_any_policy(
    pattern: str, allow: str, end: str, page: HowTo, model: str, tmp_path: Path
) -> None:
    """The model knows no key beforehand, and stops where nothing is allowed."""
    policy = tmp_path / "other.yaml"
    grant = f'{{allow: [{allow}], keys: ["{pattern}"]}}'
    policy.write_text(
        f"version: 1\nidentities: {{agent-runner: {{kind: machine, grants: [{grant}]}}}}\n"
    )
    page.cli.ok("load", policy, "--yes", "--allow-widening")

    assert run(page, model, tmp_path).splitlines()[-1] == end


@pytest.mark.slow
def test_agent_of_the_page_runs_by_http(page: HowTo, model: str, tmp_path: Path) -> None:
    """With the server that the page puts in the place of the other."""
    program = re.sub(r"^    server = .*?^    \)\n", BY_HTTP, PROGRAM, flags=re.M | re.S)
    program = program.replace("MCPServerStdio", "MCPServerStreamableHttp")
    with http_server(page.cli.url) as url:
        shown = run(page, model, tmp_path, program.replace("https://redis.example.com/mcp", url))

    assert shown == SHOWN
