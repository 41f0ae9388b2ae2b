"""Exact budgets of threads and tasks, which share clients and leases."""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import Any

import pytest
from redis.crc import key_slot

import keyleash
from cluster.conftest import KEYS, Agents, lent, running_threads
from support.clusters import RealCluster
from support.replication import wait_until


def test_budget_is_exact_for_eight_threads(cluster: RealCluster) -> None:
    """1,600 calls over all slots, of which exactly 1,000 pass."""
    with lent(cluster, "sync") as agents:
        agents.load(budget={"requests": "1000/day"})
        outcomes = Counter(passed=0, denied=0)

        def work(client: Any, number: int) -> None:
            for place in range(200):
                try:
                    client.set(f"t:{number}:{place}", 1)
                    outcomes["passed"] += 1
                except keyleash.BudgetExhaustedError:
                    outcomes["denied"] += 1

        shared = agents.connect()
        clients = [shared, shared, *(agents.connect() for _ in range(6))]
        with running_threads(*((work, client, number) for number, client in enumerate(clients))):
            pass

        assert outcomes == {"passed": 1000, "denied": 600}
        keys = sum(len(node.admin.keys("t:*")) for node in cluster.primaries)
        assert keys == 1000


@pytest.mark.parametrize("coalesce", [False, True])
def test_budget_is_exact_for_twenty_tasks_of_one_client(
    embedded_cluster: RealCluster, coalesce: bool
) -> None:
    """Also if calls of tasks are sent in one packet for each node."""
    with lent(embedded_cluster, "async") as agents:
        agents.load(budget={"requests": "500/day"})
        outcomes = Counter(passed=0, denied=0)

        async def work(client: Any, number: int) -> None:
            for place in range(40):
                try:
                    await client.set(f"t:{number}:{place}", 1)
                    outcomes["passed"] += 1
                except keyleash.BudgetExhaustedError:
                    outcomes["denied"] += 1

        async def run() -> None:
            async with agents.connect_async(coalesce=coalesce) as client:
                await asyncio.gather(*(work(client, number) for number in range(20)))

        asyncio.run(run())

        assert outcomes == {"passed": 500, "denied": 300}


def test_tasks_of_one_client_fetch_a_lease_together(embedded_cluster: RealCluster) -> None:
    """The home is asked once for each grant, not once for each task."""
    with lent(embedded_cluster, "async") as agents:
        fetched: list[Any] = []

        async def run() -> None:
            client: Any = agents.connect_async()
            run_at_home = client.run_at_home

            async def recorded(action: Any) -> Any:
                reply = await run_at_home(action)
                if callable(action.words):
                    fetched.append(reply)
                return reply

            client.run_at_home = recorded
            async with client:
                await asyncio.gather(*(client.incr("t:{a}1") for _ in range(40)))

        asyncio.run(run())

        assert agents.raw("t:{a}1") == b"40"
        assert len(fetched) < 20


@pytest.mark.parametrize("kind", ["sync", "async"])
def test_calls_that_wait_for_a_lease_share_the_failure_to_fetch_it(
    embedded_cluster: RealCluster, kind: str
) -> None:
    """The home is tried once for all of them; a later call tries it again."""
    with lent(embedded_cluster, kind) as agents:
        found = _calls_without_home(agents) if kind == "sync" else _tasks_without_home(agents)

        assert found == (1, [keyleash.SlotNotServedError] * 6, True)


class Waiting:
    """A lock that counts its users in `counted`, which then know the last failure."""

    def __init__(self, lock: Any, counted: list[int]) -> None:
        self._lock, self._counted = lock, counted

    def __enter__(self) -> None:
        self._counted.append(1)
        self._lock.acquire()

    def __exit__(self, *_: object) -> None:
        self._lock.release()

    async def __aenter__(self) -> None:
        self._counted.append(1)
        await self._lock.acquire()

    async def __aexit__(self, *_: object) -> None:
        self._lock.release()


def _count_waiting(client: Any) -> list[int]:
    """Return a list that grows with each call that waits for a lease."""
    waiting: list[int] = []
    flight = client.flight

    def counted(request: str) -> Any:
        found = flight(request)
        if not isinstance(found.lock, Waiting):
            found.lock = Waiting(found.lock, waiting)
        return found

    client.flight = counted
    return waiting


def _calls_without_home(agents: Agents) -> Any:
    client = agents.connect()
    client.get("t:0")
    agents.op.freeze("agent", reason="ends all leases")
    agents.op.thaw("agent")
    run_at_home = client.run_at_home
    waiting = _count_waiting(client)
    made: list[Any] = []

    def unreachable(action: Any) -> Any:
        made.append(action)
        wait_until(lambda: len(waiting) == 6)
        raise keyleash.SlotNotServedError("its home", "TimeoutError")

    client.run_at_home = unreachable
    found: list[Any] = []

    def call(*_: Any) -> None:
        try:
            found.append(client.get("t:0"))
        except Exception as error:
            found.append(type(error))

    with running_threads(*[(call, client, number) for number in range(6)]):
        pass
    client.run_at_home = run_at_home
    return len(made), found, client.set("t:0", 1)


def _tasks_without_home(agents: Agents) -> Any:
    async def run() -> Any:
        client: Any
        async with agents.connect_async() as client:
            await client.get("t:0")
            agents.op.freeze("agent", reason="ends all leases")
            agents.op.thaw("agent")
            run_at_home = client.run_at_home
            waiting = _count_waiting(client)
            made: list[Any] = []

            async def unreachable(action: Any) -> Any:
                made.append(action)
                while len(waiting) < 6:
                    await asyncio.sleep(0.01)
                raise keyleash.SlotNotServedError("its home", "TimeoutError")

            client.run_at_home = unreachable
            calls = (client.get("t:0") for _ in range(6))
            found = await asyncio.gather(*calls, return_exceptions=True)
            client.run_at_home = run_at_home
            return len(made), [type(error) for error in found], await client.set("t:0", 1)

    return asyncio.run(run())


def test_commands_of_tasks_are_coalesced_for_each_node(embedded_cluster: RealCluster) -> None:
    """Their replies are those of each command."""
    with lent(embedded_cluster, "async") as agents:

        async def run() -> None:
            async with agents.connect_async(coalesce=True, decode_responses=True) as client:
                done = await asyncio.gather(*(client.set(key, key) for key in KEYS))
                assert done == [True] * len(KEYS)
                slot = key_slot(KEYS[0].encode())
                cluster = agents.cluster
                cluster.move_slot(slot, cluster.other(cluster.owner(slot)))
                assert await asyncio.gather(*map(client.get, KEYS)) == KEYS

        asyncio.run(run())
