"""Guards as functions on clusters: every node has those of the active policy, and no others."""

from __future__ import annotations

from threading import Lock

import pytest

import keyleash
from keyleash.store import guards
from keyleash.store.records import guard_record
from keyleash.store.store import Store
from keyleash.store.wire import function_name
from support.clusters import ClusterNode, RealCluster
from support.errors import raises_code
from support.leases import HOME
from support.leash import grant, policy

NARROW = policy(agent={"grants": [grant("read", keys="jobs:*")]})
WIDE = policy(agent={"grants": [grant("read", "write", keys="jobs:*")]})


def load(op: keyleash.Operator, document: str, transport: str = "function") -> None:
    op.load(keyleash.Policy(document), transport=transport, allow_widening=True)


def functions(node: ClusterNode) -> set[str]:
    return {item[1].decode() for item in node.client(protocol=2).function_list()}


def named(cluster: RealCluster) -> set[str]:
    """The functions that the guard record names."""
    record = guard_record(cluster.owner(HOME.policy).admin.hgetall(HOME.guard("agent")))
    assert record is not None
    return {function_name(digest) for digest in record.digests}


def test_load_deletes_the_old_functions_of_all_nodes(replicated_cluster: RealCluster) -> None:
    """Functions persist, so each load would leave its own at all nodes but the home."""
    with keyleash.Operator.from_url(replicated_cluster.url) as op:
        load(op, NARROW)
        load(op, WIDE)
        for primary in replicated_cluster.primaries:
            primary.settle()
        found = [functions(node) for node in replicated_cluster.nodes]
        assert found == [named(replicated_cluster)] * len(found)

        load(op, WIDE, "evalsha")
        assert [functions(node) for node in replicated_cluster.primaries] == [set()] * 3


def test_load_that_was_overtaken_leaves_the_functions_of_the_other(
    cluster: RealCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The other load is back to the policy before, whose functions this one is about to delete."""
    lock, read = Lock(), guards._generation

    def overtaken(store: Store) -> int:
        generation = read(store)
        with lock:
            if guards._generation is overtaken:
                monkeypatch.undo()
                with keyleash.Operator.from_url(cluster.url) as other:
                    load(other, NARROW)
        return generation

    with keyleash.Operator.from_url(cluster.url) as op:
        load(op, NARROW)
        monkeypatch.setattr(guards, "_generation", overtaken)
        with raises_code("activation-conflict"):
            load(op, WIDE)

    assert [functions(node) for node in cluster.primaries] == [named(cluster)] * 3
