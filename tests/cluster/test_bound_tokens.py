"""Bound tokens on a cluster: restricted at every node, and capped over all nodes together."""

from __future__ import annotations

import asyncio
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

import keyleash
import keyleash.asyncio
from keyleash.errors import LeashError
from keyleash.types import DelegatedToken
from support.clusters import RealCluster
from support.errors import raises_code

POLICY = """
version: 1
identities:
  agent:
    kind: machine
    token: {bound: true}
    delegate: {depth: 2, children: 20, max_ttl: 1h}
    grants: [{allow: [read, write], keys: ["jobs:{job_id}:*"]}]
    rate:
      writes: 60000/minute
      requests: {limit: 600000/minute, burst: 60000}
      reads: {limit: 60000/minute, per: token}
    budget: {requests: 1000000/day, writes: {limit: 100000/day, per: token}}
"""


def write(cluster: RealCluster, token: str, times: int, job: int = 42, **options: Any) -> Any:
    """Write keys at all nodes by a client; count the codes of denials, and `ran`."""
    found: Counter[str] = Counter()
    with keyleash.RedisCluster.from_url(cluster.url, token=token, **options) as client:
        for number in range(times):
            try:
                client.set(f"jobs:{job}:{number}", "v")
                found["ran"] += 1
            except LeashError as error:
                found[str(error.code)] += 1
    return found


def test_cap_of_eight_clients_over_three_nodes_is_exact(
    cluster: RealCluster, op: keyleash.Operator
) -> None:
    """Also for the token that it is rotated to."""
    issued = op.tokens.issue("agent", bind={"job_id": 42}, budget={"writes": 97})

    with ThreadPoolExecutor(8) as pool:
        calls = [pool.submit(write, cluster, issued.token, 20) for _ in range(8)]
        found = sum((call.result() for call in calls), Counter[str]())
    found += write(cluster, issued.token, 20)

    assert found.keys() == {"ran", "BUDGET_EXHAUSTED"}
    assert found["ran"] == 97
    rotated = op.tokens.rotate(issued.id).issued
    assert write(cluster, rotated.token, 5) == {"BUDGET_EXHAUSTED": 5}


def test_cap_of_bytes_that_a_cluster_cannot_count_is_an_error(
    cluster: RealCluster, op: keyleash.Operator
) -> None:
    """Of an issued token and of a child; bytes that are written are counted over all nodes."""
    with raises_code("bad-restriction") as error:
        op.tokens.issue("agent", budget={"bytes_read": "1mb"})
    assert error.value.span is not None
    issued = op.tokens.issue("agent", budget={"bytes_written": "190b"})
    with keyleash.RedisCluster.from_url(cluster.url, token=issued.token) as client:
        with pytest.raises(keyleash.DelegationRefusedError):
            client.delegate(budget={"bytes_read": "1mb"})
        child = client.delegate(budget={"bytes_written": "95b"}).token
    # Ten bytes each; at the home and at each node a part of ten may be left.
    of_child, of_both = (write(cluster, token, 10)["ran"] for token in (child, issued.token))
    of_both += of_child
    assert 95 - 4 * 9 <= 10 * of_child <= 95
    assert 190 - 8 * 9 <= 10 * of_both <= 190


def test_operators_and_agents_see_restrictions_and_caps(
    cluster: RealCluster, op: keyleash.Operator
) -> None:
    """All of it is at the home; units that nodes have count as used."""
    issued = op.tokens.issue(
        "agent", bind={"job_id": 42}, budget={"writes": "90/hour"}, meta={"run": "r-17"}
    )
    assert write(cluster, issued.token, 9) == {"ran": 9}
    assert write(cluster, issued.token, 3, job=43) == {"KEY_NOT_GRANTED": 3}

    (listed,) = op.tokens.list("agent", meta={"run": "r-17"})
    assert listed.restrictions is not None
    assert listed.restrictions.bind == {"job_id": b"42"}
    with keyleash.RedisCluster.from_url(cluster.url, token=issued.token) as client:
        held = client.whoami()
        assert held.restrictions == listed.restrictions
        (left,) = [limit.left for limit in held.limits if limit.name == "token.writes"]
        assert 90 - 9 - 3 <= (left or 0) <= 90 - 9
    op.tokens.revoke(issued.id)
    assert write(cluster, issued.token, 9) == {"TOKEN_REVOKED": 9}


def test_children_and_their_parent_share_its_cap_over_all_nodes(
    cluster: RealCluster, op: keyleash.Operator
) -> None:
    """Exactly, from eight clients; a delegation counts as a write."""
    issued = op.tokens.issue("agent", bind={"job_id": 42}, budget={"writes": 100})
    with keyleash.RedisCluster.from_url(cluster.url, token=issued.token) as parent:
        children = [parent.delegate(budget={"writes": limit}).token for limit in (30, 90)]
        with pytest.raises(keyleash.DelegationRefusedError):
            parent.delegate(bind={"job_id": 43})

    with ThreadPoolExecutor(8) as pool:
        calls = [pool.submit(write, cluster, children[place % 2], 24) for place in range(8)]
        found = [call.result() for call in calls]
    tokens = [*children, issued.token]
    found += [write(cluster, token, 30) for token in (*tokens, *tokens)]

    assert sum(item["ran"] for item in found) == 98
    assert sum(item["ran"] for item in (*found[:8:2], found[8], found[11])) == 30
    assert {name for item in found for name in item} == {"ran", "BUDGET_EXHAUSTED"}
    assert write(cluster, children[0], 3, job=43) == {"KEY_NOT_GRANTED": 3}
    op.tokens.revoke(issued.id)
    for token in tokens:
        assert write(cluster, token, 9) == {"TOKEN_REVOKED": 9}


def test_asyncio_client_delegates(cluster: RealCluster, op: keyleash.Operator) -> None:
    """At the home, and events of the child name its ancestors."""
    issued = op.tokens.issue("agent")

    async def delegated() -> DelegatedToken:
        client: Any = keyleash.asyncio.RedisCluster.from_url(cluster.url, token=issued.token)
        async with client:
            child: DelegatedToken = await client.delegate(bind={"job_id": 42}, meta={"run": "r-17"})
            return child

    child = asyncio.run(delegated())
    assert write(cluster, child.token, 9) == {"ran": 9}

    (made,) = [event for event in op.audit.events("agent") if event.token == issued.id]
    assert made.op == "DELEGATE"
    found = [event.token for event in op.audit.events("agent", delegated_from=issued.id)]
    assert found == [child.id] * 9


def test_questions_go_to_the_nodes_of_their_keys(
    cluster: RealCluster, op: keyleash.Operator
) -> None:
    """A question needs no unit of a cap, and none is used; the grants are those of the token."""
    issued = op.tokens.issue("agent", bind={"job_id": 42}, budget={"writes": 3})

    with keyleash.RedisCluster.from_url(cluster.url, token=issued.token) as client:
        for number in range(20):
            assert client.can_i("SET", f"jobs:42:{number}", "v")
            denial = client.can_i("SET", f"jobs:7:{number}", "v").denial
            assert denial is not None
            assert denial.code == "KEY_NOT_GRANTED"
        assert client.whoami().to_dict()["grants"][0]["keys"] == ["jobs:42:*"]
        assert not list(op.audit.events())
        assert not list(op.audit.denials())
    assert write(cluster, issued.token, 5) == {"ran": 3, "BUDGET_EXHAUSTED": 2}
    with keyleash.RedisCluster.from_url(cluster.url, token=issued.token) as client:
        denial = client.can_i("SET", "jobs:42:a", "v").denial
        assert isinstance(denial, keyleash.BudgetExhaustedError)
