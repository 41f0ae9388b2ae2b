"""Operators on clusters: the home from any node, scripts on all nodes, and expired leases."""

from __future__ import annotations

import struct

import pytest
import redis
from redis.crc import key_slot

import keyleash
from keyleash.results import Change
from keyleash.store.keyspace import HOME_TAG, Keyspace
from keyleash.store.leases import DEFAULT_LEASE_US
from support.clusters import RealCluster
from support.errors import raises_code
from support.leases import HOME, ClusterAgent, read_epoch, read_shard, tag_of, write_lease

POLICY = """
version: 1
identities:
  agent:
    kind: machine
    grants: [{allow: [read, write], keys: ["jobs:{id}"]}]
    budget: {requests: 1000/day}
    rate: {writes: 600/minute}
  other:
    kind: machine
    grants: [{allow: [read], keys: ["jobs:{id}"]}]
"""
WIDER = POLICY.replace("allow: [read]", "allow: [read, write]")


def test_operator_of_any_node_works_at_the_home(replicated_cluster: RealCluster) -> None:
    """Also by a replica, and whichever kind of client it is given."""
    for node in replicated_cluster.nodes:
        client = redis.Redis.from_url(node.process.url, decode_responses=True)
        with client, keyleash.Operator(client) as op:
            op.load(keyleash.Policy(POLICY))
            issued = op.tokens.issue("agent")
            assert issued.id in {token.id for token in op.tokens.list("agent")}

    home = replicated_cluster.owner(HOME.policy)
    assert home.admin.xlen(HOME.control) == 1 + len(replicated_cluster.nodes)
    for node in replicated_cluster.primaries:
        names = [name.decode() for name in node.admin.keys("keyleash:*")]
        assert all(f"{{{HOME_TAG}}}" in name for name in names)
        assert bool(names) == (node is home)


def test_user_password_and_timeout_apply_to_all_nodes(cluster: RealCluster) -> None:
    """The credentials of one URL are those of the whole cluster."""
    for node in cluster.nodes:
        node.admin.acl_setuser("boss", enabled=True, passwords=["+secret"], keys="*",
                               channels="*", commands=["+@all"])  # fmt: skip
        node.admin.acl_setuser("default", enabled=True, commands=["-@all", "+ping", "+hello"])
    try:
        url = cluster.url.replace("redis://", "redis://boss:secret@")
        with keyleash.Operator.from_url(url) as op:
            result = op.load(keyleash.Policy(POLICY))
    finally:
        for node in cluster.nodes:
            boss = redis.Redis(port=node.port, username="boss", password="secret", protocol=2)
            with boss:
                boss.acl_setuser("default", enabled=True, commands=["+@all"])

    assert result.not_reached == ()
    assert len(result.nodes or ()) == len(cluster.nodes)


def test_load_puts_scripts_on_all_nodes(replicated_cluster: RealCluster) -> None:
    """An agent's first call at a node needs no recovery, also after a failover."""
    with keyleash.Operator.from_url(replicated_cluster.url) as op:
        result = op.load(keyleash.Policy(POLICY))

    home = replicated_cluster.owner(HOME.policy)
    digests = home.admin.hkeys(HOME.source("agent"))
    assert digests
    for node in replicated_cluster.nodes:
        assert node.admin.script_exists(*digests) == [True] * len(digests)
    assert {effect.node for effect in result.nodes or ()} == {
        f"{host}:{port}" for host, port in (node.address for node in replicated_cluster.nodes)
    }


def test_load_makes_the_key_of_leases_once(cluster: RealCluster, op: keyleash.Operator) -> None:
    """Another key would void all leases, and another load that compiled with one must fail."""
    home = cluster.owner(HOME.policy)
    key = home.admin.get(HOME.mac_key)
    assert isinstance(key, bytes)
    assert len(key) == 32

    plan = op.plan(keyleash.Policy(WIDER))
    op.load(keyleash.Policy(WIDER), allow_widening=True)
    assert home.admin.get(HOME.mac_key) == key

    home.admin.set(HOME.mac_key, bytes(32))
    with raises_code("activation-conflict"):
        op.apply(plan, allow_widening=True)


@pytest.mark.parametrize("change", ["freeze", "revoke", "rotate", "load", "reset"])
def test_change_expires_leases_at_every_shard(
    cluster: RealCluster, op: keyleash.Operator, change: str
) -> None:
    """From then on each shard asks the home; it also does if it had no state yet."""
    op.tokens.issue("agent")
    tags = write_lease(cluster)
    before = read_epoch(cluster)
    result: Change
    match change:
        case "freeze":
            result = op.freeze("agent", reason="x")
        case "revoke":
            result = op.tokens.revoke(identity="agent")
        case "rotate":
            result = op.tokens.rotate("agent")
        case "load":
            result = op.load(keyleash.Policy(WIDER), allow_widening=True)
        case "reset":
            result = op.limits.reset("agent", reason="x")

    # A reset raises it with the counts, and again before the shards.
    assert read_epoch(cluster) == before + 1 + (change == "reset")
    for tag in tags:
        state = read_shard(cluster, tag)
        assert state.min_epoch == read_epoch(cluster)
        assert state.seq == state.born_us > 0
    assert [str(node) for node in result.nodes or ()] == ["effective now"] * len(tags)
    assert result.latest_us is None


