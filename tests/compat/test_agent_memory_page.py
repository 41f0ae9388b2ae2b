"""The policies and the programs of the page on agent memory, run as written."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from importlib.metadata import distributions
from pathlib import Path

import pytest

from support.command_line import Cli
from support.gateways import gateway_to
from support.how_to import HowTo
from support.servers import RealServer

LIBRARIES = (
    "langgraph-checkpoint-redis", "redisvl", "langchain-redis", "mem0ai",
    "llama-index-vector-stores-redis", "redis-om", "redisvl", "redis",
)  # fmt: skip
"""The library of each program; the last two programs issue their tokens themselves."""


@pytest.mark.parametrize("number", range(len(LIBRARIES)), ids=LIBRARIES)
def test_program_of_the_page_prints_what_the_page_shows(
    number: int, stack_server: RealServer, tmp_path: Path
) -> None:
    """With the policy above it; where a program takes a URL, through a gateway.

    In a process of its own: libraries keep what other tests gave them.
    """
    if not [*distributions(name=LIBRARIES[number])]:
        pytest.skip("`make .venv/.compat-agents` installs it")
    cli = Cli(stack_server.url)
    page = HowTo("agent-memory", cli, tmp_path)
    page.load(number)
    token = "" if number >= len(LIBRARIES) - 2 else cli.token("agent-runner")
    program, shown = (
        re.findall(rf"^```{kind}\n(.*?)^```$", page.text, re.M | re.S)[number]
        for kind in ("python", "text")
    )

    with gateway_to(stack_server.url) as gateway:
        ran = subprocess.run(
            [sys.executable, "-c", program], capture_output=True, text=True, check=False,
            env={
                **os.environ, "KEYLEASH_URL": stack_server.url, "KEYLEASH_TOKEN": token,
                "REDIS_URL": f"redis://agent-runner:{token}@127.0.0.1:{gateway.port}",
                "MEM0_DIR": str(tmp_path),
            },
        )  # fmt: skip

    assert ran.stdout == shown, ran.stderr
