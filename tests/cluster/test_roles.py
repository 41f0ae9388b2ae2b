"""`keyleash acl` on clusters: users with the rights of a role on all nodes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from unittest.mock import patch

import pytest

import keyleash.api.operator  # noqa: F401 - fills RIGHTS
from cli.test_acl import DENIES, FOLLOWED, KEY, LEAST, MISSING, POLICY, TRIED, UNDENIED, Stage
from keyleash.operations.rights import RIGHTS
from keyleash.operator.roles import ROLES, role_rules, roles_with
from keyleash.store.keyspace import HOME_TAG, Keyspace
from support.clusters import RealCluster
from support.command_line import Cli

# The key's hash tag is the segment that a budget counts.
CLUSTER_POLICY = POLICY.replace("{{job_id}}:state", "{{{{{{job_id}}}}}}:state")
CLUSTER_KEY = KEY.replace("1", "{1}")


def prepared(cluster: RealCluster, folder: Path) -> Stage:
    """Return a cluster with leases, events and denials at several shards."""
    stage = Stage(Cli(cluster.url), cluster, folder, CLUSTER_POLICY, CLUSTER_KEY)
    stage.admin.ok("load", stage.file(500, "gone"), "--yes")
    stage.admin.ok("load", stage.file(600), "--yes", "--allow-widening", "--allow-removal")
    stage.act()
    stage.admin.ok("audit", "export", "--to", folder / "exported")
    return stage


@pytest.mark.parametrize("tag", ["", HOME_TAG])
@pytest.mark.parametrize("role", LEAST)
def test_rules_of_a_role_have_each_of_its_rights(role: str, tag: str) -> None:
    """A right that two others give together, or that stands twice, is not lost."""
    keyspace = Keyspace(tag)
    rules = role_rules(ROLES[role], keyspace, ["data:*"])
    given = [{*item.words} for item in (rules.root, *rules.selectors)]
    for right in [right for name in ROLES[role].operations for right in RIGHTS[name]]:
        is_whole = right.is_joint or not right.keys
        for part in [right] if is_whole else [right._replace(keys=(key,)) for key in right.keys]:
            with patch.dict(RIGHTS, alone=(part,)), patch("keyleash.operator.roles.CONNECT", ()):
                wanted = role_rules(
                    replace(ROLES[role], operations=("alone",)), keyspace, ["data:*"]
                )
            for needed in (wanted.root, *wanted.selectors):
                assert any({*needed.words} <= words for words in given), needed


@pytest.mark.slow
@pytest.mark.parametrize("role", LEAST)
def test_user_of_a_role_can_do_its_operations_and_no_other(
    embedded_cluster: RealCluster, tmp_path: Path, role: str
) -> None:
    """As on one server: the rules name the keys of the home and of all shards."""
    stage = prepared(embedded_cluster, tmp_path)
    user = stage.user(role)

    for operation in sorted(set(ROLES[role].operations) - FOLLOWED, reverse=True):
        result = stage.call(user, operation)
        assert result.exit_code == (operation in DENIES), (operation, result.output)
    assert stage.denied() <= TRIED

    # To collect, a shard that denies it is one that was not reached.
    others = set(RIGHTS) - set(ROLES[role].operations) - UNDENIED
    for operation in sorted(others):
        result = stage.call(user, operation)
        assert result.exit_code == 77, (operation, result.output)
        assert MISSING.search(result.output), result.output
        assert f"`keyleash acl {roles_with(operation)[0]}`" in result.output
