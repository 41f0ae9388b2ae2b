"""The status of clusters: leases at all nodes, what is unspent and stranded, and metrics."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import redis

import keyleash
from keyleash.store.keyspace import Keyspace
from support.clusters import RealCluster
from support.command_line import Cli
from support.leases import HOME, ClusterAgent, tag_of

POLICY = """
version: 1
identities:
  agent:
    kind: machine
    grants: [{allow: [read, write], keys: ["jobs:{id}"]}]
    budget: {writes: 1000/day}
    on_denials: {threshold: 3/minute, suspend: 10m}
"""


@pytest.fixture
def op(embedded_cluster: RealCluster) -> Iterator[keyleash.Operator]:
    with keyleash.Operator.from_url(embedded_cluster.url, actor="test") as op:
        op.load(keyleash.Policy(POLICY))
        yield op


@pytest.fixture
def agent(embedded_cluster: RealCluster, op: keyleash.Operator) -> keyleash.RedisCluster:
    """An agent that has written one key at each node."""
    agent = embedded_cluster.agent(op.tokens.issue("agent").token)
    for node in embedded_cluster.primaries:
        agent.set(node.key("jobs:"), "v")
    return agent


def test_status_shows_leases_of_all_shards(
    embedded_cluster: RealCluster, op: keyleash.Operator, agent: keyleash.RedisCluster
) -> None:
    """The home charges what it grants; of that, shards have the rest of what they did not use."""
    (status,) = op.status().identities

    assert {shard.tag for shard in status.shards or ()} == {
        tag_of(node) for node in embedded_cluster.primaries
    }
    (limit,) = status.limits
    leased = [shard.limits[0] for shard in status.shards or ()]
    assert limit.used == sum(item.granted for item in leased)
    assert sum(item.unspent or 0 for item in leased) == (limit.used or 0) - 3
    assert [item.stranded for item in leased] == [0, 0, 0]
    assert status.events == status.audit_length == 3


def test_status_counts_the_events_and_denials_of_all_shards(
    embedded_cluster: RealCluster, op: keyleash.Operator, agent: keyleash.RedisCluster
) -> None:
    """The home has none of them."""
    for node in embedded_cluster.primaries[:2]:
        with pytest.raises(redis.ResponseError, match="KEY_NOT_GRANTED"):
            agent.set(node.key("other:"), "v")

    (status,) = op.status().identities

    assert (status.audit_length, status.denied_length) == (3, 2)
    assert {code: item.count for code, item in status.denials.items()} == {"KEY_NOT_GRANTED": 2}
    (shown,) = Cli(embedded_cluster.url).json("status")["identities"]
    assert (shown["audit_length"], shown["denied_length"]) == (3, 2)


def test_grant_that_no_shard_received_is_stranded(
    embedded_cluster: RealCluster, op: keyleash.Operator
) -> None:
    """A client that dies with a voucher, and a shard whose state is lost."""
    node = embedded_cluster.primaries[0]
    agent = ClusterAgent(embedded_cluster, op.tokens.issue("agent").token)
    agent.call(node, "SET", node.key("jobs:"), "v")
    node.admin.delete(Keyspace().at_shard(tag_of(node)).state("agent"))
    agent.voucher_for(node, "SET", node.key("jobs:"), "v")

    found = {shard.tag: shard for shard in op.status().identities[0].shards or ()}
    leased = found[tag_of(node)].limits[0]
    assert leased.unspent == 0
    assert leased.stranded == leased.granted > 0


def test_shards_of_a_node_out_of_reach_are_shown_as_unread(
    embedded_cluster: RealCluster, op: keyleash.Operator, agent: keyleash.RedisCluster
) -> None:
    """Status shows the rest; numbers that are not known are not 0."""
    victim = embedded_cluster.other(embedded_cluster.owner(HOME.policy))
    tag = tag_of(victim)
    victim.kill()

    found = {shard.tag: shard for shard in op.status().identities[0].shards or ()}
    assert found[tag].reason
    assert found[tag].limits[0].unspent is None
    assert found[tag].limits[0].granted > 0
    assert [shard.reason for other, shard in found.items() if other != tag] == ["", ""]


def test_command_line_and_metrics_show_leases(
    embedded_cluster: RealCluster, agent: keyleash.RedisCluster
) -> None:
    """Text, JSON, and the format of Prometheus."""
    cli = Cli(embedded_cluster.url)
    shown = cli.ok("status")
    assert "cluster    3 nodes, 3 with slots; home 127.0.0.1:" in shown
    assert "stranded" in shown
    for node in embedded_cluster.primaries:
        assert f"127.0.0.1:{node.port}" in shown

    document = cli.json("status")
    assert document["cluster"]["primaries"] == 3
    assert len(document["identities"][0]["shards"]) == 3

    metrics = cli.ok("metrics")
    assert 'keyleash_shards{identity="agent"} 3.0' in metrics
    assert 'keyleash_leased_unspent{identity="agent",limit="budget.writes"}' in metrics
    assert 'keyleash_events_total{identity="agent"} 3.0' in metrics


def test_node_that_does_not_answer_is_named(
    embedded_cluster: RealCluster, op: keyleash.Operator
) -> None:
    """In the header, by the exit code, and by a metric of each node."""
    home = embedded_cluster.owner(HOME.policy)
    victim = embedded_cluster.other(home, embedded_cluster.nodes[0])
    victim.kill()
    cli = Cli(embedded_cluster.url)

    shown = cli.run("status")
    assert shown.exit_code == 1
    assert f"down       127.0.0.1:{victim.port}: " in shown.stdout
    assert cli.json("status", exit_code=1)["cluster"]["down"] == [f"127.0.0.1:{victim.port}"]
    metrics = cli.ok("metrics")
    assert f'keyleash_node_up{{node="127.0.0.1:{victim.port}"}} 0.0' in metrics
    assert f'keyleash_node_up{{node="127.0.0.1:{home.port}"}} 1.0' in metrics


def test_node_that_lost_its_scripts_is_named_until_they_are_loaded(
    embedded_cluster: RealCluster, op: keyleash.Operator
) -> None:
    """Clients load those that they call; a load of the same policy loads all."""
    node = embedded_cluster.primaries[0]
    node.admin.script_flush()
    cli, name = Cli(embedded_cluster.url), f"127.0.0.1:{node.port}"

    assert f"lacking    {name}: scripts of agent; clients load those" in cli.ok("status")
    assert cli.json("status")["cluster"]["lacking"] == {name: ["agent"]}
    op.load(keyleash.Policy(POLICY))
    assert cli.json("status")["cluster"]["lacking"] == {}


def test_identity_that_one_node_suspended_is_shown_with_that_node(
    embedded_cluster: RealCluster, op: keyleash.Operator, agent: keyleash.RedisCluster
) -> None:
    """Circuit breakers count at each node; `freeze` suspends at all of them."""
    node = embedded_cluster.primaries[0]
    for number in range(4):
        with pytest.raises(redis.ResponseError, match=r"KEY_NOT_GRANTED|SUSPENDED"):
            agent.set(node.key(f"other{number}:"), "v")

    (status,) = op.status(only="suspended").identities
    suspended = [shard.node for shard in status.shards or () if shard.suspended]
    assert suspended == [f"127.0.0.1:{node.port}"]
    assert f"{suspended[0]}, suspended" in Cli(embedded_cluster.url).ok("status")


def test_cluster_that_is_down_names_the_node_that_does_not_answer(
    embedded_cluster: RealCluster, op: keyleash.Operator
) -> None:
    """And the URL, since there may be several clusters."""
    victim = embedded_cluster.other(embedded_cluster.owner(HOME.policy), embedded_cluster.nodes[0])
    slot = min(embedded_cluster.other(victim).slots)
    victim.kill()
    embedded_cluster.lose_slot(slot)
    for words in (["status"], ["freeze", "agent", "--reason", "x"]):
        shown = Cli(embedded_cluster.url).run(*words)
        assert f"`{embedded_cluster.url}` serves no keys" in shown.stderr
        assert f"no answer from `127.0.0.1:{victim.port}`" in shown.stderr


def test_node_that_the_cluster_gave_up_is_down_until_it_is_forgotten(
    replicated_cluster: RealCluster,
) -> None:
    """A replica has its slots, and CLUSTER SLOTS no longer lists it."""
    victim = replicated_cluster.other(replicated_cluster.owner(HOME.policy))
    name = f"127.0.0.1:{victim.port}"
    with keyleash.Operator.from_url(replicated_cluster.url) as op:
        op.load(keyleash.Policy(POLICY))
    victim.kill()
    replicated_cluster.wait_until_served()
    cli = Cli(replicated_cluster.url)

    assert cli.json("status", exit_code=1)["cluster"]["down"] == [name]
    assert f'keyleash_node_up{{node="{name}"}} 0.0' in cli.ok("metrics")

    for node in replicated_cluster.running:
        node.admin.cluster("FORGET", victim.identifier)
    assert cli.json("status")["cluster"]["down"] == []
