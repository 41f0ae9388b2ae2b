"""Clients of the identity `agent` on a cluster, and its operator."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest
from redis.crc import key_slot

import keyleash
from client.alike import Awaited, end
from keyleash.store.keyspace import HOME_TAG, Keyspace
from support.clusters import RealCluster
from support.leash import grant, policy

HOME = Keyspace().at_home()
HOME_SLOT = key_slot(HOME_TAG.encode())
DAY = {"requests": "1000000/day"}
KEYS = [f"t:{number}" for number in range(60)]


@dataclass
class Agents:
    """The clients of one identity on a cluster, and its operator."""

    cluster: RealCluster
    kind: str
    op: keyleash.Operator
    token: str = field(repr=False, default="")
    _runners: list[asyncio.Runner] = field(default_factory=list)
    _clients: list[Any] = field(default_factory=list)

    def load(self, **body: Any) -> None:
        """Make a policy active with which the agent may do almost anything to `t:*`."""
        grants = [
            grant("read", "write", "delete", "scan", keys="t:*"),
            {"allow": ["publish", "subscribe"], "channels": ["t:*"]},
        ]
        document = policy(agent={"grants": grants, **body})
        self.op.load(keyleash.Policy(document), allow_widening=True)

    def connect(self, **options: Any) -> Any:
        """Return a client, behind the interface of the sync one."""
        url = self.cluster.url
        if self.kind == "sync":
            client: Any = keyleash.RedisCluster.from_url(url, token=self.token, **options)
            self._clients.append(client)
            return client
        self._runners.append(asyncio.Runner())
        return Awaited(self.connect_async(**options), self._runners[-1])

    def connect_async(self, **options: Any) -> Any:
        """Return an asyncio client, for the loop that runs."""
        url = self.cluster.url
        return keyleash.asyncio.RedisCluster.from_url(url, token=self.token, **options)

    def close(self) -> None:
        for client in self._clients:
            client.close()
        for runner in self._runners:
            end(runner)
        self.op.close()

    def raw(self, key: str) -> Any:
        """Return the value of a key, past the guards."""
        return self.cluster.owner(key).admin.get(key)

    def used(self) -> int:
        """Return the sum of the counters at `KEYS`."""
        return sum(int(self.raw(key) or 0) for key in KEYS)

    def assert_exact(self, calls: int) -> None:
        """Assert that counters, events and the home's book agree with the acknowledged calls."""
        (status,) = self.op.status().identities
        (limit,) = status.limits
        leased = [shard.limits[0] for shard in status.shards or () if shard.limits]
        kept = sum((item.unspent or 0) + (item.stranded or 0) for item in leased)
        assert (self.used(), status.events) == (calls, calls)
        assert limit.used == calls + kept


@contextlib.contextmanager
def running_threads(*jobs: tuple[Any, ...]) -> Iterator[None]:
    """Run jobs in threads; each is a function and its arguments."""
    threads = [threading.Thread(target=job, args=arguments) for job, *arguments in jobs]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        for thread in threads:
            thread.join()


@contextlib.contextmanager
def lent(cluster: RealCluster, kind: str) -> Iterator[Agents]:
    agents = Agents(cluster, kind, keyleash.Operator.from_url(cluster.url, actor="test"))
    agents.load(budget=DAY)
    agents.token = agents.op.tokens.issue("agent").token
    try:
        yield agents
    finally:
        agents.close()


@pytest.fixture(params=["sync", "async"])
def agents(cluster: RealCluster, request: pytest.FixtureRequest) -> Iterator[Agents]:
    """The clients of either kind, on every server."""
    with lent(cluster, request.param) as agents:
        yield agents


@pytest.fixture(params=["sync", "async"])
def some_agents(embedded_cluster: RealCluster, request: pytest.FixtureRequest) -> Iterator[Agents]:
    """The same on the embedded server alone."""
    with lent(embedded_cluster, request.param) as agents:
        yield agents


@pytest.fixture
def agent(some_agents: Agents) -> Any:
    """A client on the embedded server."""
    return some_agents.connect(decode_responses=True)


@pytest.fixture
def op(cluster: RealCluster, request: pytest.FixtureRequest) -> Iterator[keyleash.Operator]:
    """The operator of a cluster with the policy of the test's module."""
    with keyleash.Operator.from_url(cluster.url, actor="test") as op:
        op.load(keyleash.Policy(request.module.POLICY))
        yield op
