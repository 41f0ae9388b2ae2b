"""Limits per token on a cluster: exact for clients, and known to all that operators do."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

import keyleash
from keyleash.errors import LeashError
from keyleash.store.keyspace import account
from support.clusters import RealCluster
from support.leases import HOME

POLICY = """
version: 1
identities:
  agent:
    kind: machine
    grants: [{{allow: [read, write], keys: ["jobs:{{id}}"]}}]
    budget: {{writes: {{limit: {limit}/day, per: token}}, requests: 100000/day}}
    rate: {{writes: {{limit: 60000/minute, per: token}}}}
"""
TOKEN_BUDGET = "budget.writes"


@pytest.fixture
def op(cluster: RealCluster) -> Iterator[keyleash.Operator]:
    with keyleash.Operator.from_url(cluster.url, actor="test") as op:
        op.load(keyleash.Policy(POLICY.format(limit=50)))
        yield op


def write(cluster: RealCluster, token: str, times: int, **options: str) -> Counter[str]:
    """Write keys at all nodes by a client; count the codes of denials, and `ran`."""
    found: Counter[str] = Counter()
    with keyleash.RedisCluster.from_url(cluster.url, token=token, **options) as client:
        for number in range(times):
            try:
                client.set(f"jobs:{number}", "v")
                found["ran"] += 1
            except LeashError as error:
                found[str(error.code)] += 1
    return found


def exhausts(cluster: RealCluster, op: keyleash.Operator, limit: int) -> None:
    """Use the budgets of two tokens by eight threads, of which each has half."""
    tokens = [op.tokens.issue("agent").token for _ in range(2)]
    each = limit // 2
    with ThreadPoolExecutor(8) as pool:
        calls = [pool.submit(write, cluster, tokens[place % 2], each) for place in range(8)]
        found = [call.result() for call in calls]
    # What shards have unspent is collected, and used as well.
    op.limits.collect()
    found += [write(cluster, token, each) for token in tokens]
    for place in range(2):
        counts = sum(found[place::2], Counter[str]())
        assert counts.keys() == {"ran", "BUDGET_EXHAUSTED"}
        assert counts["ran"] == limit


def test_two_tokens_use_exactly_their_own_budgets(
    cluster: RealCluster, op: keyleash.Operator
) -> None:
    """Eight clients over three shards; units that are unspent at the end can be collected."""
    exhausts(cluster, op, 50)


@pytest.mark.slow
def test_two_tokens_use_exactly_their_own_large_budgets(
    cluster: RealCluster, op: keyleash.Operator
) -> None:
    """The same with leases that grow."""
    op.load(keyleash.Policy(POLICY.format(limit=1000)), allow_widening=True)
    exhausts(cluster, op, 1000)


def test_reset_clears_the_budgets_of_all_tokens(
    cluster: RealCluster, op: keyleash.Operator
) -> None:
    """At the home and at all shards, whose units were charged to the counts of before."""
    tokens = [op.tokens.issue("agent").token for _ in range(2)]
    for token in tokens:
        write(cluster, token, 60)
        write(cluster, token, 30)

    done = op.limits.reset("agent", TOKEN_BUDGET, reason="x")

    assert done.counters == 2
    # Collected are the units of after the reset alone.
    assert (
        sum(item.units for item in op.limits.collect().returned if item.limit == TOKEN_BUDGET) == 0
    )
    for token in tokens:
        ran = sum((write(cluster, token, 40) for _ in range(2)), Counter[str]())["ran"]
        op.limits.collect()
        assert ran + write(cluster, token, 40)["ran"] == 50


def test_rest_of_a_token_is_what_the_home_has_left(
    cluster: RealCluster, op: keyleash.Operator
) -> None:
    """Units that nodes have count as used; another token has all of its own."""
    tokens = [op.tokens.issue("agent").token for _ in range(2)]
    write(cluster, tokens[0], 9)

    lefts = []
    for token in tokens:
        with keyleash.RedisCluster.from_url(cluster.url, token=token) as client:
            limits = client.whoami().limits
            lefts.append(next(item.left for item in limits if item.name == TOKEN_BUDGET))

    assert 0 < (lefts[0] or 0) <= 50 - 9
    assert lefts[1] == 50


def test_revoked_token_leaves_no_leases_at_the_home(
    cluster: RealCluster, op: keyleash.Operator
) -> None:
    """They would be of no use until the token expires."""
    issued = op.tokens.issue("agent")
    write(cluster, issued.token, 10)
    home = cluster.owner(HOME.policy).admin
    name = HOME.leases(account("agent", issued.id))
    assert home.exists(name)

    op.tokens.revoke(issued.id)

    assert not home.exists(name)
    assert write(cluster, issued.token, 2) == {"TOKEN_REVOKED": 2}
