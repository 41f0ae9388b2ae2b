"""Leases in tests of operators, as the home and shards write them."""

from __future__ import annotations

import struct

from keyleash.store.keyspace import Keyspace
from keyleash.store.leases import ShardState, unpack_shard
from keyleash.store.placement import control_tag
from support.clusters import ClusterNode, RealCluster

HOME = Keyspace().at_home()


def tag_of(node: ClusterNode) -> str:
    """Return the tag of a node's shard."""
    tag = control_tag([(slot, slot) for slot in sorted(node.slots)])
    assert tag is not None
    return tag


def write_lease(cluster: RealCluster, *nodes: ClusterNode, identity: str = "agent") -> list[str]:
    """Write the entry of a lease for the shard of each node, by default of all; return the tags."""
    tags = [tag_of(node) for node in nodes or cluster.primaries]
    for tag in tags:
        entry = struct.pack("<3d", 1, 1, 1)
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
