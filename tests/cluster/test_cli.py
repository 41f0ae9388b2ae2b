"""The command line on clusters: the effect at each node, its exit code, and waiting for it."""

from __future__ import annotations

from pathlib import Path

import pytest

import keyleash
from keyleash.store.keyspace import Keyspace
from support.clusters import RealCluster
from support.command_line import Cli
from support.leases import HOME, ClusterAgent, write_lease

POLICY = """
version: 1
identities:
  agent:
    kind: machine
    grants: [{allow: [read, write], keys: ["jobs:{id}"]}]
    budget: {requests: 1000/day}
"""
CHANGES = {
    "freeze": ("freeze", "agent", "--reason", "x"),
    "thaw": ("thaw", "agent"),
    "revoke": ("token", "revoke", "--identity", "agent"),
    "rotate": ("token", "rotate", "agent"),
    "reset": ("limits", "reset", "agent", "--reason", "x"),
}


@pytest.fixture
def policy(tmp_path: Path) -> Path:
    file = tmp_path / "agents.yaml"
    file.write_text(POLICY)
    return file


@pytest.fixture
def loaded(embedded_cluster: RealCluster, policy: Path) -> RealCluster:
    """A cluster with the policy, a token, and a lease at the shard of each node."""
    with keyleash.Operator.from_url(embedded_cluster.url) as op:
        op.load(keyleash.Policy.from_file(policy))
        op.tokens.issue("agent")
    write_lease(embedded_cluster)
    return embedded_cluster


@pytest.mark.parametrize("words", CHANGES.values(), ids=CHANGES)
def test_change_reports_the_effect_at_each_node(
    loaded: RealCluster, words: tuple[str, ...]
) -> None:
    """In text on standard error, and in the document of `--json`."""
    shown = Cli(loaded.url).run(*words)
    assert shown.exit_code == 0, shown.stderr
    for node in loaded.primaries:
        assert f"node 127.0.0.1:{node.port}: effective now" in shown.stderr

    document = Cli(loaded.url).json(*words)
    assert {item["node"] for item in document["nodes"]} == {
        f"127.0.0.1:{node.port}" for node in loaded.primaries
    }
    assert all(item["reached"] for item in document["nodes"])


@pytest.mark.parametrize("words", CHANGES.values(), ids=CHANGES)
def test_change_fails_if_a_node_is_out_of_reach(
    loaded: RealCluster, words: tuple[str, ...]
) -> None:
    """A script that revokes a token must notice; what happens at which node is printed."""
    victim = loaded.other(loaded.owner(Keyspace().at_home().policy))
    victim.kill()

    shown = Cli(loaded.url).run(*words)

    assert shown.exit_code == 1
    assert "effective 2" not in shown.stderr
    assert words[1] != "revoke" or "effective at reached nodes 2" in shown.stderr
    assert f"node 127.0.0.1:{victim.port}: effective at the latest at " in shown.stderr
    assert "error: 1 node not reached" in shown.stderr


def test_wait_waits_until_the_change_is_effective(
    loaded: RealCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Then the exit code is 0: the leases of that node have ended."""
    slept: list[float] = []
    monkeypatch.setattr("keyleash.cli.nodes.time.sleep", slept.append)
    loaded.other(loaded.owner(Keyspace().at_home().policy)).kill()

    shown = Cli(loaded.url).run("freeze", "agent", "--reason", "x", "--wait")

    assert shown.exit_code == 0, shown.stderr
    assert "waiting until" in shown.stderr
    assert 0 < max(slept) <= 10


def test_active_policy_of_any_node_is_that_of_the_home(loaded: RealCluster) -> None:
    """Whichever node the URL names."""
    for node in loaded.primaries:
        with keyleash.Operator.from_url(f"redis://127.0.0.1:{node.port}") as op:
            assert op.server().generation == 1


def test_load_reports_all_nodes(embedded_cluster: RealCluster, policy: Path) -> None:
    """Each has the scripts, whether it has leases or not."""
    document = Cli(embedded_cluster.url).json("load", str(policy), "--yes")

    assert len(document["nodes"]) == len(embedded_cluster.nodes)
    assert document["nodes"][0] == {
        "node": f"127.0.0.1:{embedded_cluster.nodes[0].port}",
        "reached": True,
        "effective_at_latest": None,
        "reason": "",
        "unreplicated": "",
    }


def test_log_timeline_and_stats_show_what_nodes_that_answer_have(
    loaded: RealCluster, tmp_path: Path
) -> None:
    """The missing node is named, and the exit code shows that the output is not complete."""
    home = loaded.owner(HOME.policy)
    victim = loaded.other(home, loaded.nodes[0])
    with keyleash.Operator.from_url(loaded.url) as op:
        agent = ClusterAgent(loaded, op.tokens.issue("agent").token)
    for node in loaded.primaries:
        agent.call(node, "SET", node.key("jobs:"), "v")
    key = home.key("jobs:")
    victim.kill()
    for words in (("log",), ("timeline", key), ("stats",)):
        shown = Cli(loaded.url).run("audit", *words)
        assert shown.exit_code == 1
        assert f"without the events of node 127.0.0.1:{victim.port}: " in shown.stderr
        assert shown.stderr.count("warning") == 1
        assert "SET" in shown.stdout
    exported = Cli(loaded.url).run("audit", "export", "--to", str(tmp_path / "archive"))
    assert f"cannot reach the node `127.0.0.1:{victim.port}`" in exported.stderr


def test_collect_recommends_no_option_that_it_lacks(loaded: RealCluster) -> None:
    """It is repeated when all nodes answer."""
    loaded.other(loaded.owner(HOME.policy), loaded.nodes[0]).kill()
    shown = Cli(loaded.url).run("budget", "collect")
    assert shown.exit_code == 1
    assert "run it again" in shown.stderr
    assert "--wait" not in shown.stderr


def test_url_with_a_database_names_that_of_clusters(embedded_cluster: RealCluster) -> None:
    """They have only one."""
    shown = Cli(f"{embedded_cluster.url}/1").run("status")
    assert shown.exit_code == 69
    assert "a cluster has only database 0" in shown.stderr


def test_change_names_the_cluster_and_counts_the_keys_of_all_nodes(
    loaded: RealCluster, policy: Path
) -> None:
    """From whichever node; with a node out of reach the number is not known."""
    home = loaded.owner(HOME.policy)
    count = sum(node.admin.dbsize() for node in loaded.primaries)
    described = f"cluster of 3 nodes, home 127.0.0.1:{home.port}"
    for node in loaded.primaries:
        shown = Cli(f"redis://127.0.0.1:{node.port}").ok("plan", str(policy))
        assert f"{described}, {count} keys)" in shown
    loaded.other(home, loaded.nodes[0]).kill()
    assert f"{described})" in Cli(loaded.url).run("plan", str(policy)).stdout


def test_doctor_prints_findings_of_several_nodes_once(loaded: RealCluster) -> None:
    """With the names of these nodes."""
    shown = Cli(loaded.url).run("doctor").stdout
    assert shown.count("[open-default-user]") == 1
    (line,) = (line for line in shown.splitlines() if "[open-default-user]" in line)
    assert all(f"127.0.0.1:{node.port}" in line for node in loaded.nodes)
