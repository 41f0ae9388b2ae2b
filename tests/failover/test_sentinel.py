"""Clients behind Sentinels survive a failover under load, and lose only unreplicated writes."""

from __future__ import annotations

import asyncio
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import redis
import redis.asyncio.sentinel
import redis.sentinel

import keyleash
from keyleash.audit.read import read_events
from keyleash.store.state import Layout, unpack_state
from support.leash import NAMES, Leash, grant
from support.replication import PATIENCE_S, Node, nodes
from support.sentinels import SERVICE, Sentinels, sentinels
from support.servers import embedded_label, find_server_binaries
from support.thorough import FACTOR

ALL: dict[str, Any] = {
    "grants": [grant("read", "write", keys="t:*")],
    "budget": {"writes": "1000000/month"},
}
THREADS = 3
TASKS = 3
PAUSE_S = 0.002
BEFORE = 50
"""Acknowledged calls of each worker before the primary is killed, and again afterwards."""

# Sentinels behave the same on every server, and are slow.
LABELS = list(find_server_binaries()) if FACTOR > 1 else [embedded_label()]


@dataclass
class Worker:
    """Sets numbered keys, one after the other, each once."""

    number: int
    acknowledged: dict[str, float] = field(default_factory=dict)
    failed: list[type[BaseException]] = field(default_factory=list)
    tried: int = 0

    def key(self) -> str:
        self.tried += 1
        return f"t:{self.number}:{self.tried}"

    def done(self, key: str) -> None:
        self.acknowledged[key] = time.monotonic()

    def since(self, moment: float) -> int:
        return sum(when > moment for when in list(self.acknowledged.values()))


def work(worker: Worker, client: keyleash.Redis, ending: threading.Event) -> None:
    while not ending.is_set():
        key = worker.key()
        try:
            client.set(key, "x")
        except redis.RedisError as error:
            worker.failed.append(type(error))
        else:
            worker.done(key)
        time.sleep(PAUSE_S)


async def work_in_tasks(
    workers: list[Worker], found: Sentinels, token: str, ending: threading.Event
) -> None:
    """The same with asyncio, through one client."""
    sentinel = redis.asyncio.sentinel.Sentinel(found.addresses, socket_timeout=0.5)
    # Tasks that ask at the same time swap its clients, so it may lose one and never close it.
    asked = [*sentinel.sentinels]
    client = keyleash.asyncio.Redis.from_sentinel(sentinel, SERVICE, token=token, coalesce=True)

    async def work(worker: Worker) -> None:
        while not ending.is_set():
            key = worker.key()
            try:
                await client.set(key, "x")
            except redis.RedisError as error:
                worker.failed.append(type(error))
            else:
                worker.done(key)
            await asyncio.sleep(PAUSE_S)

    try:
        await asyncio.gather(*map(work, workers))
    finally:
        await client.aclose()
        await asyncio.gather(*(item.aclose() for item in asked))


def await_acknowledged(workers: list[Worker], since: float) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while any(worker.since(since) < BEFORE for worker in workers):
        assert time.monotonic() < deadline, [worker.failed[-1:] for worker in workers]
        time.sleep(0.01)


@pytest.mark.parametrize("label", LABELS)
def test_clients_recover_from_a_failover_under_load(label: str, tmp_path: Path) -> None:
    """Threads and tasks continue with the new primary without a restart."""
    binary = find_server_binaries()[label]
    with nodes(binary, 3) as servers, sentinels(binary, servers[0], tmp_path) as found:
        leash = Leash(servers[0])
        leash.load(one=ALL)
        token = leash.issue("one").token
        threads = [Worker(number) for number in range(THREADS)]
        tasks = [Worker(THREADS + number) for number in range(TASKS)]
        workers = threads + tasks
        switching = found.switched()
        next(switching)
        ending = threading.Event()
        with ThreadPoolExecutor(THREADS + 1) as pool:
            running = [
                pool.submit(work, thread, client_of(found, token), ending) for thread in threads
            ]
            running.append(pool.submit(asyncio.run, work_in_tasks(tasks, found, token, ending)))
            try:
                await_acknowledged(workers, since=0)
                servers[0].kill()
                killed = time.monotonic()
                switched = next(switching)
                await_acknowledged(workers, since=switched)
            finally:
                ending.set()
            for item in running:
                item.result(PATIENCE_S)

        (promoted,) = [server for server in servers[1:] if server.address == found.primary()]
        recovered = max(
            min(when for when in worker.acknowledged.values() if when > switched)
            for worker in workers
        )
        stored = assert_one_unit(promoted, workers, switched)
        lost = sum(len({*worker.acknowledged} - stored) for worker in workers)
        took = f"failover {switched - killed:.2f} s, all go on {recovered - switched:.2f} s later"
        print(f"{label}: {took}; {len(stored)} writes, {lost} acknowledged and lost")


def client_of(found: Sentinels, token: str) -> keyleash.Redis:
    sentinel = redis.sentinel.Sentinel(found.addresses, socket_timeout=0.5)
    return keyleash.Redis.from_sentinel(sentinel, SERVICE, token=token)


def assert_one_unit(promoted: Node, workers: list[Worker], switched: float) -> set[str]:
    """Check that each key has one counted event, and that later writes are present."""
    leash = Leash(promoted)
    events = list(read_events(leash.store, ["one"]))
    seen = Counter(key.decode() for event in events for key in event.keys)
    stored = {key.decode() for key in leash.admin.scan_iter("t:*", count=1000)}
    assert set(seen) == stored
    assert set(seen.values()) == {1}
    raw: Any = leash.admin.hget(NAMES.layouts, "one")
    (budget,) = unpack_state(leash.state("one"), Layout.from_json(raw)).limits
    assert budget.used == len(stored)
    for worker in workers:
        assert {key for key, when in worker.acknowledged.items() if when > switched} <= stored
        # The rest was not acknowledged, or was lost by asynchronous replication.
        assert worker.failed
        tried = {f"t:{worker.number}:{item}" for item in range(1, worker.tried + 1)}
        assert {key for key in stored if key.startswith(f"t:{worker.number}:")} <= tried
    return stored
