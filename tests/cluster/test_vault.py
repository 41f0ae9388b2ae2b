"""Sealed clusters: prefixes of all nodes change, and no write is lost while slots move."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator

import pytest
import redis
from redis.crc import key_slot

import keyleash
from keyleash.store.keyspace import HOME_TAG, Keyspace
from keyleash.store.placement import control_tag
from keyleash.store.prefixes import read_seal
from support.clusters import RealCluster
from support.errors import raises_code
from support.leases import ClusterAgent, tag_of
from support.replication import wait_until

POLICY = """
version: 1
identities:
  agent:
    kind: machine
    grants: [{allow: [read, write, delete, scan], keys: ["jobs:*"]}]
    budget: {requests: 100000/day}
    audit: {before_images: {max_bytes: 1kb}}
  other:
    kind: machine
    grants: [{allow: [read], keys: ["jobs:*"]}]
"""
OPEN = Keyspace().at_home()


class Sealing:
    """A cluster with a policy, some keys of its agent on every node, and its trails."""

    def __init__(self, cluster: RealCluster, op: keyleash.Operator) -> None:
        self.cluster, self.op = cluster, op
        op.load(keyleash.Policy(POLICY))
        self.token = op.tokens.issue("agent").token
        self.agent = cluster.agent(self.token)
        self.plain = [node.key("jobs:") for node in cluster.primaries]
        self.tagged = [f"jobs:{{{node.key('t')}}}:x" for node in cluster.primaries]
        for key in (*self.plain, *self.tagged):
            assert self.agent.set(key, key)

    @property
    def keys(self) -> Keyspace:
        """The names in force at the home."""
        return read_seal(self.cluster.owner(OPEN.policy).admin, HOME_TAG).keyspace

    def names(self) -> set[bytes]:
        """Return the names of all keys of all nodes."""
        return {name for node in self.cluster.primaries for name in node.admin.keys("*")}

    def read_all(self) -> None:
        """Assert that the agent finds its keys."""
        for key in (*self.plain, *self.tagged):
            assert self.agent.get(key) == key.encode()

    def lengths(self) -> list[int]:
        """Return the length of the audit stream of each shard."""
        return [
            node.admin.xlen(self.keys.at_shard(tag_of(node)).audit("agent"))
            for node in self.cluster.primaries
        ]


@pytest.fixture
def op(cluster: RealCluster) -> Iterator[keyleash.Operator]:
    with keyleash.Operator.from_url(cluster.url, actor="test") as op:
        yield op


@pytest.fixture
def sealing(cluster: RealCluster, op: keyleash.Operator) -> Sealing:
    return Sealing(cluster, op)


def test_seal_rotate_and_unseal_move_all_keys(sealing: Sealing) -> None:
    """Tokens, trails and data stay; nothing but records has a known name meanwhile."""
    events = sealing.lengths()
    sealing.op.vault.seal(adopt=["jobs:*"])
    sealed = sealing.keys
    assert sealed.vault
    sealing.read_all()
    assert sealing.lengths() == events
    for key in (*sealing.plain, *sealing.tagged):
        node = sealing.cluster.owner(key)
        assert not node.admin.exists(key)
        assert node.admin.get(sealed.physical(key.encode())) == key.encode()

    result = sealing.op.vault.rotate()
    assert result.moved >= 6
    rotated = sealing.keys
    assert rotated.vault != sealed.vault
    sealing.read_all()
    # The event, and what the key holds after it.
    assert sealing.agent.set(sealing.plain[0], sealing.plain[0])
    left = [name for name in sealing.names() if name.startswith(sealed.vault.encode())]
    assert left == []
    assert sum(sealing.lengths()) == sum(events) + 2
    assert len([*sealing.agent.scan_iter("jobs:*")]) == len(sealing.plain) + len(sealing.tagged)

    sealing.op.vault.unseal()
    assert sealing.keys == OPEN
    sealing.read_all()
    assert sum(sealing.lengths()) == sum(events) + 2
    sealing.op.vault.seal(adopt=["jobs:*"])
    sealing.read_all()
    assert sum(sealing.lengths()) == sum(events) + 2


def test_seal_leaves_control_keys_of_one_server_alone(sealing: Sealing) -> None:
    """They came with data from one server; a rename would take them to other slots."""
    left = {name: sealing.cluster.owner(name).admin for name in ("keyleash:history", "keyleash:x")}
    for name, client in left.items():
        client.sadd(name, "x")
    sealing.op.vault.seal(adopt=["*"])
    sealing.read_all()
    sealing.op.vault.unseal()
    sealing.read_all()
    assert all(client.exists(name) for name, client in left.items())


def test_old_guards_stop_with_the_change(sealing: Sealing) -> None:
    """An agent that still calls the old script is sent to the new one, at every node."""
    old = ClusterAgent(sealing.cluster, sealing.token)
    assert old.record
    sealing.op.vault.seal(adopt=["jobs:*"])
    for key in sealing.plain:
        with pytest.raises(redis.ResponseError, match="POLICY_STALE"):
            old.call(sealing.cluster.owner(key), "GET", key)
        assert not sealing.cluster.owner(key).admin.exists(key)
    sealing.read_all()


def test_agents_are_suspended_until_an_unfinished_change_is_continued(
    sealing: Sealing, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also if it ended between the nodes."""
    events = sum(sealing.lengths())
    with monkeypatch.context() as patch:
        patch.setattr("keyleash.vault.change.move_keys", _interrupt)
        with pytest.raises(KeyboardInterrupt):
            sealing.op.vault.seal(adopt=["jobs:*"])
    for key in sealing.plain:
        with pytest.raises(keyleash.SuspendedError):
            sealing.agent.get(key)
    with raises_code("vault-changing"):
        sealing.op.freeze("agent", reason="x")
    sealing.op.vault.seal()
    sealing.read_all()
    assert sum(sealing.lengths()) == events


