"""Undo on clusters: the keys of each node in one step, one node after the other."""

from __future__ import annotations

from pathlib import Path

import pytest
from redis.crc import key_slot

import keyleash
from keyleash.store.keyspace import OPERATORS
from support.clusters import RealCluster
from support.command_line import Cli
from support.errors import raises_code
from support.leases import tag_of

POLICY = """
version: 1
identities:
  agent:
    kind: machine
    grants: [{allow: [read, write, delete], keys: ["jobs:*"], before_images: {max_bytes: 1kb}}]
    rate: {writes: 6000/minute}
"""


@pytest.fixture
def agent(cluster: RealCluster, op: keyleash.Operator) -> keyleash.RedisCluster:
    """An agent that has changed keys of every type at each node, also in several slots."""
    agent = cluster.agent(op.tokens.issue("agent").token, correlation="c")
    for node in cluster.primaries:
        first, second, third = keys_of(cluster, node.port)
        node.admin.set(first, "old", px=600_000)
        node.admin.hset(second, "field", "old")
        agent.set(first, "new")
        agent.hset(second, mapping={"field": "new", "other": "new"})
        agent.set(third, "new")
    return agent


def keys_of(cluster: RealCluster, port: int) -> list[str]:
    """Return keys of a node, with braces that are hash tags and others that are not."""
    (node,) = (node for node in cluster.primaries if node.port == port)
    return [node.key("jobs:"), node.key("jobs:}{}a}"), node.key("jobs:}b{x")]


def values(cluster: RealCluster) -> list[bytes]:
    """Return the values of all keys of agents, as DUMP has them."""
    return [
        node.admin.dump(key) for node in cluster.primaries for key in keys_of(cluster, node.port)
    ]


def test_undo_restores_the_keys_of_all_nodes(
    cluster: RealCluster, op: keyleash.Operator, agent: keyleash.RedisCluster
) -> None:
    """The plan and the result name the nodes; the undo can be undone."""
    new = values(cluster)
    plan = op.undo.plan(correlation="c")
    nodes = {f"127.0.0.1:{node.port}" for node in cluster.primaries}
    assert set(plan.nodes) == nodes
    assert {key["node"] for key in plan.to_dict()["keys"]} == nodes

    result = op.undo.apply(plan)

    assert (len(result.restored), len(result.removed)) == (6, 3)
    assert set(result.nodes) == set(result.to_dict()["nodes"]) == nodes
    for node in cluster.primaries:
        first, second, third = keys_of(cluster, node.port)
        assert node.admin.get(first) == b"old"
        assert 0 < node.admin.pttl(first) <= 600_000
        assert node.admin.hgetall(second) == {b"field": b"old"}
        assert not node.admin.exists(third)
        names = [name.decode() for name in node.admin.keys("keyleash:*")]
        assert not [name for name in names if "undo" in name]
    events = list(op.audit.events(OPERATORS))
    assert {event.shard for event in events} == {tag_of(node) for node in cluster.primaries}
    assert [event.seq for event in events] == [1, 1, 1]
    assert op.audit.find(result.events[0]).entries
    (action,) = [item for item in op.audit.control() if item.event == "undo"]
    assert (action.actor, action.details["keys"]) == ("test", "9")

    op.undo.apply(op.undo.plan(correlation=result.correlation))
    assert values(cluster)[2] == new[2]
    assert [node.admin.get(keys_of(cluster, node.port)[0]) for node in cluster.primaries] == (
        [b"new"] * 3
    )


def test_command_says_that_each_node_is_a_step_of_its_own(
    cluster: RealCluster, agent: keyleash.RedisCluster
) -> None:
    """With the plan, before it asks, and with the result."""
    shown = Cli(cluster.url).run("undo", "--correlation", "c", "--yes")
    assert shown.exit_code == 0, shown.stderr
    assert "the keys of each node change in one step, one node after the other" in shown.stderr
    assert "in one step at each of" in shown.stderr


def test_conflict_at_one_node_leaves_all_nodes_as_they_are(
    cluster: RealCluster, op: keyleash.Operator, agent: keyleash.RedisCluster
) -> None:
    """The plan has the keys of all nodes."""
    node = cluster.primaries[1]
    node.admin.set(keys_of(cluster, node.port)[0], "other")
    before = values(cluster)
    with raises_code("undo-denied"):
        op.undo.apply(op.undo.plan(correlation="c"))
    assert values(cluster) == before


def test_change_after_the_plan_ends_the_undo_at_that_node(
    cluster: RealCluster, op: keyleash.Operator, agent: keyleash.RedisCluster
) -> None:
    """Its keys stay; those of the nodes before are undone, recorded, and reported."""
    plan = op.undo.plan(correlation="c")
    last = plan.changes[-1]
    order = list(dict.fromkeys(key.node for key in plan.changes))
    node = cluster.owner(last.key)
    assert order[-1] == last.node == f"127.0.0.1:{node.port}"
    node.admin.set(last.key, "other")

    with raises_code("undo-incomplete") as caught:
        op.undo.apply(plan)

    assert "6 keys undone at 2 nodes" in str(caught.value)
    assert [node.admin.get(keys_of(cluster, node.port)[0]) for node in cluster.primaries].count(
        b"old"
    ) == 2
    (action,) = [item for item in op.audit.control() if item.event == "undo"]
    assert action.details["keys"] == "6"
    assert f"--correlation {action.details['undo']}" in (caught.value.help or "")


def test_first_node_that_fails_leaves_all_nodes_as_they_are(
    cluster: RealCluster, op: keyleash.Operator, agent: keyleash.RedisCluster
) -> None:
    """The error is that of one server."""
    plan = op.undo.plan(correlation="c")
    first = plan.changes[0]
    cluster.owner(first.key).admin.set(first.key, "other")
    before = values(cluster)
    with raises_code("changed-meanwhile"):
        op.undo.apply(plan)
    assert values(cluster) == before
    assert not [item for item in op.audit.control() if item.event == "undo"]


def test_undo_while_a_slot_moves_changes_no_key_of_its_node(
    cluster: RealCluster, op: keyleash.Operator, agent: keyleash.RedisCluster
) -> None:
    """Key by key, the source can take no new key; afterwards the undo works."""
    source = cluster.primaries[0]
    mine = keys_of(cluster, source.port)
    before = [source.admin.dump(key) for key in mine]
    with cluster.moving(key_slot(mine[0].encode()), cluster.primaries[1]):
        plan = op.undo.plan(correlation="c")
        with pytest.raises(keyleash.OperationError):
            op.undo.apply(plan)
        assert [source.admin.dump(key) for key in mine] == before
        names = [name.decode() for name in source.admin.keys("keyleash:*")]
        assert not [name for name in names if "undo" in name]
    op.undo.apply(op.undo.plan(correlation="c"))
    assert cluster.owner(mine[0]).admin.get(mine[0]) == b"old"


def test_streams_of_undos_are_exported(
    cluster: RealCluster, op: keyleash.Operator, agent: keyleash.RedisCluster, tmp_path: Path
) -> None:
    """They are beside the keys, one at each node that an undo changed."""
    op.undo.apply(op.undo.plan(correlation="c"))
    op.audit.export(tmp_path / "archive")
    report = op.audit.verify(tmp_path / "archive")
    assert report.is_valid
    names = {f"audit/{OPERATORS}@{tag_of(node)}" for node in cluster.primaries}
    assert {item.stream for item in report.streams if OPERATORS in item.stream} == names
