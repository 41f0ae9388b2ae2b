"""Changes by operators of one server, which a replica has before they are reported."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import keyleash
from keyleash.operator.roles import ROLES
from support.command_line import Cli
from support.leash import Leash, grant
from support.replication import Node
from support.servers import RealServer

Pair = tuple[Node, Node]
LACKS = "no replica has it yet"

CHANGES: dict[str, Any] = {
    "revoke": lambda op, _: op.tokens.revoke(identity="one"),
    "freeze": lambda op, _: op.freeze("one", reason="x"),
    "thaw": lambda op, _: op.thaw("one"),
    "rotate": lambda op, _: op.tokens.rotate("one"),
    "reset": lambda op, _: op.limits.reset("one", reason="x"),
    "load": lambda op, policy: op.load(policy),
}


@pytest.mark.slow
@pytest.mark.parametrize("change", CHANGES)
def test_change_waits_for_a_replica_and_reports_that_none_has_it(pair: Pair, change: str) -> None:
    """A promoted replica would not know of it: a revoked token would be valid again."""
    primary, replica = pair
    leash = Leash(primary)
    leash.load(one={"grants": [grant("read", keys="t:*")], "budget": {"requests": "9/day"}})
    with keyleash.Operator.from_url(primary.url, actor="test") as op:
        op.tokens.issue("one")
        document = keyleash.Policy(op.policies.get().document)
        (effect,) = CHANGES[change](op, document).nodes
        assert (effect.node, effect.unreplicated) == (f"127.0.0.1:{primary.port}", "")

        replica.halt()
        op.tokens.issue("one")
        result = CHANGES[change](op, document)
        assert [item.unreplicated for item in result.not_replicated] == [LACKS]
        assert result.not_reached == ()

    shown = Cli(primary.url).run("freeze", "one", "--reason", "x")
    assert shown.exit_code == 1
    assert f"effective now; {LACKS}" in shown.output
    name = f"127.0.0.1:{primary.port}"
    assert (
        f"error: no replica of {name} is known to have it: a failover may undo it\n" in shown.output
    )
    assert "help: run it again when a replica follows its primary\n" in shown.output


def test_rotation_that_no_replica_has_is_not_to_be_repeated(pair: Pair) -> None:
    """It would issue another token."""
    primary, replica = pair
    Leash(primary).load(one={"grants": [grant("read", keys="t:*")]})
    replica.halt()
    shown = Cli(primary.url).run("token", "rotate", "one")
    assert shown.exit_code == 1
    assert "help: keep this token: running it again issues another\n" in shown.stderr
    assert "run it again when" not in shown.stderr


def test_change_of_one_server_without_replicas_names_no_node(server: RealServer) -> None:
    """It waits for none."""
    Leash(server).load(one={"grants": [grant("read", keys="t:*")]})
    with keyleash.Operator.from_url(server.url, actor="test") as op:
        assert op.freeze("one", reason="x").nodes is None


@pytest.mark.parametrize("change", CHANGES)
def test_users_of_roles_may_wait_for_replicas(pair: Pair, change: str) -> None:
    """Roles print the rights, also for the key by which the wait begins."""
    primary, _ = pair
    Leash(primary).load(
        one={"grants": [grant("read", keys="t:*")], "budget": {"requests": "9/day"}}
    )
    operations = {"revoke": "token revoke", "rotate": "token rotate", "reset": "limits reset"}
    operation = operations.get(change, change)
    role = next(name for name, role in ROLES.items() if operation in role.operations)
    with keyleash.Operator.from_url(primary.url) as op:
        document = keyleash.Policy(op.policies.get().document)
        op.tokens.issue("one")
        primary.admin.execute_command("ACL", "SETUSER", "someone", ">pw", *op.acl(role).rules)
    with keyleash.Operator.from_url(f"redis://someone:pw@127.0.0.1:{primary.port}") as op:
        (effect,) = CHANGES[change](op, document).nodes
    assert effect.unreplicated == ""


def test_replica_is_named_by_status_and_denies_a_load_before_its_plan(
    pair: Pair, tmp_path: Path
) -> None:
    """The change would fail after the consent."""
    primary, replica = pair
    Leash(primary).load(one={"grants": [grant("read", keys="t:*")]})
    primary.settle()
    policy = tmp_path / "policy.yaml"
    policy.write_text(
        "version: 1\nidentities:\n  two:\n    kind: machine\n"
        '    grants: [{allow: [read], keys: ["t:*"]}]\n'
    )
    of = f"replica of 127.0.0.1:{primary.port}"

    assert f"server     {replica.url}, {of}\n" in Cli(replica.url).ok("status")
    assert Cli(replica.url).json("status")["replica_of"] == f"127.0.0.1:{primary.port}"
    assert "replica" not in Cli(primary.url).ok("status")
    assert "replica_of" not in Cli(primary.url).json("status")
    for words in (("load", policy), ("rollback",)):
        result = Cli(replica.url).run(*words, "--yes")
        assert result.exit_code == 1
        assert (result.stdout, result.stderr) == (
            "",
            f"error: the server is a {of}\nhelp: use its primary\n",
        )
