"""Changes by operators after a failover of the home, and before its replicas have them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import keyleash
from cluster.test_effects import POLICY
from keyleash.api import loading
from support.clusters import ClusterNode, RealCluster
from support.command_line import Cli
from support.leases import HOME, ClusterAgent, tag_of
from support.replication import wait_until

LACKS = "no replica has it yet"


@pytest.fixture
def op(replicated_cluster: RealCluster) -> Iterator[keyleash.Operator]:
    with keyleash.Operator.from_url(replicated_cluster.url, actor="test") as op:
        op.load(keyleash.Policy(POLICY))
        yield op


@pytest.fixture
def agent(replicated_cluster: RealCluster, op: keyleash.Operator) -> ClusterAgent:
    return ClusterAgent(replicated_cluster, op.tokens.issue("agent").token)


def cut_off(cluster: RealCluster, primary: ClusterNode) -> ClusterNode:
    """Cut a replica off its primary, for good; return it."""
    primary.settle()
    replica = cluster.replica_of(primary)
    cluster.is_changed = True
    replica.admin.config_set("masteruser", "someone")
    replica.admin.config_set("masterauth", "wrong")
    primary.admin.execute_command("CLIENT", "KILL", "TYPE", "replica")
    wait_until(lambda: not primary.admin.info("replication")["connected_slaves"])
    return replica


def fail_over(cluster: RealCluster, agent: ClusterAgent) -> None:
    """Let the agent write at each node, and the home fail over to a replica without its leases."""
    home = cluster.owner(HOME.policy)
    replica = cut_off(cluster, home)
    assert set(agent.write()) == {"OK"}
    home.kill()
    replica.admin.execute_command("CLUSTER", "FAILOVER", "TAKEOVER")
    cluster.wait_until_served()
    assert not set(replica.admin.hkeys(HOME.leases("agent"))) & {
        tag_of(node).encode() for node in cluster.primaries
    }


def test_revocation_takes_effect_at_shards_that_the_home_has_forgotten(
    op: keyleash.Operator, agent: ClusterAgent
) -> None:
    """Their leases were good for seconds, and nothing at the new home names them."""
    fail_over(agent.cluster, agent)

    result = op.tokens.revoke(identity="agent")

    assert set(agent.write()) == {"TOKEN_REVOKED"}
    assert sorted(item.node for item in result.nodes or ()) == sorted(
        f"127.0.0.1:{node.port}" for node in agent.cluster.primaries
    )
    assert result.not_reached == ()


def test_freeze_and_load_take_effect_at_shards_that_the_home_has_forgotten(
    op: keyleash.Operator, agent: ClusterAgent
) -> None:
    """A freeze of all identities, too, and the first load after it."""
    fail_over(agent.cluster, agent)
    op.freeze(reason="x")
    assert set(agent.write()) == {"SUSPENDED"}
    op.thaw()
    assert set(agent.write()) == {"OK"}

    op.load(keyleash.Policy(POLICY.replace("[read, write]", "[read]")))
    assert set(agent.write()) == {"POLICY_STALE"}


def test_load_activates_at_the_home_that_a_failover_moved_while_it_compiled(
    op: keyleash.Operator, replicated_cluster: RealCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A large policy takes longer to compile than a failover takes."""
    cluster, plan = replicated_cluster, loading.plan_load

    def plan_and_fail_over(*args: Any, **options: Any) -> Any:
        result = plan(*args, **options)
        home = cluster.owner(HOME.policy)
        home.settle()
        replica = cluster.replica_of(home)
        cluster.is_changed = True
        home.kill()
        replica.admin.execute_command("CLUSTER", "FAILOVER", "TAKEOVER")
        cluster.wait_until_served()
        return result

    monkeypatch.setattr(loading, "plan_load", plan_and_fail_over)

    assert op.load(keyleash.Policy(POLICY.replace("[read, write]", "[read]"))).generation == 2


def test_forgotten_shard_that_does_not_answer_is_reported(
    op: keyleash.Operator, agent: ClusterAgent
) -> None:
    """Its leases end by themselves, so the command must not report success."""
    cluster = agent.cluster
    fail_over(cluster, agent)
    victim = cluster.other(cluster.owner(HOME.policy), cluster.nodes[0])
    cluster.replica_of(victim).admin.config_set("cluster-replica-no-failover", "yes")
    victim.halt()
    try:
        result = op.tokens.revoke(identity="agent")
    finally:
        victim.go_on()

    assert [item.node for item in result.not_reached] == [f"127.0.0.1:{victim.port}"]
    assert result.latest_us is not None


@pytest.mark.parametrize("place", ["home", "shard"])
def test_change_that_no_replica_has_is_reported(
    op: keyleash.Operator, agent: ClusterAgent, place: str
) -> None:
    """A failover could undo it; the replicas of the other nodes have it."""
    cluster = agent.cluster
    home = cluster.owner(HOME.policy)
    assert set(agent.write()) == {"OK"}
    node = home if place == "home" else cluster.other(home)
    cut_off(cluster, node)

    result = op.freeze("agent", reason="x")

    assert [item.unreplicated for item in result.not_replicated] == [LACKS]
    assert [item.node for item in result.not_replicated] == [f"127.0.0.1:{node.port}"]
    assert result.not_reached == ()
    assert set(agent.write()) == {"SUSPENDED"}
    shown = Cli(cluster.url).run("thaw", "agent")
    assert shown.exit_code == 1
    assert f"node 127.0.0.1:{node.port}: effective now; {LACKS}" in shown.output
    assert shown.output.count(LACKS) == 1


def test_replica_that_has_copied_nothing_yet_is_one_that_lacks_a_change(
    cluster: RealCluster,
) -> None:
    """CLUSTER SLOTS lacks such a replica, which still may be promoted by hand."""
    home, added = cluster.owner(HOME.policy), cluster.add_node()
    added.admin.config_set("masteruser", "someone")
    added.admin.config_set("masterauth", "wrong")
    added.admin.execute_command("CLUSTER", "REPLICATE", home.identifier)
    wait_until(
        lambda: all(
            added.identifier in str(node.admin.cluster("REPLICAS", home.identifier))
            for node in cluster.running
        )
    )

    with keyleash.Operator.from_url(cluster.url, actor="test") as op:
        op.load(keyleash.Policy(POLICY))
        result = op.freeze("agent", reason="x")

    assert [item.unreplicated for item in result.not_replicated] == [LACKS]


def test_change_that_replicas_have_is_reported_as_such(
    op: keyleash.Operator, agent: ClusterAgent
) -> None:
    """The new home of a failover denies what was revoked before."""
    cluster = agent.cluster
    home = cluster.owner(HOME.policy)
    result = op.tokens.revoke(identity="agent")
    assert result.not_replicated == ()
    assert len(result.nodes or ()) == 3
    cluster.is_changed = True
    home.kill()
    cluster.wait_until_served()
    assert set(agent.write()) == {"TOKEN_REVOKED"}


def test_load_by_the_url_of_a_replica_node_activates(agent: ClusterAgent, tmp_path: Path) -> None:
    """Any node of a cluster may be named."""
    cluster = agent.cluster
    node = cluster.replica_of(cluster.owner(HOME.policy))
    file = tmp_path / "policy.yaml"
    file.write_text(POLICY.replace("version: 1", "version: 1  # changed"))

    shown = Cli(f"redis://127.0.0.1:{node.port}").run("load", file, "--yes")

    assert shown.exit_code == 0, shown.output
