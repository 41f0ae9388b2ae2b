"""Durable writes on a cluster whose nodes fail, fail over and exchange slots all the time."""

from __future__ import annotations

import asyncio
import itertools
import math
import random
import time
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

import pytest
import redis
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import TimeoutError as RedisTimeoutError

import keyleash
from cluster.conftest import DAY, HOME_SLOT, Agents, lent, running_threads
from support.clusters import ClusterNode, RealCluster
from support.replication import wait_until

RUN_S = 30
PAUSE_S = 0.002
DURABLE = {
    "durability": {"wait_replicas": 1, "timeout": "50ms"},
    "idempotency": {"keep": "1h"},
    "budget": DAY,
}
LOST = (RedisConnectionError, RedisTimeoutError)


@dataclass
class Writer:
    """Writes keys of its own, and notes the outcome of each.

    Attributes:
        acknowledged: Keys of writes that a replica has.
        done: Keys of writes of which this is not known, with the time.
        void: Keys of which the error says that nothing ran.
        lost: Keys of writes without a reply.
        went_on_s: When a write was acknowledged or done last.
    """

    name: str
    acknowledged: set[str] = field(default_factory=set)
    done: dict[str, float] = field(default_factory=dict)
    void: set[str] = field(default_factory=set)
    lost: set[str] = field(default_factory=set)
    went_on_s: float = 0.0
    _numbers: Any = field(default_factory=itertools.count)

    def keys(self, count: int) -> list[str]:
        """Return new keys, all of one slot."""
        number = next(self._numbers)
        return [f"t:{{{self.name}{number}}}:{place}" for place in range(count)]

    def note(self, keys: Iterable[str], outcomes: Iterable[Any], is_done: bool = False) -> None:
        for key, outcome in zip(keys, outcomes, strict=True):
            match outcome:
                case keyleash.SlotNotServedError() | redis.ResponseError():
                    self.void.add(key)
                case _ if isinstance(outcome, LOST):
                    self.lost.add(key)
                case True | 1:
                    self.went_on_s = time.monotonic()
                    if is_done:
                        self.done[key] = self.went_on_s
                    else:
                        self.acknowledged.add(key)
                case _:
                    raise AssertionError(f"{key}: {outcome!r}") from outcome

    def note_error(self, keys: list[str], error: Exception) -> None:
        """Note the error of a whole call."""
        if isinstance(error, keyleash.NotReplicatedError):
            reply = error.reply if isinstance(error.reply, list) else [error.reply]
            self.note(keys, reply, is_done=True)
        else:
            self.note(keys, [error] * len(keys))


@dataclass
class Chaos:
    """The writers of a cluster."""

    agents: Agents
    writers: list[Writer] = field(default_factory=list)
    is_over: bool = False
    failures: list[BaseException] = field(default_factory=list)

    def single(self, writer: Writer) -> None:
        client = self.agents.connect()
        while not self.is_over:
            self._write(writer, writer.keys(1), lambda keys: [client.set(keys[0], 1)])

    def pipelines(self, writer: Writer) -> None:
        client = self.agents.connect()

        def write(keys: list[str]) -> Any:
            pipe = client.pipeline()
            for key in keys:
                pipe.set(key, 1)
            return pipe.execute(raise_on_error=False)

        while not self.is_over:
            self._write(writer, [*writer.keys(2), *writer.keys(1), *writer.keys(1)], write)

    def transactions(self, writer: Writer) -> None:
        client = self.agents.connect()

        def write(keys: list[str]) -> Any:
            with client.batch() as batch:
                for key in keys:
                    batch.set(key, 1)
            return batch.results

        while not self.is_over:
            self._write(writer, writer.keys(3), write)

    def retried(self, writer: Writer) -> None:
        """Make each call with an id until it is answered, or the test is over."""
        client = self.agents.connect()

        def write(keys: list[str]) -> Any:
            while True:
                try:
                    return [client.execute_command("INCR", keys[0], once=keys[0])]
                except LOST:
                    # The test may have failed because a slot is never served again.
                    if self.is_over:
                        raise
                    time.sleep(PAUSE_S)

        while not self.is_over:
            self._write(writer, writer.keys(1), write)

    def tasks(self, writer: Writer) -> None:
        async def run() -> None:
            async with self.agents.connect_async() as client:

                async def work() -> None:
                    while not self.is_over:
                        keys = writer.keys(1)
                        try:
                            writer.note(keys, [await client.set(keys[0], 1)])
                        except Exception as error:
                            writer.note_error(keys, error)
                        await asyncio.sleep(PAUSE_S)

                await asyncio.gather(work(), work())

        asyncio.run(run())

    def _write(self, writer: Writer, keys: list[str], call: Callable[[list[str]], Any]) -> None:
        try:
            writer.note(keys, call(keys))
        except AssertionError:
            raise
        except Exception as error:
            writer.note_error(keys, error)
        time.sleep(PAUSE_S)

    def start(self) -> Any:
        """Return a block during which all write."""
        jobs = (self.single, self.pipelines, self.transactions, self.retried, self.tasks)
        self.writers = [Writer(job.__name__) for job in jobs]

        def guarded(job: Callable[[Writer], None], writer: Writer) -> None:
            try:
                job(writer)
            except BaseException as error:
                self.failures.append(error)

        return running_threads(
            *((guarded, job, writer) for job, writer in zip(jobs, self.writers, strict=True))
        )

    def wait_until_all_go_on(self) -> str:
        """Wait until each has written something from now on; return after how many seconds."""
        begin_s = time.monotonic()
        first: dict[str, float] = {}

        def go_on() -> bool:
            for writer in self.writers:
                if writer.went_on_s > begin_s:
                    first.setdefault(writer.name, writer.went_on_s - begin_s)
            return bool(self.failures) or len(first) == len(self.writers)

        wait_until(go_on)
        return ", ".join(f"{name} {seconds:.3f}" for name, seconds in first.items())


