"""ACL users are not replicated: commands name unlisted replicas."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import keyleash
from support.command_line import Cli
from support.replication import Node

POLICY = """\
version: 1
identities:
  one: {kind: machine, grants: [{allow: [read, write], keys: ["k:*"]}]}
"""


def test_unlisted_replica_is_reported_and_listed_one_can_be_promoted(
    mortals: tuple[Node, Node], tmp_path: Path
) -> None:
    """A failover to a server with old users would lock out all agents."""
    primary, replica = mortals
    cli, node = Cli(f"redis://127.0.0.1:{primary.port}"), f"redis://127.0.0.1:{replica.port}"
    file = tmp_path / "policy.yaml"
    file.write_text(POLICY)
    cli.ok("load", file, "--yes")
    token = cli.token("one")

    assert "1 replica connected" in cli.run("fence", "apply", "--yes").stderr
    named = cli.run("fence", "apply", "--mint", "--yes", "--node", node)
    assert "connected" not in named.stderr
    primary.settle()
    primary.kill()
    replica.promote()
    # A replica has no scripts; an agent may not load them.
    Cli(node).ok("load", file, "--yes")

    login: dict[str, Any] = {"username": "one", "password": named.stdout.split()[1]}
    with keyleash.Redis(port=replica.port, token=token, **login) as agent:
        assert agent.set("k:1", "x") is True
