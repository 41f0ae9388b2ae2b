"""`cluster: {lease: …}` in the policy: the life of a token at a node, and what follows from it."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis

import keyleash
from keyleash.commands import load_table
from keyleash.compiler import Shards, compile_policy
from keyleash.policy import parse_policy
from support.clusters import RealCluster
from support.command_line import Cli
from support.leases import HOME, NEEDED, ClusterAgent, write_lease
from support.vouchers import Voucher

POLICY = """
version: 1
identities:
  agent:
    kind: machine
    grants: [{allow: [read, write], keys: ["jobs:{id}"]}]
    cluster: {lease: 10s}
  other:
    kind: machine
    grants: [{allow: [read], keys: ["theirs:{id}"]}]
    cluster: {lease: 2s}
"""


def with_lease(lease: str) -> keyleash.Policy:
    return keyleash.Policy(POLICY.replace("10s", lease))


@pytest.fixture
def op(embedded_cluster: RealCluster) -> Iterator[keyleash.Operator]:
    with keyleash.Operator.from_url(embedded_cluster.url, actor="test") as op:
        op.load(with_lease("10s"))
        yield op


def test_token_works_at_a_node_for_the_lease_of_its_identity(
    embedded_cluster: RealCluster, op: keyleash.Operator
) -> None:
    """The shard then asks the home again."""
    op.load(with_lease("1s"))
    node = embedded_cluster.primaries[0]
    agent = ClusterAgent(embedded_cluster, op.tokens.issue("agent").token)
    words = ("SET", node.key("jobs:"), "v")
    voucher = agent.voucher_for(node, *words)
    assert Voucher.parse(voucher).token_life_us == 1_000_000

    assert agent.call(node, *words) == b"OK"
    time.sleep(1.01)
    with pytest.raises(redis.ResponseError, match=NEEDED):
        agent.attempt(node, "", *words)


def lasts_s(op: keyleash.Operator, *identities: str) -> float:
    """Freeze identities; return how long the leases of a node out of reach still last."""
    result = op.freeze(*identities, reason="x")
    (effect,) = result.not_reached
    assert effect.latest_us is not None
    return (effect.latest_us - result.effective_us) / 1_000_000


@pytest.mark.slow
def test_end_of_leases_of_a_node_out_of_reach_follows_the_policy(
    embedded_cluster: RealCluster, op: keyleash.Operator
) -> None:
    """Also that of leases which an earlier policy granted, however long the present ones are."""
    op.load(with_lease("40s"), allow_widening=True)
    for identity in ("agent", "other"):
        write_lease(embedded_cluster, identity=identity)
    embedded_cluster.other(embedded_cluster.owner(HOME.policy)).kill()

    assert 2 <= lasts_s(op, "other") < 40 <= lasts_s(op, "agent")
    assert lasts_s(op) >= 40
    result = op.load(with_lease("1s"))
    assert result.latest_us is not None
    assert 2 <= lasts_s(op, "other") < lasts_s(op, "agent") < 40


def test_change_of_the_lease_is_planned_and_rates_are_judged_by_the_primaries(
    embedded_cluster: RealCluster, op: keyleash.Operator, tmp_path: Path
) -> None:
    """A longer lease widens access at a node that is cut off."""
    file = tmp_path / "agents.yaml"
    rated = "lease: 2s}\n    rate: {reads: 89/minute}"
    text = POLICY.replace("10s", "30s").replace("lease: 2s}", rated)
    file.write_text(text)
    shown = Cli(embedded_cluster.url).run("plan", str(file))
    assert "cluster.lease 10s → 30s   [widens]" in shown.stdout
    assert (
        "on a cluster with 3 primaries a lease has at most 2 calls of `rate.reads`" in shown.stderr
    )
    file.write_text(text.replace("  other:", "  other:\n    accept: {small-rate: rarely used}"))
    assert "primaries" not in Cli(embedded_cluster.url).run("plan", str(file)).stderr


def test_setting_changes_nothing_on_one_server() -> None:
    """Neither the scripts nor the stamps of states; on a cluster it does."""
    plain, other = (
        parse_policy(text, file="p", commands=None)
        for text in (POLICY, POLICY.replace("10s", "1s").replace("2s", "5m"))
    )
    table = load_table()
    first, second = (compile_policy(item, table, year=2026) for item in (plain, other))
    assert [item.scripts for item in first] == [item.scripts for item in second]
    shards = Shards(b"k" * 32)
    for item in compile_policy(other, table, year=2026, shards=shards, keyspace=HOME):
        lease_us = {"agent": 1_000_000, "other": 300_000_000}[item.identity]
        assert f"math.min({lease_us}, " in item.lease_script
