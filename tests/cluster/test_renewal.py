"""Renewal on a cluster: the home renews a token, and nodes take the new expiry with a lease."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

import keyleash
import keyleash.asyncio
from keyleash.client.guarding import Guarding
from keyleash.store.placement import key_slot
from keyleash.types import IssuedToken, Renewal
from support.clusters import RealCluster
from support.leases import HOME, ClusterAgent
from support.renewal import HOUR_MS, date_back, read_record
from support.vouchers import Voucher

POLICY = """
version: 1
identities:
  agent:
    kind: machine
    token: {ttl: 1h, max_ttl: 4h, renew: true, bound: true}
    delegate: {depth: 2, children: 20, max_ttl: 1h}
    grants: [{allow: [read, write], keys: ["jobs:{{{job_id}}}:*"]}]
    rate:
      writes: 60000/minute
      requests: {limit: 600000/minute, burst: 60000}
      reads: {limit: 60000/minute, per: token}
    budget:
      requests: 1000000/day
      writes: {limit: 5/day, per: token}
      reads: {limit: 1000/day, per: "{job_id}"}
      bytes_written: 1gb/day
    idempotency: {keep: 1h}
    on_denials: {threshold: 100/minute, suspend: 1h}
    audit:
      source: true
      values: full
      before_images: {max_bytes: 1kb}
      retain: {until: exported, hard_max: 1000}
