"""Exact numbers on clusters: while keys of a slot are at either node, rates, and a home that falls
back."""

from __future__ import annotations

import itertools
import threading
import time
from typing import Any, Self

import pytest
from redis.crc import key_slot
from redis.exceptions import ConnectionError as RedisConnectionError

import keyleash
from cluster.conftest import DAY, HOME, HOME_SLOT, KEYS, Agents, lent, running_threads
from keyleash.store.keyspace import Keyspace
from keyleash.store.leases import BUDGET_SHARES
from support.clusters import RealCluster
from support.replication import wait_until
from support.shards import most_in_a_second

KEY = KEYS[0]
BUDGET = 300


class Hot:
    """Threads that count at `KEY`, each with a client of its own.

    Attributes:
        acknowledged: The number of calls that passed.
    """

    def __init__(self, agents: Agents, threads: int = 2) -> None:
        self.acknowledged = 0
        self._lock, self._is_over = threading.Lock(), False
        clients = [agents.connect() for _ in range(threads)]
        self._threads = [threading.Thread(target=self._count, args=[item]) for item in clients]

    def _count(self, client: Any) -> None:
        while not self._is_over:
            client.incr(KEY)
            with self._lock:
                self.acknowledged += 1

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._is_over = True
        for thread in self._threads:
            thread.join()

    def go_on(self, calls: int = 50) -> None:
        """Wait until *calls* more calls have passed."""
        before = self.acknowledged
        wait_until(lambda: self.acknowledged >= before + calls)


def test_hot_key_of_a_slot_that_moves_key_by_key_is_counted_exactly(cluster: RealCluster) -> None:
    """At the source, then by ASK at the target."""
    with lent(cluster, "sync") as agents:
        target = cluster.other(cluster.owner(KEY))
        with Hot(agents) as hot:
            hot.go_on()
            with cluster.moving(key_slot(KEY.encode()), target) as move:
                hot.go_on()
                move.move(KEY)
                hot.go_on()
            hot.go_on()

        # The digest in the name of a record, as in `…:agent:0a…`, may begin with a 0.
        names = target.admin.keys(f"*{KEY}*")
        (name,) = (item for item in names if f"agen{KEY}" not in str(item))
        (status,) = agents.op.status().identities
        assert int(target.admin.get(name)) == status.events == hot.acknowledged


def exhaust(client: Any) -> int:
    """Make calls until many in a row are denied; return the number of those that passed."""
    passed = denied = 0
    while denied <= len(KEYS):
        try:
            client.incr(KEYS[(passed + denied) % len(KEYS)])
            passed, denied = passed + 1, 0
        except keyleash.BudgetExhaustedError:
            denied += 1
    return passed


@pytest.mark.parametrize("in_batch", [False, True], ids=["alone", "in a batch"])
def test_call_whose_event_cannot_be_written_uses_no_unit(
    cluster: RealCluster, in_batch: bool
) -> None:
    """The audit stream has moved, the state and the key have not; the call waits until they have.

    The key is in the slot of the shard: of other slots, servers look the state up in the wrong one.
    """
    with lent(cluster, "sync") as agents:
        client = agents.connect()
        client.incr(KEY)
        (shard,) = [item for item in agents.op.status().identities[0].shards or () if item.events]
        key, names = f"t:{{{shard.tag}}}", Keyspace().at_shard(shard.tag)
        client.incr(key)
        slot = key_slot(key.encode())
        source = cluster.owner(slot)
        state = source.admin.get(names.state("agent"))

        def count() -> None:
            caller = client.batch() if in_batch else client
            caller.incr(key)
            if in_batch:
                caller.execute()

        thread = threading.Thread(target=count)
        with cluster.moving(slot, cluster.other(source)) as move:
            move.move(names.audit("agent"))
            thread.start()
            time.sleep(0.3)
            assert source.admin.get(names.state("agent")) == state
        thread.join()
        assert agents.raw(key) == b"2"


def test_home_that_forgets_grants_overspends_by_those_at_most(cluster: RealCluster) -> None:
    """As after a failover to a replica that was behind; shards remind it when they ask again."""
    with lent(cluster, "sync") as agents:
        agents.load(budget={"requests": f"{BUDGET}/day"})
        client, home = agents.connect(), cluster.owner(HOME_SLOT).admin
        names = [HOME.state("agent"), HOME.leases("agent")]

        def use(calls: int) -> int:
            for number in range(calls):
                client.incr(KEYS[number % len(KEYS)])
            (limit,) = agents.op.status().identities[0].limits
            return limit.used or 0

        before = use(60)
        stored = [home.dump(name) for name in names]
        after = use(90)
        for name, data in zip(names, stored, strict=True):
            home.restore(name, 0, data, replace=True)
        forgotten = after - before
        assert forgotten > 0
        use(60)
        passed = 210 + exhaust(client)

        assert agents.used() == passed
        # The units that a shard is granted once more before it asks with what it has.
        assert BUDGET - BUDGET // BUDGET_SHARES <= passed <= BUDGET + forgotten


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["sync", "async"])
def test_home_that_is_killed_under_load_overspends_nothing_that_replicas_know(
    replicated_cluster: RealCluster, kind: str
) -> None:
    """Calls go on with the units of their shards, then with those of the new primary."""
    limit, shards = 20_000, len(replicated_cluster.primaries)
    with lent(replicated_cluster, kind) as agents:
        agents.load(budget={"requests": f"{limit}/day"})
        passed, lost = [0] * 4, [0] * 4

        def work(place: int, client: Any) -> None:
            for number in itertools.count(place):
                try:
                    client.incr(KEYS[number % len(KEYS)])
                    passed[place] += 1
                except keyleash.BudgetExhaustedError:
                    return
                except RedisConnectionError:
                    lost[place] += 1

        clients = [agents.connect() for _ in passed]
        threads = [threading.Thread(target=work, args=item) for item in enumerate(clients)]
        for thread in threads:
            thread.start()
        wait_until(lambda: sum(passed) > limit // 10)
        replicated_cluster.owner(HOME_SLOT).kill()
        for thread in threads:
            thread.join()

        used = agents.used()
        most = limit // (BUDGET_SHARES * shards)
        assert sum(passed) <= used + sum(lost)
        # The home may forget the newest grants; of those, each shard has one.
        assert used <= limit + shards * most
        assert used >= limit - limit // BUDGET_SHARES - shards * most


@pytest.mark.slow
@pytest.mark.parametrize("burst", [0, 50], ids=["window", "burst"])
def test_no_second_of_events_has_more_calls_than_a_rate_allows(
    cluster: RealCluster, burst: int
) -> None:
    """A hundred per second over three shards, by the times of events."""
    rate: Any = {"limit": "100/second", "burst": burst} if burst else "100/second"
    with lent(cluster, "sync") as agents:
        agents.load(rate={"writes": rate}, budget=DAY)
        passed, calls = threading.Semaphore(400), itertools.count()

        def work(client: Any) -> None:
            while passed.acquire(blocking=False):
                try:
                    client.incr(KEYS[next(calls) % len(KEYS)])
                except keyleash.RateLimitedError:
                    passed.release()
                    time.sleep(0.002)

        clients = [agents.connect() for _ in range(6)]
        with running_threads(*[(work, client) for client in clients]):
            pass

        times = [event.time_ms for event in agents.op.audit.events("agent")]
        assert len(times) == 400
        assert most_in_a_second(times) <= (100 + burst - 1 if burst else 100)