def test_expiry_keeps_credit_and_reset_drops_it(
    cluster: RealCluster, op: keyleash.Operator
) -> None:
    """Credit was charged at the home; a reset of one limit clears what was charged to it."""
    (tag,) = write_lease(cluster, cluster.primaries[0])
    key = Keyspace().at_shard(tag).state("agent")
    head, credits_, windows = (5, 0, 0, 7, 99, 3, 20, 9), (4, 6, 50, 60), (8, 4, 0, 0)
    node = cluster.owner(key)
    node.admin.set(key, struct.pack("<16d", *head, *credits_, *windows))

    op.freeze("agent", reason="x")
    state = read_shard(cluster, tag)
    assert (state.seq, state.asked_us, state.born_us, state.sequence) == (7, 99, 3, 20)
    assert [limit.credit for limit in state.limits] == [4, 6]

    names = [slot.name for slot in op.status().identities[0].limits]
    op.limits.reset("agent", names[1], reason="x")
    state = read_shard(cluster, tag)
    assert [limit.credit for limit in state.limits] == [4, 0]
    assert [limit.have for limit in state.limits] == [4, 0]
    assert state.asked_us == 0


def test_thaw_ends_suspensions_by_circuit_breakers_of_shards(
    cluster: RealCluster, op: keyleash.Operator
) -> None:
    """A breaker suspends at its own node; a person resumes the identity everywhere."""
    (tag,) = write_lease(cluster, cluster.primaries[1])
    names = Keyspace().at_shard(tag)
    node = cluster.owner(names.state("agent"))
    node.admin.set(names.state("agent"), struct.pack("<8d", 0, 1, 0, 7, 0, 3, 0, 9))
    node.admin.hset(names.suspension("agent"), "reason", "x")

    thawed = op.thaw("agent")

    assert read_shard(cluster, tag).suspended == 0
    assert not node.admin.exists(names.suspension("agent"))
    assert [(item.identity, item.changed) for item in thawed.identities] == [("agent", True)]
    *_, event = op.audit.control()
    assert (event.id, event.event, event.identities) == (thawed.event, "thaw", frozenset({"agent"}))
    assert not op.thaw("agent").identities[0].changed


def test_repeated_revocation_expires_again(cluster: RealCluster, op: keyleash.Operator) -> None:
    """The first one may not have reached a node; only another attempt can show that it did."""
    issued = op.tokens.issue("agent")
    op.tokens.revoke(token_id=issued.id)
    (tag,) = write_lease(cluster, cluster.primaries[2])

    again = op.tokens.revoke(token_id=issued.id)

    assert again.tokens == ()
    assert [node.is_reached for node in again.nodes or ()] == [True] * 3
    assert read_shard(cluster, tag).min_epoch == read_epoch(cluster)


def test_repeated_load_expires_again(cluster: RealCluster, op: keyleash.Operator) -> None:
    """As a repeated revocation does."""
    before = read_epoch(cluster)
    assert not op.load(keyleash.Policy(POLICY)).changed
    assert read_epoch(cluster) == before + 1


@pytest.mark.parametrize("loss", ["data", "epochs"])
def test_shards_take_leases_of_a_home_that_lost_epochs(
    cluster: RealCluster, op: keyleash.Operator, loss: str
) -> None:
    """A policy that is loaded again, or the next change, exceeds the epochs that shards know."""
    home = cluster.owner(HOME.policy)
    shards = [node for node in cluster.primaries if node is not home]
    tags = write_lease(cluster, *shards)
    for _ in range(3):
        op.freeze("agent", reason="x")
        op.thaw("agent")
    if loss == "data":
        home.admin.flushall()
    else:
        home.admin.hincrby(HOME.leases("agent"), "epoch", -100)
    op.load(keyleash.Policy(POLICY))

    agent = ClusterAgent(cluster, op.tokens.issue("agent").token)
    assert [agent.call(node, "SET", node.key("jobs:"), "1") for node in shards] == [b"OK"] * 2
    op.freeze("agent", reason="x")
    assert [read_shard(cluster, tag).min_epoch for tag in tags] == [read_epoch(cluster)] * 2


