"""ACL users of agents on the nodes of a cluster."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import redis

import keyleash
from keyleash.fence.acl_steps import AclStepKind
from keyleash.store.keyspace import Keyspace
from support.clusters import ClusterNode, RealCluster
from support.errors import raises_code
from support.leases import HOME, tag_of

POLICY = """
version: 1
identities:
  agent:
    kind: machine
    grants: [{allow: [read, write], keys: ["jobs:{id}"]}]
    budget: {requests: 1000/day}
    rate: {writes: 600/minute}
    on_denials: {threshold: 3/minute, suspend: 1m}
    audit: {before_images: {max_bytes: 1kb}}
  other:
    kind: machine
    grants: [{allow: [read, write], keys: ["theirs:{id}"]}]
"""


class Fenced:
    """A cluster with a policy, and its agents with users and tokens."""

    def __init__(self, cluster: RealCluster, op: keyleash.Operator) -> None:
        self.cluster, self.op = cluster, op
        op.load(keyleash.Policy(POLICY))
        outcome = op.fence.apply(op.fence.plan(generate=True))
        self.passwords = {item.identity: item.password for item in outcome.passwords}
        self.outcome = outcome

    def user(self, identity: str = "agent") -> dict[str, str]:
        return {"username": identity, "password": self.passwords[identity]}

    def agent(self, identity: str = "agent") -> keyleash.RedisCluster:
        return self.cluster.agent(self.op.tokens.issue(identity).token, **self.user(identity))

    def refuses(self, node: ClusterNode, *words: Any) -> bool:
        """Return whether a node denies the user `agent` a command, by its rules."""
        with pytest.raises(redis.ResponseError) as error:
            node.client(**self.user()).execute_command(*words)
        return isinstance(error.value, redis.exceptions.NoPermissionError)


@pytest.fixture
def op(replicated_cluster: RealCluster) -> Iterator[keyleash.Operator]:
    with keyleash.Operator.from_url(replicated_cluster.url, actor="test") as op:
        yield op


@pytest.fixture
def fenced(replicated_cluster: RealCluster, op: keyleash.Operator) -> Fenced:
    return Fenced(replicated_cluster, op)


def test_fence_makes_users_on_all_nodes(fenced: Fenced) -> None:
    """Replicas as well, since one of them serves the agents after a failover."""
    nodes = {f"{host}:{port}" for host, port in (node.address for node in fenced.cluster.nodes)}
    assert {step.server for step in fenced.outcome.steps} == nodes
    for node in fenced.cluster.nodes:
        assert {"agent", "other"} <= {name.decode() for name in map(_bytes, node.admin.acl_users())}
    plan = fenced.op.fence.plan()
    assert not plan.changes
    assert {step.kind for step in plan.steps} == {AclStepKind.UNCHANGED}

    node = fenced.cluster.replicas[0]
    node.admin.execute_command("ACL", "SETUSER", "agent", "+flushall")
    plan = fenced.op.fence.plan()
    (step,) = (step for step in plan.steps if step.kind is not AclStepKind.UNCHANGED)
    assert step.server == f"127.0.0.1:{node.port}"
    assert step.identity == "agent"


def _bytes(name: str | bytes) -> bytes:
    return name.encode() if isinstance(name, str) else name


def test_guard_works_with_the_rights_of_its_user(fenced: Fenced) -> None:
    """Leases, limits, before-images, events and denials, at every node."""
    agent = fenced.agent()
    for node in fenced.cluster.primaries:
        key = node.key("jobs:")
        assert agent.set(key, "1")
        assert agent.incr(key) == 2
        assert agent.set(key, "3")
        with agent.batch() as batch:
            batch.get(key)
            batch.incr(key)
        assert batch.results == [b"3", 4]
        shard = Keyspace().at_shard(tag_of(node))
        assert node.admin.xlen(shard.audit("agent")) >= 4
        with pytest.raises(keyleash.KeyNotGrantedError):
            agent.set(node.key("theirs:"), "1")
        assert node.admin.xlen(shard.denied("agent")) == 1


def test_denials_suspend_on_their_node(fenced: Fenced) -> None:
    """The circuit breaker counts and suspends by the rights of the user."""
    agent, node = fenced.agent(), fenced.cluster.primaries[0]
    assert agent.set(node.key("jobs:"), "1")
    for _ in range(3):
        with pytest.raises(keyleash.KeyNotGrantedError):
            agent.set(node.key("theirs:"), "1")
    with pytest.raises(keyleash.SuspendedError):
        agent.set(node.key("theirs:"), "1")
    assert agent.set(fenced.cluster.primaries[1].key("jobs:"), "1")


def test_refused_lease_is_recorded_at_the_home(fenced: Fenced) -> None:
    """The script of the home runs with the rights of the user, too."""
    agent = fenced.agent()
    fenced.op.tokens.revoke(identity="agent")
    key = fenced.cluster.primaries[0].key("jobs:")
    with pytest.raises(keyleash.TokenRevokedError):
        agent.get(key)
    assert fenced.cluster.owner(HOME.policy).admin.xlen(HOME.denied("agent")) == 1


def test_user_may_do_nothing_else_on_any_node(fenced: Fenced) -> None:
    """Neither list keys, nor read a key beside its rules, nor another identity's control keys."""
    agent = fenced.agent()
    for node in fenced.cluster.nodes:
        tag = tag_of(node) if node.is_primary else "0"
        client = node.client(**fenced.user())
        assert client.execute_command("CLUSTER", "SLOTS")
        assert client.execute_command("CLUSTER", "SHARDS")
        assert client.execute_command("ASKING")
        assert client.execute_command("READONLY")
        listing: tuple[tuple[Any, ...], ...] = (
            ("CLUSTER", "GETKEYSINSLOT", 0, 10), ("CLUSTER", "COUNTKEYSINSLOT", 0),
            ("CLUSTER", "NODES"), ("CLUSTER", "RESET"), ("CLUSTER", "SETSLOT", 0, "STABLE"),
            ("MIGRATE", "127.0.0.1", 1, "jobs:1", 0, 1), ("SCAN", 0), ("KEYS", "*"),
            ("GET", node.key("theirs:") if node.is_primary else "theirs:1"),
        )  # fmt: skip
        for words in listing:
            assert fenced.refuses(node, *words), words
        for keys in (HOME, Keyspace().at_shard(tag)):
            for words in (
                ("GET", keys.state("other")), ("SET", keys.state("other"), "x"),
                ("SET", keys.token("other", "0" * 40), "x"),
                ("XADD", keys.audit("other"), "*", "a", "b"),
                ("HGETALL", keys.guard("other")), ("HGETALL", keys.policy), ("GET", keys.mac_key),
                ("HGETALL", keys.leases("other")), ("HSET", keys.leases("other"), "a", "b"),
                ("HGETALL", keys.leases("agent")), ("DEL", keys.leases("agent")),
                ("SET", keys.leases("agent"), "x"), ("HGETALL", keys.fence),
                ("HGETALL", keys.source("agent")), ("XRANGE", keys.audit("agent"), "-", "+"),
            ):  # fmt: skip
                assert fenced.refuses(node, *words), words
    assert agent.set(fenced.cluster.primaries[0].key("jobs:"), "1")