"""


@pytest.fixture
def op(embedded_cluster: RealCluster) -> Iterator[keyleash.Operator]:
    with keyleash.Operator.from_url(embedded_cluster.url, actor="test") as op:
        op.load(keyleash.Policy(POLICY))
        yield op


class Clock:
    """The clock of all clients; it stands still between its steps."""

    def __init__(self) -> None:
        self.now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(Guarding, "clock", staticmethod(made))
    return made


def step(cluster: RealCluster, clock: Clock, issued: IssuedToken, hours: float) -> None:
    """Let time pass for clients and for a token."""
    clock.now_s += hours * 3600
    date_back(cluster.client(), HOME, issued.token, hours, "agent")


def ops(op: keyleash.Operator) -> list[str]:
    return [event.op for event in op.audit.events("agent")]


def test_renewal_is_charged_and_recorded_at_the_home(
    embedded_cluster: RealCluster, op: keyleash.Operator
) -> None:
    """By limits of all kinds and a cap, with its argument; up to `max_ttl`, and no child."""
    issued = op.tokens.issue("agent", bind={"job_id": 42}, budget={"requests": 100})
    url = embedded_cluster.url
    with keyleash.RedisCluster.from_url(url, token=issued.token) as agent:
        assert agent.renew("2h").expires_ms > issued.expires_ms
        found = agent.whoami()
        renewal = agent.renew("9h")
        assert (renewal.expires_ms, renewal.capped) == (issued.expires_ms + 3 * HOUR_MS, True)
        assert agent.renew("1h").expires_ms == renewal.expires_ms
        with pytest.raises(keyleash.RenewalRefusedError) as denial:
            agent.renew("9h")
        assert denial.value.reason == "max_ttl"
        child = agent.delegate()
        assert agent.set("jobs:{42}:a", "x")
        left = {limit.name: limit.left for limit in agent.whoami().limits}
    with keyleash.RedisCluster.from_url(url, token=child.token) as of_child:
        with pytest.raises(keyleash.RenewalRefusedError) as denial:
            of_child.renew()
        assert denial.value.reason == "delegated"

    before = {limit.name: limit.left for limit in found.limits}
    assert (before["budget.writes"], before["token.requests"]) == (4, 99)
    # The second renewal and the child are writes; a node has the units for one more.
    assert left["budget.writes"] <= 2 - 1
    assert left["token.requests"] <= 99 - 4
    assert found.renewable_until == renewal.expires_at
    record, _ = read_record(embedded_cluster.client(), HOME, issued.token, "agent")
    assert record.expires_us == renewal.expires_ms * 1000
    events = [event for event in op.audit.events("agent") if event.op == "RENEW"]
    assert [(event.token, event.args) for event in events] == [
        (issued.id, (b"7200",)),
        (issued.id, (b"32400",)),
    ]
    denials = [(denial.op, denial.code) for denial in op.audit.denials("agent")]
    assert denials == [("RENEW", "RENEWAL_REFUSED")] * 2


def test_lease_after_a_renewal_has_the_longer_life(
    embedded_cluster: RealCluster, op: keyleash.Operator
) -> None:
    """A voucher carries at most the life of the token."""
    issued = op.tokens.issue("agent", ttl="8s")
    agent = ClusterAgent(embedded_cluster, issued.token)

    def life_us(number: int) -> int:
        """The life of the lease at a node that has none yet."""
        node = embedded_cluster.primaries[number]
        keys = (f"jobs:{{{job}}}:a" for job in range(1000))
        key = next(key for key in keys if key_slot(key.encode()) in node.slots)
        return Voucher.parse(agent.voucher_for(node, "GET", key)).token_life_us

    assert life_us(0) <= 8_000_000
    with keyleash.RedisCluster.from_url(embedded_cluster.url, token=issued.token) as client:
        client.renew("1h")
    assert life_us(1) > 8_000_000


def renewed(cluster: RealCluster, token: Any, is_async: bool) -> Callable[[Any], None]:
    """Return what makes calls by a client of its own, between the steps that it is given."""

    def run(passing: Any) -> None:
        with keyleash.RedisCluster.from_url(cluster.url, token=token) as client:
            for act in passing:
                act()
                assert client.get("jobs:{42}:a") is None

    async def arun(passing: Any) -> None:
        made: Any = keyleash.asyncio.RedisCluster.from_url(cluster.url, token=token)
        async with made as client:
            for act in passing:
                act()
                assert await client.get("jobs:{42}:a") is None

    return (lambda passing: asyncio.run(arun(passing))) if is_async else run


@pytest.mark.parametrize("is_async", [False, True])
def test_client_with_a_file_renews_by_itself(
    embedded_cluster: RealCluster,
    op: keyleash.Operator,
    clock: Clock,
    tmp_path: Path,
    is_async: bool,
) -> None:
    """Once when two thirds of the life are over, and again after the same time."""
    issued = op.tokens.issue("agent")
    path = tmp_path / "token"
    path.write_text(issued.token)
    found: list[int] = []

    def passing() -> Iterator[Callable[[], None]]:
        for hours in (0, 0.6, 0.07, 0, 0.7, 0):
            yield lambda hours=hours: step(embedded_cluster, clock, issued, hours)  # type: ignore[misc]
            found.append(ops(op).count("RENEW"))

    renewed(embedded_cluster, keyleash.TokenFile(path), is_async)(passing())
    assert found == [0, 0, 1, 1, 2, 2]


def test_pipelines_and_threads_renew_once(
    embedded_cluster: RealCluster, op: keyleash.Operator, clock: Clock
) -> None:
    """One of them renews, and the others make their calls meanwhile."""
    issued = op.tokens.issue("agent")
    url = embedded_cluster.url
    with keyleash.RedisCluster.from_url(url, token=lambda: issued.token) as client:

        def run(number: int) -> Any:
            return client.pipeline().get(f"jobs:{{{number}}}:a").get("jobs:{1}:b").execute()

        with ThreadPoolExecutor(8) as threads:
            list(threads.map(run, range(16)))
            step(embedded_cluster, clock, issued, 0.7)
            assert list(threads.map(run, range(64))) == [[None, None]] * 64
    assert ops(op) == ["RENEW"]


def test_asyncio_client_renews_and_is_refused_without_permission(
    embedded_cluster: RealCluster, op: keyleash.Operator
) -> None:
    """Like the one for threads."""
    issued = op.tokens.issue("agent", ttl="1m")

    async def run() -> Renewal:
        made: Any = keyleash.asyncio.RedisCluster.from_url(embedded_cluster.url, token=issued.token)
        async with made as client:
            renewal: Renewal = await client.renew("1h")
            return renewal

    assert asyncio.run(run()).expires_ms > issued.expires_ms
    op.load(keyleash.Policy(POLICY.replace(" renew: true,", "")), allow_widening=True)
    with pytest.raises(keyleash.CommandRefusedError, match="does not let agents renew"):
        asyncio.run(run())
