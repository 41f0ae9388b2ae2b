"""Changes by operators as agents meet them: at the next call of every node."""

from __future__ import annotations

import contextlib
from datetime import timedelta

import pytest
import redis
from redis.crc import key_slot

import keyleash
from support.clusters import RealCluster
from support.leases import HOME, ClusterAgent, read_epoch, read_shard, tag_of

BUDGET = 300
"""So much that a lease has more than one unit."""

POLICY = """
version: 1
identities:
  agent:
    kind: machine
    grants: [{allow: [read, write], keys: ["jobs:{id}"]}]
    budget: {writes: BUDGET/day}
""".replace("BUDGET", str(BUDGET))


@pytest.fixture
def agent(cluster: RealCluster, op: keyleash.Operator) -> ClusterAgent:
    """An agent that has written one key at each node."""
    agent = ClusterAgent(cluster, op.tokens.issue("agent").token)
    for node in cluster.primaries:
        assert agent.call(node, "SET", node.key("jobs:"), "v") == b"OK"
    return agent


def test_revocation_takes_effect_on_the_next_call_of_every_node(
    op: keyleash.Operator, agent: ClusterAgent
) -> None:
    """Each node had a lease that was good for seconds; other tokens continue."""
    (issued,) = op.tokens.list("agent")
    other = ClusterAgent(agent.cluster, op.tokens.issue("agent").token)
    result = op.tokens.revoke(token_id=issued.id)

    assert len(result.nodes or ()) == 3
    assert set(agent.write()) == {"TOKEN_REVOKED"}
    assert set(other.write()) == {"OK"}


def test_freeze_and_thaw_take_effect_on_the_next_call_of_every_node(
    op: keyleash.Operator, agent: ClusterAgent
) -> None:
    """A freeze expires leases, and a thaw needs no more."""
    op.freeze("agent", reason="x")
    assert set(agent.write()) == {"SUSPENDED"}
    op.thaw("agent")
    assert set(agent.write()) == {"OK"}


def test_rotation_without_grace_takes_effect_on_the_next_call_of_every_node(
    op: keyleash.Operator, agent: ClusterAgent
) -> None:
    """The lease of the replaced token would have lasted longer."""
    issued = op.tokens.rotate("agent", grace=timedelta(0)).issued
    assert set(agent.write()) == {"TOKEN_EXPIRED"}
    assert set(ClusterAgent(agent.cluster, issued.token).write()) == {"OK"}


def test_old_guards_stop_when_another_policy_is_loaded(
    op: keyleash.Operator, agent: ClusterAgent
) -> None:
    """A client that still calls the guard of before is denied as soon as `load` returns."""
    op.load(keyleash.Policy(POLICY.replace("[read, write]", "[read]")))
    assert set(agent.write()) == {"POLICY_STALE"}

    renewed = ClusterAgent(agent.cluster, agent.token)
    assert set(renewed.write()) == {"CLASS_NOT_GRANTED"}
    for node in agent.cluster.primaries:
        assert renewed.call(node, "GET", node.key("jobs:")) == b"v"
    # The leases that the new guards have are not for the old ones.
    assert set(agent.write()) == {"POLICY_STALE"}


def test_budget_starts_again_exactly_after_a_reset(
    cluster: RealCluster, op: keyleash.Operator, agent: ClusterAgent
) -> None:
    """Unspent units of shards are dropped, so that no more calls pass than the limit allows."""
    node = cluster.primaries[0]
    agent.call(node, "SET", node.key("jobs:"), "v")
    assert read_shard(cluster, tag_of(node)).limits[0].credit > 0

    op.limits.reset("agent", reason="x")

    assert read_shard(cluster, tag_of(node)).limits[0].credit == 0
    found = agent.write(rounds=BUDGET // len(cluster.primaries) + 10)
    assert found["OK"] == BUDGET
    assert found["BUDGET_EXHAUSTED"] == 30


def test_voucher_of_before_a_change_credits_nothing(
    cluster: RealCluster, op: keyleash.Operator, agent: ClusterAgent
) -> None:
    """It was on its way when the token was revoked, and arrives at a shard that never had one."""
    node = cluster.primaries[1]
    for name in node.admin.scan_iter("keyleash:{*}:*:agent*"):
        if HOME.root.encode() not in name:
            node.admin.delete(name)
    voucher = agent.voucher_for(node, "SET", node.key("jobs:"), "v")

    op.tokens.revoke(identity="agent")

    with pytest.raises(redis.ResponseError, match="LEASE_NEEDED"):
        agent.attempt(node, voucher, "SET", node.key("jobs:"), "v")
    assert read_shard(cluster, tag_of(node)).min_epoch == read_epoch(cluster)


SEGMENTS = """
version: 1
identities:
  agent:
    kind: machine
    grants: [{allow: [read, write], keys: ["jobs:{{{id}}}"]}]
    budget: {writes: {limit: 2/day, per: "{id}"}}
"""


def test_reset_clears_counters_per_segment_on_all_nodes(
    cluster: RealCluster, op: keyleash.Operator
) -> None:
    """They are in the slots of the data, so each node has some."""
    op.load(keyleash.Policy(SEGMENTS), allow_widening=True)
    agent = ClusterAgent(cluster, op.tokens.issue("agent").token)
    numbers = [
        next(n for n in range(1000) if key_slot(str(n).encode()) in node.slots)
        for node in cluster.primaries
    ]

    def passed() -> int:
        count = 0
        for node, number in zip(cluster.primaries, numbers, strict=True):
            for _ in range(3):
                with contextlib.suppress(redis.ResponseError):
                    count += agent.call(node, "SET", f"jobs:{{{number}}}", "v") == b"OK"
        return count

    assert passed() == 6
    assert passed() == 0
    done = op.limits.reset("agent", reason="x")
    assert done.counters == 3
    assert [node.is_reached for node in done.nodes or ()] == [True] * 3
    assert passed() == 6