def test_load_changes_users_of_all_nodes(fenced: Fenced) -> None:
    """An agent calls the new guard everywhere, with what the new policy grants."""
    agent = fenced.agent()
    keys = [node.key("more:") for node in fenced.cluster.primaries]
    with pytest.raises(keyleash.KeyNotGrantedError):
        agent.set(keys[0], "1")
    wider = POLICY.replace('"jobs:{id}"', '"jobs:{id}", "more:{id}"')
    fenced.op.load(keyleash.Policy(wider), allow_widening=True)
    for key in keys:
        assert agent.set(key, "1")
    assert not fenced.op.fence.plan().changes


def test_node_out_of_reach_is_named_and_nothing_changed(fenced: Fenced) -> None:
    """The users of its agents would be others than at the rest."""
    node = fenced.cluster.replicas[0]
    admin = fenced.cluster.primaries[0].admin
    before = admin.acl_list()
    for other in fenced.cluster.nodes:
        # Or they leave it out before the test ends.
        other.admin.config_set("cluster-node-timeout", 60_000)
    node.halt()
    with keyleash.Operator.from_url(fenced.cluster.url, timeout=4.0) as op:
        with raises_code("server-unreachable", f"127.0.0.1:{node.port}"):
            op.fence.rotate("agent")
        with raises_code("server-unreachable", f"127.0.0.1:{node.port}"):
            op.fence.plan()
    assert admin.acl_list() == before


def test_remove_deletes_users_from_all_nodes(fenced: Fenced) -> None:
    """And with them their connections."""
    removed = fenced.op.fence.remove("agent")
    assert len(removed) == len(fenced.cluster.nodes)
    for node in fenced.cluster.nodes:
        assert b"agent" not in map(_bytes, node.admin.acl_users())


@pytest.mark.parametrize("epoch", ["x", str(2**63 - 1)])
def test_epoch_that_an_agent_wrote_stops_no_operator(fenced: Fenced, epoch: str) -> None:
    """A fenced agent may write its own leases; the leases of others still end."""
    home = fenced.cluster.owner(HOME.policy)
    home.client(**fenced.user()).hset(HOME.leases("agent"), "epoch", epoch)
    other = fenced.agent("other")
    key = fenced.cluster.primaries[0].key("theirs:")
    assert other.set(key, "1")
    result = fenced.op.freeze("agent", "other", reason="x")
    assert result.not_reached == ()
    with pytest.raises(keyleash.SuspendedError):
        other.set(key, "1")


def test_fenced_agent_sends_pipelines_to_all_nodes(fenced: Fenced) -> None:
    """Its user may do all that the client sends."""
    client = fenced.agent()
    keys = [f"jobs:{number}" for number in range(20)]
    pipe = client.pipeline()
    for key in keys:
        pipe.incr(key)
    assert pipe.execute() == [1] * len(keys)
