"""`watch` on clusters: scripts and ACL users on nodes that join, and breakers of single nodes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import redis

import keyleash
import keyleash.store.shards
from keyleash.store.shards import read_shards
from keyleash.watch.events import WatchEventKind
from keyleash.watch.watcher import Watcher
from support.clusters import ClusterNode, RealCluster
from support.command_line import Cli
from support.leases import HOME

POLICY = """
version: 1
identities:
  agent:
    kind: machine
    grants: [{allow: [read, write], keys: ["jobs:{id}"]}]
    on_denials: {threshold: 3/minute, suspend: 10m}
"""


@pytest.fixture
def op(embedded_cluster: RealCluster) -> Iterator[keyleash.Operator]:
    with keyleash.Operator.from_url(embedded_cluster.url, actor="test") as op:
        op.load(keyleash.Policy(POLICY))
        yield op


@pytest.fixture
def watcher(op: keyleash.Operator) -> Iterator[Watcher]:
    with op.watcher() as watcher:
        list(watcher.look())
        yield watcher


def test_all_nodes_are_watched_and_none_drifts(
    embedded_cluster: RealCluster, op: keyleash.Operator
) -> None:
    """Several primaries are no drift on a cluster, and scripts are there since the load."""
    with op.watcher() as watcher:
        events = list(watcher.look())

    assert {event.node for event in events} == {
        f"127.0.0.1:{node.port}" for node in embedded_cluster.nodes
    }
    assert {event.kind for event in events} == {WatchEventKind.ROLE}
    assert watcher.drifts == ()


def test_lost_scripts_are_loaded_on_every_node(
    embedded_cluster: RealCluster, watcher: Watcher
) -> None:
    """Their texts are at the home."""
    home = embedded_cluster.owner(HOME.policy)
    digests = home.admin.hkeys(HOME.source("agent"))
    for node in embedded_cluster.nodes:
        node.admin.script_flush()

    events = list(watcher.look())

    assert [event.kind for event in events] == [WatchEventKind.LOADED] * 3
    for node in embedded_cluster.nodes:
        assert all(node.admin.script_exists(*digests))


def test_node_that_joins_gets_scripts_and_users(
    embedded_cluster: RealCluster, op: keyleash.Operator, watcher: Watcher
) -> None:
    """Before it gets a slot, so that no agent meets a node that is not ready."""
    Cli(embedded_cluster.url).ok("fence", "apply", "--mint", "--yes")
    joined = embedded_cluster.add_node()

    events = [event for event in watcher.look() if event.node == f"127.0.0.1:{joined.port}"]

    assert [event.kind for event in events] == [
        WatchEventKind.ROLE,
        WatchEventKind.LOADED,
        WatchEventKind.LOADED,
    ]
    home = embedded_cluster.owner(HOME.policy)
    assert all(joined.admin.script_exists(*home.admin.hkeys(HOME.source("agent"))))
    assert joined.admin.acl_getuser("agent") == home.admin.acl_getuser("agent")


def test_node_out_of_reach_is_a_drift_and_others_are_watched(
    embedded_cluster: RealCluster, watcher: Watcher
) -> None:
    """Its slots are not served, and it is still listed."""
    victim = embedded_cluster.other(embedded_cluster.owner(HOME.policy))
    victim.kill()

    (event,) = watcher.look()

    assert (event.node, event.kind) == (f"127.0.0.1:{victim.port}", WatchEventKind.UNREACHABLE)


def test_breaker_of_one_node_freezes_the_identity_everywhere(
    embedded_cluster: RealCluster, op: keyleash.Operator, watcher: Watcher
) -> None:
    """A node counts only its own denials; the operator's `thaw` resumes all nodes."""
    node = embedded_cluster.primaries[0]
    agent = embedded_cluster.agent(op.tokens.issue("agent").token)
    agent.set(node.key("jobs:"), "v")
    for number in range(4):
        with pytest.raises(Exception, match=r"KEY_NOT_GRANTED|SUSPENDED"):
            agent.set(node.key(f"other{number}:"), "v")

    events = list(watcher.look())

    assert [event.kind for event in events] == [WatchEventKind.FROZEN]
    assert op.status().identities[0].suspended
    for item in embedded_cluster.primaries:
        with pytest.raises(redis.ResponseError, match=r"reason='on_denials: 3/minute'"):
            agent.set(item.key("jobs:"), "v")
    assert list(watcher.look()) == []
    op.thaw("agent")
    assert list(watcher.look()) == []
    assert not op.status().identities[0].suspended
    assert agent.set(node.key("jobs:"), "v")


@pytest.fixture
def tripped(embedded_cluster: RealCluster, op: keyleash.Operator) -> ClusterNode:
    """A node whose circuit breaker has suspended the agent."""
    node = embedded_cluster.primaries[0]
    agent = embedded_cluster.agent(op.tokens.issue("agent").token)
    for number in range(4):
        with pytest.raises(redis.ResponseError, match=r"KEY_NOT_GRANTED|SUSPENDED"):
            agent.set(node.key(f"other{number}:"), "v")
    return node


def test_thaw_before_the_watcher_freezes_wins(
    op: keyleash.Operator, watcher: Watcher, tripped: ClusterNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The watcher has read the node's suspension, and the operator has ended it since."""

    def read_then_thaw(*args: Any) -> Any:
        found = read_shards(*args)
        op.thaw("agent")
        return found

    monkeypatch.setattr("keyleash.watch.cluster.read_shards", read_then_thaw)

    assert list(watcher.look()) == []
    assert not op.status().identities[0].suspended
    actions = [event.event for event in op.audit.control()]
    assert "freeze" not in actions


def test_watcher_during_a_thaw_does_not_undo_it(
    op: keyleash.Operator, watcher: Watcher, tripped: ClusterNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It looks before the nodes are resumed, and once more before the home is."""
    original, looks = keyleash.store.shards.run_at_shards, []

    def look_around(*args: Any, **options: Any) -> Any:
        monkeypatch.setattr("keyleash.store.shards.run_at_shards", original)
        looks.append(list(watcher.look()))
        found = original(*args, **options)
        looks.append(list(watcher.look()))
        return found

    monkeypatch.setattr("keyleash.store.shards.run_at_shards", look_around)

    op.thaw("agent")

    assert len(looks) == 2
    assert not op.status().identities[0].suspended
    assert list(watcher.look()) == []
    assert not op.status().identities[0].suspended


def test_command_line_watches_a_cluster(
    embedded_cluster: RealCluster, op: keyleash.Operator
) -> None:
    """Exit code 0: no drift."""
    lines = Cli(embedded_cluster.url).lines("watch", "--once")
    assert len(lines) == len(embedded_cluster.nodes)
