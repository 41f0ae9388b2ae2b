"""Clients of clusters while slots move and nodes fail."""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest
import redis
import redis.asyncio
from redis.crc import key_slot
from redis.exceptions import ConnectionError as RedisConnectionError

from cluster.conftest import HOME_SLOT, KEYS, Agents, lent, running_threads
from keyleash.client.routing import ROUTE_PAUSES_S
from support.clusters import RealCluster
from support.replication import wait_until


@dataclass
class Load:
    """Threads that count at `KEYS` as long as its block lasts.

    Attributes:
        acknowledged: The calls that were acknowledged.
        errors: The texts of errors.
    """

    agents: Agents
    acknowledged: int = 0
    errors: list[BaseException] = field(default_factory=list)
    _is_over: bool = False
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def _count(self, client: Any, number: int) -> None:
        while not self._is_over:
            number += 7
            try:
                client.incr(KEYS[number % len(KEYS)])
            except Exception as error:
                self.errors.append(error)
            else:
                self._add(1)

    def _count_in_pipelines(self, client: Any, _: int) -> None:
        while not self._is_over:
            pipe = client.pipeline()
            for key in KEYS:
                pipe.incr(key)
            try:
                results = pipe.execute(raise_on_error=False)
            except Exception as error:
                results = [error]
            errors = [item for item in results if isinstance(item, Exception)]
            self.errors += errors
            self._add(len(results) - len(errors))

    def _add(self, calls: int) -> None:
        with self._lock:
            self.acknowledged += calls

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        works = [self._count, self._count, self._count_in_pipelines]
        clients = [self.agents.connect() for _ in works]
        for client in clients:
            client.incr(KEYS[0])
            self._add(1)
        with running_threads(*zip(works, clients, range(len(works)), strict=True)):
            try:
                self._run_on()
                yield
                self._run_on()
            finally:
                self._is_over = True

    def _run_on(self) -> None:
        before = self.acknowledged
        wait_until(lambda: self.acknowledged > before + 3 * len(KEYS) or bool(self.errors))


@pytest.mark.parametrize("what", ["data", "control", "home"])
def test_no_call_is_lost_or_doubled_while_a_slot_moves(agents: Agents, what: str) -> None:
    """Key by key, under load; counters and events are what was acknowledged, and no call fails."""
    cluster, load = agents.cluster, Load(agents)
    with load.running():
        match what:
            case "data":
                slots = [key_slot(key.encode()) for key in KEYS[:10]]
            case "control":
                slots = [0]
            case "home":
                slots = [HOME_SLOT]
        for slot in slots:
            cluster.move_slot(slot, cluster.other(cluster.owner(slot)))

    assert load.errors == []
    agents.assert_exact(load.acknowledged)


def test_no_call_is_lost_or_doubled_while_slots_move_in_one_step(some_agents: Agents) -> None:
    """As Valkey 9 does."""
    cluster, load = some_agents.cluster, Load(some_agents)
    if not cluster.moves_in_one_step:
        pytest.skip("the server moves slots key by key")
    source = cluster.owner(0)
    with load.running():
        cluster.move_in_one_step(range(100), cluster.other(source))

    assert load.errors == []
    assert some_agents.used() == load.acknowledged


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["sync", "async"])
@pytest.mark.parametrize("is_home", [False, True])
def test_killed_primary_loses_only_the_calls_that_were_sent(
    replicated_cluster: RealCluster, kind: str, is_home: bool
) -> None:
    """No call that was sent when it died is sent again; it is raised, and other calls wait."""
    with lent(replicated_cluster, kind) as agents:
        home = replicated_cluster.owner(HOME_SLOT)
        victim = home if is_home else replicated_cluster.other(home)
        load = Load(agents)
        with load.running():
            victim.kill()
            replicated_cluster.wait_until_served()
            load.errors, lost = [], load.errors

        # On a busy machine the failover may take longer than calls wait for it.
        expected = (RedisConnectionError, redis.exceptions.ClusterDownError)
        assert all(isinstance(error, expected) for error in (*lost, *load.errors))
        assert agents.used() <= load.acknowledged + len(lost) + len(load.errors)
        # A primary replies before its replica has the write, so the last reply to each of the two
        # callers and to the pipeline may be about writes that died with it.
        assert load.acknowledged <= agents.used() + 2 + len(KEYS)


def test_node_that_joins_serves_calls(some_agents: Agents) -> None:
    """It makes its own state from a voucher; the client loads the scripts there."""
    cluster = some_agents.cluster
    client = some_agents.connect()
    client.set("t:1", 1)
    node = cluster.add_node()
    cluster.move_slot(key_slot(b"t:1"), node)

    assert client.incr("t:1") == 2
    assert node.admin.get("t:1") == b"2"


