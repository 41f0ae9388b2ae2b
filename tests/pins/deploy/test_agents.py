"""The agents of deploy/agents, run as written against a gateway."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from support.command_line import Cli, Spawned
from support.deployment import DEPLOY, ROOT
from support.servers import RealServer

AGENTS = DEPLOY / "agents"


@pytest.fixture
def redis_url(embedded: RealServer) -> Iterator[str]:
    """A URL with the address of a gateway and a token of the policy of compose.yaml."""
    cli = Cli(embedded.url)
    cli.ok("load", ROOT / "examples" / "starter.yaml", "--yes")
    with cli.spawn(
        ["gateway", *["--listen", "127.0.0.1:0"], *["--admin", "127.0.0.1:0"]]
    ) as gateway:
        assert gateway.stdout is not None
        address = gateway.stdout.readline().strip().removeprefix("redis://")
        yield f"redis://agent-runner:{cli.token('agent-runner')}@{address}"
        gateway.terminate()
        gateway.communicate()


def assert_works(command: list[str | Path], redis_url: str, job: int, **options: Path) -> None:
    """The agent is denied a key, writes another one and reads it."""
    env = {"PATH": os.environ["PATH"], "REDIS_URL": redis_url}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    with Spawned(command, env=env, **pipes, **options) as agent:  # type: ignore[call-overload]
        assert agent.stdout is not None
        denied, wrote = agent.stdout.readline(), agent.stdout.readline()
        agent.kill()
        rest = agent.communicate()[0]

    assert denied.startswith("denied: "), denied + wrote + rest
    assert "KEY_NOT_GRANTED" in denied
    assert wrote == f"agents:jobs:{job}:state is running\n", rest


def test_python_agent_works_with_a_url_alone(redis_url: str) -> None:
    """Plain redis-py."""
    assert_works([sys.executable, "-u", AGENTS / "agent.py"], redis_url, 42)


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("npm"), reason="no npm")
def test_node_agent_works_with_a_url_alone(redis_url: str, tmp_path: Path) -> None:
    """Plain ioredis, which npm installs."""
    for name in ("package.json", "agent.mjs"):
        shutil.copy(AGENTS / name, tmp_path)
    subprocess.run(["npm", "install", "--silent"], cwd=tmp_path, check=True)

    assert_works(["node", "agent.mjs"], redis_url, 43, cwd=tmp_path)
