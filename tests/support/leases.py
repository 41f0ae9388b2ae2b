"""Leases in tests of operators, as the home and shards write them."""

from __future__ import annotations

import struct
from collections import Counter
from functools import cached_property
from typing import Any

import pytest
import redis

from keyleash.commands import load_table
from keyleash.store.keyspace import Keyspace
from keyleash.store.leases import ShardState, unpack_shard
from keyleash.store.placement import control_tag
from keyleash.store.wire import guard_call, to_shard
from support.clusters import ClusterNode, RealCluster

HOME = Keyspace().at_home()
NEEDED = "LEASH LEASE_NEEDED request="


def tag_of(node: ClusterNode) -> str:
    """Return the tag of a node's shard."""
    tag = control_tag([(slot, slot) for slot in sorted(node.slots)])
    assert tag is not None
    return tag


def write_lease(cluster: RealCluster, *nodes: ClusterNode, identity: str = "agent") -> list[str]:
    """Write the entry of a lease for the shard of each node, by default of all; return the tags."""
    tags = [tag_of(node) for node in nodes or cluster.primaries]
    for tag in tags:
        entry = struct.pack("<5d", 1, 1, 1, 1, 1)
        cluster.owner(HOME.policy).admin.hset(HOME.leases(identity), tag, entry)
    return tags


def read_shard(cluster: RealCluster, tag: str, identity: str = "agent") -> ShardState:
    """Return the state of an identity at the shard with a tag."""
    key = Keyspace().at_shard(tag).state(identity)
    packed = cluster.owner(key).admin.get(key)
    assert isinstance(packed, bytes)
    return unpack_shard(packed)


def read_epoch(cluster: RealCluster, identity: str = "agent") -> int:
    """Return the epoch of an identity at the home."""
    return int(cluster.owner(HOME.policy).admin.hget(HOME.leases(identity), "epoch") or 0)


class ClusterAgent:
    """An agent that calls the guards of a cluster word by word, and fetches leases."""

    def __init__(self, cluster: RealCluster, token: str, identity: str = "agent") -> None:
        self.cluster = cluster
        self.token = token
        self.identity = identity

    def call(self, node: ClusterNode, *words: str) -> Any:
        """Call a command at a node, with a lease if it needs one."""
        voucher, request = "", ""
        for _ in range(5):
            try:
                return self.attempt(node, voucher, *words)
            except redis.ResponseError as error:
                _, needed, request = str(error).partition(NEEDED)
                if not needed:
                    raise
            voucher = self.fetch(request)
        raise AssertionError(request)

    def write(self, rounds: int = 1) -> Counter[str]:
        """Write one key at each node in each round; count the codes of denials, and `OK`."""
        found: Counter[str] = Counter()
        keys = [(node, node.key("jobs:")) for node in self.cluster.primaries]
        for node, key in rounds * keys:
            try:
                found[self.call(node, "SET", key, "v").decode()] += 1
            except redis.ResponseError as error:
                found[str(error).split()[1]] += 1
        return found

    def voucher_for(self, node: ClusterNode, *words: str) -> str:
        """Return the voucher that a call at a node needs."""
        with pytest.raises(redis.ResponseError, match=NEEDED) as needed:
            self.attempt(node, "", *words)
        return self.fetch(str(needed.value).removeprefix(NEEDED))

    def attempt(self, node: ClusterNode, voucher: str, *words: str) -> Any:
        """Call a command at a node with a voucher or an empty text."""
        digest = self.record[b"digest"].decode()
        call = guard_call(load_table(), digest, self.token, "c", words)
        return node.admin.execute_command(*to_shard(call, tag_of(node), voucher))

    def fetch(self, request: str) -> str:
        """Return the voucher of the home for a request."""
        home = self.cluster.owner(HOME.policy).admin
        words = (HOME.guard(self.identity), self.token, "c", request, "SET", "")
        voucher: bytes = home.evalsha(self.record[b"lease"].decode(), 1, *words)
        return voucher.decode()

    @cached_property
    def record(self) -> dict[bytes, bytes]:
        """Its guard record, as it was at its first call."""
        found: dict[bytes, bytes] = self.cluster.owner(HOME.policy).admin.hgetall(
            HOME.guard(self.identity)
        )
        return found
