"""The policies and the programs of the page on agent memory, run as written."""

from __future__ import annotations

import re
from importlib.metadata import distributions
from pathlib import Path

import pytest

from support.command_line import Cli
from support.gateways import gateway_to
from support.how_to import HowTo
from support.servers import RealServer

LIBRARIES = (
    "langgraph-checkpoint-redis", "redisvl", "langchain-redis", "mem0ai",
    "llama-index-vector-stores-redis", "redis-om", "redisvl",
)  # fmt: skip
"""The library of each program; the last program issues its tokens itself."""


@pytest.mark.parametrize("number", range(len(LIBRARIES)), ids=LIBRARIES)
def test_program_of_the_page_prints_what_the_page_shows(
    number: int, stack_server: RealServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the policy above it; where a program takes a URL, through a gateway."""
    if not [*distributions(name=LIBRARIES[number])]:
        pytest.skip("`make .venv/.compat-agents` installs it")
    cli = Cli(stack_server.url)
    page = HowTo("agent-memory", cli, tmp_path)
    page.load(number)
    token = "" if number == len(LIBRARIES) - 1 else cli.token("agent-runner")
    monkeypatch.setenv("KEYLEASH_URL", stack_server.url)
    monkeypatch.setenv("KEYLEASH_TOKEN", token)
    monkeypatch.setenv("MEM0_DIR", str(tmp_path))

    with gateway_to(stack_server.url) as gateway:
        monkeypatch.setenv("REDIS_URL", f"redis://agent-runner:{token}@127.0.0.1:{gateway.port}")
        lines = page.run(number)

    assert lines == re.findall(r"^```text\n(.*?)^```$", page.text, re.M | re.S)[number].splitlines()
