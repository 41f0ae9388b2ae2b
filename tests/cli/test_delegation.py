"""Child tokens on the command line: `token tree`, `list`, `show`, `whoami` and `audit log`."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any

import keyleash
from guard.test_delegation import AGENT
from keyleash.asyncio import Operator as AsyncOperator
from support.command_line import Cli
from support.leash import Leash
from support.servers import RealServer


def family(leash: Leash) -> tuple[Any, Any, Any]:
    """Return an issued token, a child of it and a grandchild, each of which wrote a key."""
    leash.load(runner=AGENT)
    root = leash.issue("runner")
    child = leash.client(root.token).delegate(bind={"job_id": 42}, meta={"run": "r-17"})
    leaf = leash.client(child.token).delegate(allow=["read", "write"], budget={"writes": 5})
    for item in (root, child, leaf):
        leash.client(item.token).set("jobs:42:a", 1)
    return root, child, leaf


def test_tree_shows_descendants_and_list_names_parents(embedded: RealServer) -> None:
    """Whatever an operator sees of a child names the token that made it."""
    root, child, leaf = family(Leash(embedded))
    cli = Cli(embedded.url)

    lines = cli.ok("token", "tree", root.id).splitlines()
    assert [line.split()[0] for line in lines[1:]] == [root.id, child.id, leaf.id]
    assert "  " + child.id in lines[2]
    assert "job_id=42" in lines[2]
    assert "run=r-17" in lines[2]
    assert "writes 5" in lines[3]
    assert "token.writes: 5 for the life of the token, 4 left" in cli.ok("token", "show", leaf.id)
    assert "renewable   until" in cli.ok("token", "show", root.id)
    assert "renewable" not in cli.ok("token", "show", leaf.id)
    tree = cli.json("token", "tree", child.id)
    assert (tree["id"], [item["id"] for item in tree["children"]]) == (child.id, [leaf.id])
    assert f"by {child.id}" in cli.ok("token", "show", leaf.id)
    assert f"child of    {child.id} of {root.id}" in cli.ok("token", "show", leaf.id)
    listed = {item["id"]: item for item in cli.json("token", "list")["tokens"]}
    assert listed[leaf.id]["chain"] == [root.id, child.id]
    assert listed[leaf.id]["by"] == child.id
    shown = cli.ok("whoami", KEYLEASH_TOKEN=leaf.token)
    assert f"child of  {child.id} of {root.id}" in shown
    assert shown.count("token.writes") == 1
    with_client = keyleash.Redis.from_url(embedded.url, token=leaf.token).whoami()
    assert with_client.restrictions is not None
    assert [item.id for item in with_client.restrictions.chain] == [root.id, child.id]


def test_tree_shows_a_rotated_token_whose_children_are_over(embedded: RealServer) -> None:
    """It is live itself until its grace ends."""
    root, child, leaf = family(Leash(embedded))
    cli = Cli(embedded.url)

    cli.ok("token", "rotate", root.id)
    rows = [line.split() for line in cli.ok("token", "tree", root.id).splitlines()[1:]]
    assert [row[:2] for row in rows] == [
        [root.id, "rotated"],
        [child.id, "revoked"],
        [leaf.id, "revoked"],
    ]


def test_refused_delegation_is_logged_with_its_reason(embedded: RealServer) -> None:
    """The code alone does not say what to change."""
    root, _, _ = family(Leash(embedded))
    cli = Cli(embedded.url)
    with contextlib.suppress(keyleash.DelegationRefusedError):
        keyleash.Redis.from_url(embedded.url, token=root.token).delegate(ttl="9d")

    assert "DELEGATION_REFUSED: no child token is made: its life would be" in cli.ok(
        "audit", "log", "--denied"
    )


def test_audit_log_selects_calls_by_ancestor(embedded: RealServer) -> None:
    """Events and denials of a child carry the ids of its ancestors."""
    leash = Leash(embedded)
    root, child, leaf = family(leash)
    cli = Cli(embedded.url)

    found = cli.lines("audit", "log", "--delegated-from", root.id)
    assert [(item["token"], item["op"], item["chain"]) for item in found] == [
        (child.id, "DELEGATE", [root.id]),
        (child.id, "SET", [root.id]),
        (leaf.id, "SET", [root.id, child.id]),
    ]
    assert f"renew `{root.id}`" in cli.run("token", "renew", leaf.id).stderr
    made = cli.lines("audit", "log", "--op", "DELEGATE", "--token", root.id)
    assert [item["args"][0] for item in made] == [child.id]
    assert "chain" not in made[0]
    assert f"ok (child {child.id})" in cli.ok("audit", "log", "--op", "DELEGATE")
    cli.ok("token", "revoke", child.id)
    assert leash.call("runner", leaf.token, "GET", "jobs:42:a").startswith("LEASH TOKEN_REVOKED")
    operator = keyleash.Operator.from_url(embedded.url)
    (denial,) = operator.audit.denials(delegated_from=child.id)
    assert (denial.token, denial.chain, denial.code) == (
        leaf.id, (root.id, child.id), "TOKEN_REVOKED",
    )  # fmt: skip

    async def tree() -> Any:
        async with AsyncOperator.from_url(embedded.url) as found:
            return await found.tokens.tree(root.id)

    assert [info.id for _, info in asyncio.run(tree()).lines()] == [root.id, child.id, leaf.id]


def test_child_is_not_rotated(embedded: RealServer) -> None:
    """Its parent makes another one."""
    _, child, _ = family(Leash(embedded))

    failed = Cli(embedded.url).run("token", "rotate", child.id)
    assert f"the token `{child.id}` was made by the token" in failed.stderr