def test_key_of_a_moving_slot_is_asked_for_at_the_other_node(some_agents: Agents) -> None:
    """By single calls, batches and pipelines; a watch waits until the slot has moved."""
    cluster = some_agents.cluster
    client = some_agents.connect(decode_responses=True)
    client.mset({"t:{m}1": 1, "t:{m}2": 1})
    slot = key_slot(b"t:{m}1")
    with cluster.moving(slot, cluster.other(cluster.owner(slot))) as move:
        move.move("t:{m}1")

        assert client.get("t:{m}1") == "1"
        assert client.get("t:{m}2") == "1"
        with client.batch() as batch:
            batch.incr("t:{m}1")
        assert batch.results == [2]
        pipe = client.pipeline()
        pipe.incr("t:{m}1").incr("t:{m}2").set("t:{m}3", 1).set("t:4", 1)
        assert pipe.execute() == [3, 2, True, True]

    assert client.mget("t:{m}1", "t:{m}2", "t:{m}3") == ["3", "2", "1"]


def test_command_with_keys_of_both_nodes_waits_for_the_slot(some_agents: Agents) -> None:
    """The server asks to try again."""
    cluster = some_agents.cluster
    client = some_agents.connect(decode_responses=True)
    client.mset({"t:{m}1": 1, "t:{m}2": 1})
    slot = key_slot(b"t:{m}1")
    found: list[Any] = []
    with cluster.moving(slot, cluster.other(cluster.owner(slot))) as move:
        move.move("t:{m}1")
        reader = threading.Thread(target=lambda: found.append(client.mget("t:{m}1", "t:{m}2")))
        reader.start()
        time.sleep(0.05)
        assert found == []
    reader.join()

    assert found == [["1", "1"]]


def test_no_call_is_lost_when_slots_are_read_again(embedded_cluster: RealCluster) -> None:
    """One task reads them after an error of its own; others use connections meanwhile."""
    with lent(embedded_cluster, "async") as agents:

        async def run() -> None:
            client: Any
            async with agents.connect_async() as client:

                async def count() -> None:
                    for key in KEYS:
                        await client.incr(key)

                counting = [asyncio.create_task(count()) for _ in range(5)]
                while not all(task.done() for task in counting):
                    await asyncio.sleep(0.05)
                    await client.nodes_manager.initialize()
                await asyncio.gather(*counting)

        asyncio.run(run())

        assert agents.used() == 5 * len(KEYS)


def test_commands_of_a_pipeline_share_the_pauses_while_a_node_serves_no_slot(
    some_agents: Agents,
) -> None:
    """They end after the time that one call waits, each with its error."""
    node = some_agents.cluster.owner(KEYS[0])
    keys = [key for key in KEYS if some_agents.cluster.owner(key) is node][:5]
    slots = sorted({key_slot(key.encode()) for key in keys})
    client = some_agents.connect()
    client.mset_nonatomic(dict.fromkeys(keys, 1))
    pauses: list[float] = []
    if some_agents.kind == "sync":
        client.sleep = pauses.append
    else:

        async def sleep(seconds: float) -> None:
            pauses.append(seconds)

        client.sleep = sleep

    def reads() -> int:
        stats = [node.admin.info("commandstats") for node in some_agents.cluster.nodes]
        return sum(found.get("cmdstat_cluster|slots", {"calls": 0})["calls"] for found in stats)

    before = reads()
    node.admin.cluster("DELSLOTS", *slots)
    try:
        pipe = client.pipeline()
        for key in keys:
            pipe.incr(key)
        results = pipe.execute(raise_on_error=False)
        slots_read = reads() - before
    finally:
        node.admin.cluster("ADDSLOTS", *slots)
        some_agents.cluster.wait_until_served()

    assert [type(error) for error in results] == [redis.exceptions.ClusterDownError] * len(keys)
    assert len(slots) > 1
    assert pauses == sorted(pauses)
    assert len(pauses) <= len(ROUTE_PAUSES_S)
    assert slots_read <= len(pauses) + 1


def test_slots_are_read_after_a_pause(embedded_cluster: RealCluster) -> None:
    """So the next attempt follows a failover that ended during the pause."""
    with lent(embedded_cluster, "sync") as agents:
        client = agents.connect()
        client.set("t:1", 1)
        node, slot = embedded_cluster.owner("t:1"), key_slot(b"t:1")
        read = client.nodes_manager.initialize
        steps: list[str] = []

        def sleep(_: float) -> None:
            node.admin.cluster("ADDSLOTS", slot)
            embedded_cluster.wait_until_served()
            steps.append("pause")

        def initialize(**options: Any) -> None:
            steps.append("slots")
            read(**options)

        initialize.__signature__ = inspect.signature(read)  # type: ignore[attr-defined]
        client.sleep, client.nodes_manager.initialize = sleep, initialize
        node.admin.cluster("DELSLOTS", slot)

        assert client.incr("t:1") == 2
        assert steps == ["pause", "slots"]


def test_lost_reply_is_raised_and_the_call_not_sent_again(some_agents: Agents) -> None:
    """It may have run."""
    client = some_agents.connect()
    client.set("t:1", 0)
    node = some_agents.cluster.owner("t:1")
    timed = some_agents.connect(socket_timeout=0.5)
    wait_until(lambda: timed.get("t:1"))

    node.halt()
    with pytest.raises((redis.exceptions.TimeoutError, RedisConnectionError)):
        timed.incr("t:1")
    node.go_on()

    wait_until(lambda: node.admin.get("t:1") == b"1")
    assert client.incr("t:1") == 2
