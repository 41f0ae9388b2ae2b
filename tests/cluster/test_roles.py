"""`keyleash acl` on clusters: users with the rights of a role on all nodes."""

from __future__ import annotations

from pathlib import Path

import pytest

from cli.test_acl import KEY, POLICY, Stage, require_role
from keyleash.operator.roles import ROLES
from support.clusters import RealCluster
from support.command_line import Cli

# The key's hash tag is the segment that a budget counts.
CLUSTER_POLICY = POLICY.replace("{{job_id}}:state", "{{{{{{job_id}}}}}}:state")
CLUSTER_KEY = KEY.replace("1", "{1}")


@pytest.mark.slow
@pytest.mark.parametrize("role", ROLES)
def test_user_of_a_role_can_do_its_operations_and_no_other(
    embedded_cluster: RealCluster, tmp_path: Path, role: str
) -> None:
    """As on one server, with leases, events and denials at several shards."""
    stage = Stage(
        Cli(embedded_cluster.url), embedded_cluster, tmp_path, CLUSTER_POLICY, CLUSTER_KEY
    )
    stage.admin.ok("load", stage.file(500, "gone"), "--yes")
    stage.admin.ok("load", stage.file(600), "--yes", "--allow-widening", "--allow-removal")
    stage.act()
    stage.admin.ok("audit", "export", "--to", tmp_path / "exported")

    require_role(stage, role)
