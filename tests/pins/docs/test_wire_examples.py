"""Run the examples of `docs/reference/wire.md`."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from redis.crc import key_slot

import keyleash
from support.clusters import RealCluster
from support.leash import Leash
from support.node import require_node
from support.replication import wait_until
from support.servers import RealServer

ROOT = Path(__file__).resolve().parents[3]
PAGE = (ROOT / "docs" / "reference" / "wire.md").read_text(encoding="utf-8")
EXAMPLE = re.compile(r"^```(bash|js)\n(.*?)^```\n\nprints.*?^```text\n(.*?)^```$", re.M | re.S)
CODE, ON_CLUSTER = (
    {language: (code, printed) for language, code, printed in EXAMPLE.findall(part)}
    for part in PAGE.split("\n## Examples on a cluster\n")
)


POLICY = (ROOT / "examples" / "agents.yaml").read_text(encoding="utf-8")


@pytest.fixture
def leash(server: RealServer) -> Leash:
    """A server with the policy that the page names."""
    leash = Leash(server)
    leash.load(POLICY)
    return leash


@pytest.fixture
def ioredis(tmp_path: Path) -> Path:
    """A folder with ioredis."""
    (tmp_path / "node_modules").symlink_to(require_node("ioredis"))
    return tmp_path


def output_of(leash: Leash, *command: str, folder: Path, **more: str) -> str:
    """Return the output of a program with a server and a token of `agent-runner`."""
    token = leash.issue("agent-runner").token
    return output_with(leash.server.url, token, *command, folder=folder, **more)


def output_with(url: str, token: str, *command: str, folder: Path, **more: str) -> str:
    """Return the output of a program with a URL and a token."""
    done = subprocess.run(
        command,
        cwd=folder,
        env={**os.environ, "KEYLEASH_URL": url, "KEYLEASH_TOKEN": token, **more},
        capture_output=True,
        text=True,
        check=False,
        timeout=600,
    )
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


@pytest.mark.parametrize("program", ["redis-cli", "valkey-cli"])
def test_example_for_redis_cli_prints_the_output_on_the_page(
    leash: Leash, program: str, tmp_path: Path
) -> None:
    """FAKETTY makes the program print as on a terminal."""
    if shutil.which(program) is None or shutil.which("bash") is None:
        pytest.skip(f"there is no {program}, or no bash, on PATH")
    code, printed = CODE["bash"]
    script = code.replace("redis-cli", program)

    assert output_of(leash, "bash", "-c", script, folder=tmp_path, FAKETTY="1") == printed


@pytest.mark.node
def test_example_for_ioredis_prints_the_output_on_the_page(leash: Leash, ioredis: Path) -> None:
    """Readers copy this code."""
    code, printed = CODE["js"]
    (ioredis / "example.mjs").write_text(code, encoding="utf-8")

    assert output_of(leash, "node", "example.mjs", folder=ioredis) == printed


@pytest.mark.node
def test_example_for_ioredis_recovers_from_a_stale_guard_and_a_lost_script(
    leash: Leash, ioredis: Path
) -> None:
    """The example is a model for clients: it retries if nothing ran."""
    code, printed = CODE["js"]
    old = leash.digest("agent-runner")
    old_script = leash.stored_script("agent-runner")
    leash.load(POLICY.replace("50000/day", "50001/day"))
    leash.admin.script_flush()
    # The server has only the old guard: it is stale, and the new one is lost.
    leash.admin.script_load(old_script)
    remembered = f"await findGuard();\nguard = {{ ...guard, digest: '{old}' }};\nconst [state"
    (ioredis / "example.mjs").write_text(code.replace("const [state", remembered), encoding="utf-8")

    assert output_of(leash, "node", "example.mjs", folder=ioredis) == printed
    assert leash.admin.script_exists(leash.digest("agent-runner")) == [True]


# On a cluster.


@pytest.fixture
def token(embedded_cluster: RealCluster) -> str:
    """A token of `agent-runner` on a cluster with the policy that the page names."""
    with keyleash.Operator.from_url(embedded_cluster.url) as operator:
        operator.load(keyleash.Policy(POLICY))
        return operator.tokens.issue("agent-runner").token


@pytest.mark.parametrize("program", ["redis-cli", "valkey-cli"])
def test_example_for_redis_cli_on_a_cluster_prints_the_output_on_the_page(
    embedded_cluster: RealCluster, token: str, program: str, tmp_path: Path
) -> None:
    """It fetches the leases of two nodes by hand."""
    if shutil.which(program) is None or shutil.which("bash") is None:
        pytest.skip(f"there is no {program}, or no bash, on PATH")
    code, printed = ON_CLUSTER["bash"]
    command = "bash", "-c", code.replace("redis-cli", program)

    assert output_with(embedded_cluster.url, token, *command, folder=tmp_path) == printed


@pytest.mark.node
def test_example_for_ioredis_on_a_cluster_prints_the_output_on_the_page(
    embedded_cluster: RealCluster, token: str, ioredis: Path
) -> None:
    """A slot that moves meanwhile delays it."""
    cluster = embedded_cluster
    code, printed = ON_CLUSTER["js"]
    (ioredis / "example.mjs").write_text(code, encoding="utf-8")
    slot = key_slot(b"agents:jobs:44:state")
    with ThreadPoolExecutor(1) as pool:
        with cluster.moving(slot, cluster.other(cluster.owner(slot))):
            command = "node", "example.mjs"
            output = pool.submit(output_with, cluster.url, token, *command, folder=ioredis)
            first = "agents:jobs:42:state"
            wait_until(lambda: cluster.owner(first).admin.get(first) or output.done())

        assert output.result() == printed
