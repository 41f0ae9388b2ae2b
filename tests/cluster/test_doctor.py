"""`doctor` on clusters: all nodes, their slots, and what scripts may do there."""

from __future__ import annotations

from typing import Any

import pytest
import redis

import keyleash
from keyleash.addons.doctor.examine import Examination
from support.clusters import RealCluster
from support.command_line import Cli
from support.errors import raises_code
from support.leases import HOME

POLICY = """
version: 1
identities:
  agent:
    kind: machine
    grants: [{allow: [read, write], keys: ["jobs:{id}"]}]
    budget: {writes: 1000/day}
"""
OF_DEVELOPMENT = {
    "eviction", "unbounded-output-buffers", "unbounded-client-memory",
    "large-bulk-length", "no-persistence", "open-default-user", "unvalidated-restore",
    "snapshots-only", "deletes-at-once",
}  # fmt: skip
"""Findings of any server of tests, with or without a cluster."""


def codes(examination: Examination) -> dict[str, set[str | None]]:
    """The nodes of each finding that is not of every server of tests."""
    found: dict[str, set[str | None]] = {}
    for item in examination.findings:
        if item.code not in OF_DEVELOPMENT:
            found.setdefault(item.code, set()).add(item.node)
    return found


def name(node: object) -> str:
    return f"127.0.0.1:{node.port}"  # type: ignore[attr-defined]


def test_healthy_cluster_has_no_findings(cluster: RealCluster, op: keyleash.Operator) -> None:
    """All nodes are diagnosed; several primaries are no finding, and records are at the home."""
    examination = op.doctor()

    assert codes(examination) == {}
    assert examination.skipped == ()
    assert {server.name for server in examination.servers} == set(map(name, cluster.nodes))
    assert examination.servers[0].name == name(cluster.owner(HOME.policy))


def test_problems_are_those_of_their_node(cluster: RealCluster, op: keyleash.Operator) -> None:
    """A node may lack scripts."""
    home = cluster.owner(HOME.policy)
    node = cluster.other(home)
    node.admin.script_flush()
    assert codes(op.doctor()) == {"script-not-loaded": {name(node)}}


def test_dead_node_is_unreachable_and_its_slots_are_not_served(
    replicated_cluster: RealCluster,
) -> None:
    """Until a replica takes over; others are diagnosed."""
    with keyleash.Operator.from_url(replicated_cluster.url) as op:
        op.load(keyleash.Policy(POLICY))
        replicated_cluster.owner(HOME.policy).settle()
        home = replicated_cluster.owner(HOME.policy)
        # That of the URL must answer.
        victim = replicated_cluster.other(home, replicated_cluster.nodes[0])
        victim.kill()
        # A node that sees the failure before a replica takes over finds its slots not served.
        assert codes(op.doctor())["unreachable"] == {name(victim)}
        replicated_cluster.wait_until_served()
        assert "unreachable" not in codes(op.doctor())


CHECKED = (
    "ERR Script attempted to access keys that were not declared",
    "ERR bad lua script for redis cluster, all the keys that the script uses should be passed using"
    " the KEYS array",
)
"""Errors of managed services."""


@pytest.mark.parametrize("reply", CHECKED)
def test_server_that_checks_keys_of_scripts_is_named_by_load_and_doctor(
    cluster: RealCluster, op: keyleash.Operator, monkeypatch: pytest.MonkeyPatch, reply: str
) -> None:
    """A managed service denies a script without declared keys that uses some."""
    original = redis.Redis.eval

    def checked(client: redis.Redis, script: str, numkeys: int, *words: Any) -> Any:
        if numkeys == 0 and "redis.call" in script:
            raise redis.ResponseError(reply)
        return original(client, script, numkeys, *words)

    monkeypatch.setattr(redis.Redis, "eval", checked)
    with raises_code("undeclared-keys", reply):
        op.load(keyleash.Policy(POLICY))
    found = codes(op.doctor())["undeclared-keys"]
    assert found == set(map(name, cluster.nodes))


def test_user_without_rights_on_keys_of_scripts_is_no_server_that_checks_them(
    cluster: RealCluster, op: keyleash.Operator
) -> None:
    """Neither `load` nor `doctor` blames the server."""
    for node in cluster.nodes:
        node.admin.acl_setuser(
            "limited", enabled=True, nopass=True, commands=["+@all"], channels="*",
            keys=["keyleash:{kl}:*"],
        )  # fmt: skip
    url = cluster.url.replace("redis://", "redis://limited:x@")
    with keyleash.Operator.from_url(url) as limited:
        with pytest.raises(redis.exceptions.NoPermissionError):
            limited.load(keyleash.Policy(POLICY))
        assert "undeclared-keys" not in codes(limited.doctor())


def test_cluster_that_is_down_is_no_server_that_checks_keys(
    cluster: RealCluster, op: keyleash.Operator
) -> None:
    """It answers no script, whatever keys that declares."""
    cluster.lose_slot(0)
    examination = op.doctor()
    assert set(codes(examination)) == {"slots-not-served"}
    assert "the cluster is down" in {item.reason for item in examination.skipped}


def test_command_line_diagnoses_a_cluster(embedded_cluster: RealCluster) -> None:
    """Without a policy, that is the error."""
    shown = Cli(embedded_cluster.url).json("doctor", exit_code=1)
    assert len(shown["servers"]) == len(embedded_cluster.nodes)
    assert "no-policy" in {item["code"] for item in shown["findings"]}


def test_connection_that_is_refused_is_an_error(embedded_cluster: RealCluster) -> None:
    """As on one server."""
    for node in embedded_cluster.nodes:
        node.kill()
    with (
        keyleash.Operator.from_url(f"redis://127.0.0.1:{embedded_cluster.nodes[0].port}") as op,
        pytest.raises(redis.ConnectionError),
    ):
        op.doctor()
