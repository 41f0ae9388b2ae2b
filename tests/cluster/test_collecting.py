"""`budget collect`: units that shards have not used return to the home, and none is used twice."""

from __future__ import annotations

from typing import Any

import pytest
import redis

import keyleash
from keyleash.operator import credit
from keyleash.store.keyspace import Keyspace
from keyleash.store.shards import run_at_shards
from support.clusters import RealCluster
from support.command_line import Cli
from support.errors import raises_code
from support.leases import HOME, ClusterAgent, read_shard, tag_of
from support.servers import RealServer

POLICY = """
version: 1
identities:
  agent:
    kind: machine
    grants: [{allow: [read, write], keys: ["jobs:{id}"]}]
    rate: {writes: 60000/minute}
    budget: {writes: 300/day, requests: 5000/day}
"""


@pytest.fixture
def agent(cluster: RealCluster, op: keyleash.Operator) -> ClusterAgent:
    """An agent that has written one key at each node."""
    agent = ClusterAgent(cluster, op.tokens.issue("agent").token)
    agent.write()
    return agent


def used(op: keyleash.Operator) -> dict[str, int | None]:
    return {item.name: item.used for item in op.status().identities[0].limits}


def test_unused_units_are_returned(
    cluster: RealCluster, op: keyleash.Operator, agent: ClusterAgent
) -> None:
    """The home counts what was used, and a shard has nothing left; rates are left alone."""
    before = used(op)

    done = op.limits.collect()

    after = used(op)
    assert (after["budget.writes"], after["budget.requests"]) == (3, 3)
    assert {item.limit: item.units for item in done.returned} == {
        name: (before[name] or 0) - 3 for name in ("budget.writes", "budget.requests")
    }
    assert after["rate.writes"] == before["rate.writes"]
    for node in cluster.primaries:
        state = read_shard(cluster, tag_of(node))
        assert [limit.credit for limit in state.limits if limit.window_us] == [0, 0]
    assert {item.units for item in op.limits.collect("agent").returned} == {0}


@pytest.mark.slow
def test_budget_is_exact_after_a_collection(op: keyleash.Operator, agent: ClusterAgent) -> None:
    """Every unit can be used once: by the shard that had it, or by another."""
    op.limits.collect()
    first = agent.write(rounds=30)
    op.limits.collect()
    rest = agent.write(rounds=80)

    assert first["OK"] + rest["OK"] + 3 == 300
    assert rest["BUDGET_EXHAUSTED"] == 3 * 80 - rest["OK"] > 0


def test_units_that_were_taken_before_a_reset_do_not_return(
    op: keyleash.Operator, agent: ClusterAgent, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They were charged to the counts that it cleared."""

    def run_then_reset(*arguments: Any, **options: Any) -> Any:
        replies = run_at_shards(*arguments, **options)
        op.limits.reset("agent", reason="x")
        agent.write()
        return replies

    monkeypatch.setattr(credit, "run_at_shards", run_then_reset)

    done = op.limits.collect()

    assert not done.returned
    assert (used(op)["budget.writes"] or 0) >= 3


def test_voucher_of_before_a_collection_is_void(
    cluster: RealCluster, op: keyleash.Operator, agent: ClusterAgent
) -> None:
    """The client that died with it might come back; its units stay charged."""
    node = cluster.primaries[0]
    words = ("SET", node.key("jobs:"), "v")
    for _ in range(10):
        try:
            agent.attempt(node, "", *words)
        except redis.ResponseError as error:
            voucher = agent.fetch(str(error).rpartition("request=")[2])
            break
    op.limits.collect()

    with pytest.raises(redis.ResponseError, match="LEASE_NEEDED"):
        agent.attempt(node, voucher, *words)
    assert read_shard(cluster, tag_of(node)).limits[-1].credit == 0


def test_units_used_before_a_state_was_lost_are_not_returned(
    cluster: RealCluster, op: keyleash.Operator, agent: ClusterAgent
) -> None:
    """The shard that begins again does not know of them."""
    node = cluster.primaries[0]
    agent.write(rounds=10)
    node.admin.delete(Keyspace().at_shard(tag_of(node)).state("agent"))
    agent.write(rounds=3)
    op.limits.collect()
    assert (used(op)["budget.writes"] or 0) >= 3 * 14


def test_units_of_a_lost_state_stay_charged(
    cluster: RealCluster, op: keyleash.Operator, agent: ClusterAgent
) -> None:
    """It is not known how many of them were used."""
    node = cluster.primaries[0]
    node.admin.delete(Keyspace().at_shard(tag_of(node)).state("agent"))
    op.limits.collect()
    assert (used(op)["budget.writes"] or 0) > 3


def test_node_out_of_reach_keeps_its_units(
    cluster: RealCluster, op: keyleash.Operator, agent: ClusterAgent
) -> None:
    """It is named, and the exit code says that units are left."""
    victim = cluster.other(cluster.owner(HOME.policy))
    victim.kill()

    done = op.limits.collect()

    assert [node.node for node in done.not_reached] == [f"127.0.0.1:{victim.port}"]
    assert (used(op)["budget.writes"] or 0) > 3
    assert Cli(cluster.url).run("budget", "collect").exit_code == 1


def test_units_are_returned_after_a_replica_has_it(replicated_cluster: RealCluster) -> None:
    """A replica that becomes primary must not have the units, too."""
    with keyleash.Operator.from_url(replicated_cluster.url) as op:
        op.load(keyleash.Policy(POLICY))
        ClusterAgent(replicated_cluster, op.tokens.issue("agent").token).write()
        shown = Cli(replicated_cluster.url).ok("budget", "collect", "agent")
        assert "budget.writes" in shown
        assert used(op)["budget.writes"] == 3


def test_one_server_has_nothing_to_collect(embedded: RealServer) -> None:
    """Its budgets are charged call by call."""
    with keyleash.Operator.from_url(embedded.url) as op, raises_code("no-cluster"):
        op.limits.collect()