def test_identities_that_are_not_concerned_keep_their_leases(
    cluster: RealCluster, op: keyleash.Operator
) -> None:
    """A revocation costs only its own identity two round trips, and writes no state anywhere."""
    write_lease(cluster, identity="other")
    before = read_epoch(cluster, "other")

    result = op.tokens.revoke(identity="agent")

    assert [node.is_reached for node in result.nodes or ()] == [True] * 3
    assert read_epoch(cluster, "other") == before
    for node in cluster.primaries:
        assert not node.admin.exists(Keyspace().at_shard(tag_of(node)).state("agent"))


@pytest.mark.slow
def test_node_out_of_reach_is_named_with_the_end_of_its_leases(
    cluster: RealCluster, op: keyleash.Operator
) -> None:
    """It continues with its leases, and stops by its own clock."""
    write_lease(cluster)
    home = cluster.owner(HOME.policy)
    frozen = cluster.other(home)
    frozen.halt()

    result = op.freeze("agent", reason="x")

    (effect,) = result.not_reached
    host, port = frozen.address
    assert effect.node == f"{host}:{port}"
    assert effect.latest_us is not None
    assert 0 <= effect.latest_us - result.effective_us - DEFAULT_LEASE_US < 1_000_000
    assert "not reached" in str(effect)
    assert len(result.nodes or ()) == 3
    assert result.to_dict()["nodes"][0]["node"]


def test_load_names_a_node_out_of_reach(cluster: RealCluster, op: keyleash.Operator) -> None:
    """The policy is active; clients load the scripts there when the node is back."""
    frozen = cluster.other(cluster.owner(HOME.policy))
    frozen.kill()

    result = op.load(keyleash.Policy(WIDER), allow_widening=True)

    assert result.changed
    host, port = frozen.address
    assert [effect.node for effect in result.not_reached] == [f"{host}:{port}"]


def test_home_is_found_after_its_slot_moved(cluster: RealCluster, op: keyleash.Operator) -> None:
    """An operator's object outlives changes of the cluster."""
    home = cluster.owner(HOME.policy)
    other = cluster.other(home)
    cluster.move_slot(key_slot(HOME_TAG.encode()), other)

    issued = op.tokens.issue("agent")

    assert other.admin.hexists(HOME.tokens("agent"), issued.id)


def test_operation_while_the_home_moves_fails_with_advice(
    cluster: RealCluster, op: keyleash.Operator
) -> None:
    """Key by key, some keys are at either node; nothing may be taken for missing."""
    home = cluster.owner(HOME.policy)
    with cluster.moving(key_slot(HOME_TAG.encode()), cluster.other(home)) as move:
        move.move(HOME.layouts, HOME.control)
        with raises_code("slot-moving") as caught:
            op.tokens.issue("agent")
    assert "run it again" in (caught.value.help or "")
    op.tokens.issue("agent")


def test_leases_are_expired_while_a_control_slot_moves(
    cluster: RealCluster, op: keyleash.Operator
) -> None:
    """A shard whose state is still at the source is reached; one that has moved is after that."""
    source = cluster.other(cluster.owner(HOME.policy))
    target = cluster.other(source)
    (tag,) = write_lease(cluster, source)
    op.freeze("agent", reason="x")
    key = Keyspace().at_shard(tag).state("agent")
    with cluster.moving(key_slot(tag.encode()), target) as move:
        assert op.thaw("agent").not_reached == ()
        move.move(key)
        (effect,) = op.thaw("agent").not_reached
        assert effect.node == f"127.0.0.1:{source.port}"
    assert op.thaw("agent").not_reached == ()
    # Behind the shards, `thaw` raises the epoch of the home once more.
    assert read_shard(cluster, tag).min_epoch == read_epoch(cluster) - 1


def test_failed_over_shard_is_expired_at_its_new_primary(replicated_cluster: RealCluster) -> None:
    """The tag names the shard, whichever node serves it."""
    cluster = replicated_cluster
    with keyleash.Operator.from_url(cluster.url) as op:
        op.load(keyleash.Policy(POLICY))
        victim = cluster.other(cluster.owner(HOME.policy))
        (tag,) = write_lease(cluster, victim)
        cluster.owner(HOME.policy).settle()
        victim.kill()
        cluster.wait_until_served()

        result = op.freeze("agent", reason="x")

    assert result.not_reached == ()
    assert read_shard(cluster, tag).min_epoch == read_epoch(cluster)


def test_revocation_is_quick(cluster: RealCluster, op: keyleash.Operator) -> None:
    """One pipeline for each node, at the same time: to its shard, and to one it may have had."""
    write_lease(cluster)
    op.tokens.issue("agent")
    op.tokens.revoke(identity="agent")
    calls = [node.admin.info("commandstats") for node in cluster.primaries]

    op.tokens.revoke(identity="agent")

    for node, before in zip(cluster.primaries, calls, strict=True):
        now = node.admin.info("commandstats")["cmdstat_eval"]["calls"]
        is_home = node is cluster.owner(HOME.policy)
        assert now - before.get("cmdstat_eval", {"calls": 0})["calls"] == 2 + 2 * is_home