class Events:
    """Failures, failovers and moves of a cluster, which is whole again after each."""

    def __init__(self, chaos: Chaos, cluster: RealCluster) -> None:
        self._chaos, self._cluster = chaos, cluster
        self.log: list[str] = []

    def kill(self, victim: ClusterNode) -> None:
        """End a primary; it comes back empty, as a replica of its successor."""
        kind = "home" if HOME_SLOT in victim.slots else "shard"
        victim.kill()
        self._cluster.wait_until_served()
        self._note(f"{kind} killed")
        victim.restart()
        self._wait_for_replicas()

    def fail_over(self, victim: ClusterNode, *how: str) -> None:
        """Have a replica take over from a primary that lives, with its consent or without."""
        kind = "home" if HOME_SLOT in victim.slots else "shard"
        replica = self._cluster.replica_of(victim)
        asked_s = -math.inf

        def is_done() -> bool:
            nonlocal asked_s
            if replica.is_primary:
                return not victim.is_primary
            # A server gives up after five seconds, if the others do not vote for the replica.
            if time.monotonic() > asked_s + 6:
                asked_s = time.monotonic()
                replica.admin.cluster("FAILOVER", *how)
            return False

        wait_until(is_done)
        self._cluster.wait_until_served()
        self._note(f"{kind} failed over {' '.join(how)}")
        self._wait_for_replicas()

    def move(self, slots: Iterable[int]) -> None:
        """Move slots key by key."""
        for slot in slots:
            source = self._cluster.owner(slot)
            target = self._cluster.other(source)
            self._cluster.move_slot(slot, target)
            # A moved key is on no replica of its new node for a moment.
            source.settle()
            target.settle()
        self._note("slots moved")

    def _note(self, what: str) -> None:
        self.log.append(
            f"{what}; seconds until writers go on: {self._chaos.wait_until_all_go_on()}"
        )

    def _wait_for_replicas(self) -> None:
        def is_whole() -> bool:
            found = [node.admin.info("replication") for node in self._cluster.nodes]
            if any(
                item.get("master_link_status") != "up" and item["connected_slaves"] != 1
                for item in found
            ):
                return False
            # A busy node may count as failed for a moment: the others then reply CLUSTERDOWN.
            for node in self._cluster.primaries:
                node.settle()
            return True

        wait_until(is_whole)


@pytest.mark.slow
def test_acknowledged_writes_survive_failures_of_nodes(replicated_cluster: RealCluster) -> None:
    """Each with one event; what is reported as void did not run, and all writers go on."""
    cluster = replicated_cluster
    cluster.is_changed = True
    seed = random.randrange(10**6)
    chance = random.Random(seed)
    with lent(cluster, "sync") as agents:
        agents.load(**DURABLE)
        chaos = Chaos(agents)
        events = Events(chaos, cluster)

        def home() -> ClusterNode:
            return cluster.owner(HOME_SLOT)

        def shard() -> ClusterNode:
            return chance.choice([node for node in cluster.primaries if node is not home()])

        kinds: list[Callable[[], None]] = [
            lambda: events.kill(shard()),
            lambda: events.kill(home()),
            lambda: events.fail_over(shard(), "FORCE"),
            lambda: events.fail_over(home(), "FORCE"),
            lambda: events.fail_over(shard(), "TAKEOVER"),
            lambda: events.fail_over(shard()),
            lambda: events.move(chance.sample(range(16384), 20)),
            lambda: events.move([0, HOME_SLOT]),
        ]
        chance.shuffle(kinds)
        end_s = time.monotonic() + RUN_S
        try:
            with chaos.start():
                try:
                    chaos.wait_until_all_go_on()
                    for kind in itertools.cycle(kinds):
                        if time.monotonic() > end_s or chaos.failures:
                            break
                        kind()
                finally:
                    chaos.is_over = True
        finally:
            print(f"seed {seed}", *events.log, sep="\n")

        assert chaos.failures == []
        cluster.wait_until_served()
        stored = {key.decode() for node in cluster.primaries for key in node.admin.keys("t:*")}
        recorded = Counter(
            key.decode() for event in agents.op.audit.events("agent") for key in event.keys
        )
        for writer in chaos.writers:
            gone = [key for key in writer.done if key not in stored]
            print(
                f"{writer.name}: {len(writer.acknowledged)} acknowledged,"
                f" {len(writer.done)} done ({len(gone)} of them gone),"
                f" {len(writer.lost)} lost, {len(writer.void)} void"
            )
            assert writer.acknowledged - stored == set()
            assert writer.void & (stored | recorded.keys()) == set()
        assert set(recorded) == stored
        assert set(recorded.values()) == {1}