def _interrupt(*_arguments: object) -> None:
    raise KeyboardInterrupt


def test_fenced_agent_of_a_sealed_cluster_reaches_its_keys_by_the_guard(sealing: Sealing) -> None:
    """Its user has rules for both forms of names, on every node."""
    outcome = sealing.op.fence.apply(sealing.op.fence.plan(generate=True))
    (password,) = (item.password for item in outcome.passwords if item.identity == "agent")
    user = {"username": "agent", "password": password}
    sealing.op.vault.seal(adopt=["jobs:*"])
    assert not sealing.op.fence.plan().changes
    token = sealing.op.tokens.issue("agent").token
    agent = sealing.cluster.agent(token, **user)
    for key in (*sealing.plain, *sealing.tagged):
        assert agent.get(key) == key.encode()
        assert agent.set(key, key)
        with pytest.raises(keyleash.KeyNotGrantedError):
            agent.set(f"no{key}", "1")
        bare = sealing.cluster.owner(key).client(**user)
        for name in (key.encode(), sealing.keys.physical(b"no" + key.encode())):
            with pytest.raises(redis.exceptions.NoPermissionError):
                bare.get(name)


def test_adopt_and_release_reach_all_nodes(sealing: Sealing) -> None:
    """Each key moves within its slot."""
    sealing.op.vault.seal()
    assert sealing.agent.get(sealing.plain[0]) is None
    assert sealing.op.vault.adopt("jobs:*") == 6
    sealing.read_all()
    assert sealing.op.vault.release("jobs:*") == 6
    for key in sealing.plain:
        assert sealing.cluster.owner(key).admin.get(key) == key.encode()


def test_undo_of_a_sealed_cluster_can_be_undone_after_a_rotation(sealing: Sealing) -> None:
    """Streams of undos move with the shards."""
    sealing.op.vault.seal(adopt=["jobs:*"])
    changed = [*sealing.plain, *sealing.tagged]
    for key in changed:
        sealing.agent.set(key, "changed")
    undone = sealing.op.undo.apply(sealing.op.undo.plan(identity="agent", since="1h"))
    for key in changed:
        assert sealing.agent.get(key) is None
    sealing.op.vault.rotate()
    sealing.op.undo.apply(sealing.op.undo.plan(correlation=undone.correlation))
    for key in changed:
        assert sealing.agent.get(key) == b"changed"


@pytest.mark.parametrize("is_tagged", [False, True], ids=["plain", "tagged"])
def test_no_write_is_lost_while_a_slot_moves_key_by_key(sealing: Sealing, is_tagged: bool) -> None:
    """Calls wait: the target must not take a key that is still at the source for a missing one."""
    sealing.op.vault.seal(adopt=["jobs:*"])
    cluster, agent, source = sealing.cluster, sealing.agent, sealing.cluster.primaries[0]
    key = next(
        key
        for number in range(1000)
        for key in [f"jobs:{{n{number}}}" if is_tagged else f"jobs:n{number}"]
        if key_slot(key.encode()) in source.slots and _is_data(cluster, key)
    )
    name = sealing.keys.physical(key.encode())
    assert agent.incr(key) == 1
    passed, waits, stop = [1], [0], threading.Event()

    def sleep(seconds: float) -> None:
        waits[0] += 1
        time.sleep(seconds)

    vars(agent)["sleep"] = sleep

    def load() -> None:
        while not stop.is_set():
            agent.incr(key)
            passed[0] += 1

    thread = threading.Thread(target=load, daemon=True)
    thread.start()
    target = cluster.primaries[1]
    try:
        _wait_for(lambda: passed[0] > 20, thread)
        with cluster.moving(key_slot(key.encode()), target):
            waited = waits[0]
            _wait_for(lambda: waits[0] > waited + 3, thread)
            assert not target.admin.cluster("COUNTKEYSINSLOT", key_slot(key.encode()))
        after = passed[0]
        _wait_for(lambda: passed[0] > after + 10, thread)
    finally:
        stop.set()
        thread.join()
    assert cluster.owner(key) is target
    assert int(target.admin.get(name)) == passed[0]


def _wait_for(condition: Callable[[], bool], thread: threading.Thread) -> None:
    wait_until(lambda: condition() or not thread.is_alive())
    assert thread.is_alive()


def _is_data(cluster: RealCluster, key: str) -> bool:
    """Return whether the slot of a key has no control keys."""
    control = {
        control_tag([(slot, slot) for slot in sorted(node.slots)]) for node in cluster.primaries
    }
    slots = {key_slot(tag.encode()) for tag in (*filter(None, control), HOME_TAG)}
    return key_slot(key.encode()) not in slots
