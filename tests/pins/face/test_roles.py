"""The ACL rules of each role, as `keyleash acl` prints them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from support.clusters import RealCluster
from support.command_line import Cli
from support.golden import GOLDEN, assert_golden
from support.servers import RealServer

POLICY = Path(__file__).with_name("policy.yaml")


def roles(title: str, cli: Cli) -> Iterator[str]:
    """Yield the rules of each role, sorted, a selector a line."""
    for role in cli.json("acl"):
        shown = cli.json("acl", role["role"])
        yield "\n".join([f"# {role['role']}, {title}", *shown["rules"], ""])
    shown = cli.json("acl", "agent", "worker")
    yield "\n".join([f"# agent, {title}", *shown["rules"], ""])


def states(title: str, server: RealServer | RealCluster) -> Iterator[str]:
    """Yield the same of a server with a policy."""
    cli = Cli(server.url)
    cli.ok("load", POLICY, "--yes")
    yield from roles(title, cli)


def test_rules_of_roles_are_those_of_the_golden_file(
    embedded: RealServer, embedded_cluster: RealCluster
) -> None:
    """A right too few breaks operators, and one too many is a hole."""
    pages = [*states("one server", embedded), *states("a cluster", embedded_cluster)]

    assert_golden(GOLDEN / "face" / "roles.txt", "\n".join(pages))
