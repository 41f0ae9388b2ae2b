"""Idempotency ids on clusters: a remembered call moves with the slot of its first key."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import random
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import redis
from redis.crc import key_slot
from redis.exceptions import ConnectionError as RedisConnectionError

import keyleash
from client.test_once import CuttingProxy
from cluster.conftest import KEYS, Agents, lent
from keyleash.addons.servers import EmbeddedCluster, EmbeddedServer
from keyleash.commands import load_table
from keyleash.store.keyspace import Keyspace
from keyleash.store.wire import guard_call, to_shard, with_id
from support.clusters import ClusterNode, RealCluster
from support.leases import NEEDED, ClusterAgent, tag_of
from support.replication import PATIENCE_S, wait_until
from support.thorough import FACTOR

ONCE: dict[str, Any] = {
    "idempotency": {"keep": "1h", "max_reply": "64kb"},
    "budget": {"writes": "100000/day"},
}
PREFIX = Keyspace(tag="*").once_prefix("agent")


@pytest.fixture
def agents(cluster: RealCluster) -> Iterator[Agents]:
    with lent(cluster, "sync") as agents:
        agents.load(**ONCE)
        yield agents


@pytest.fixture(params=["sync", "async"])
def some_agents(embedded_cluster: RealCluster, request: pytest.FixtureRequest) -> Iterator[Agents]:
    with lent(embedded_cluster, request.param) as agents:
        agents.load(**ONCE)
        yield agents


class RawAgent(ClusterAgent):
    """Calls with ids at chosen nodes, perhaps behind ASKING."""

    def once(self, node: ClusterNode, id: str, *words: str, asks: bool = False) -> Any:
        """Make a call at a node, with a lease; return its reply, or the text of its error."""
        digest, voucher = self.record[b"digest"].decode(), ""
        call = with_id(guard_call(load_table(), digest, self.token, "c", words), id)
        for _ in range(5):
            try:
                with node.client().pipeline(transaction=False) as pipe:
                    if asks:
                        pipe.execute_command("ASKING")
                    pipe.execute_command(*to_shard(call, tag_of(node), voucher))
                    return pipe.execute()[-1]
            except redis.ResponseError as error:
                text = str(error)
                _, needed, request = text.partition(NEEDED)
                if not needed:
                    return f"{type(error).__name__}: {text}"
            voucher = self.fetch(request.partition(" ")[0])
        raise AssertionError(request)


@pytest.mark.parametrize("key", ["t:n", "t:{job}:n", "t:{a{b}:n", "t:{a", "t:é"])
def test_call_that_is_repeated_behind_the_move_of_its_slot_does_not_run(
    agents: Agents, key: str
) -> None:
    """The record is in the slot of the key, also of one with an odd hash tag."""
    cluster, client = agents.cluster, agents.connect()
    with keyleash.once("a"):
        assert client.incr(key) == 1
    slot = key_slot(key.encode())
    cluster.move_slot(slot, cluster.other(cluster.owner(slot)))

    with keyleash.once("a"):
        assert client.incr(key) == 1
    with keyleash.once("b"):
        assert client.incr(key) == 2
    with keyleash.once("a"), pytest.raises(keyleash.IdempotencyConflictError):
        client.incrby(key, 5)
    assert agents.raw(key) == b"2"


@pytest.mark.parametrize("first", ["key", "record"])
def test_call_does_not_run_twice_while_its_slot_moves(agents: Agents, first: str) -> None:
    """With the key or the record at the other node it is an error, at either node."""
    cluster, agent = agents.cluster, RawAgent(agents.cluster, agents.token)
    key = "t:n"
    slot = key_slot(key.encode())
    source = cluster.owner(slot)
    target = cluster.other(source)
    assert agent.once(source, "a", "INCR", key) == 1
    (record,) = source.admin.keys(f"{PREFIX}*")

    with cluster.moving(slot, target) as move:
        assert agent.once(source, "a", "INCR", key) == 1
        move.move(key if first == "key" else record)
        found = [
            agent.once(source, "a", "INCR", key),
            agent.once(target, "a", "INCR", key, asks=True),
            agent.once(target, "new", "INCR", key, asks=True),
            agent.once(source, "new", "INCR", key),
        ]
        replayed = [item for item in found if isinstance(item, int)]
        assert replayed == ([] if first == "key" else [1])
        assert all(item.startswith(("TryAgainError", "AskError")) for item in found if item != 1)
        move.move(record if first == "key" else key)
        assert agent.once(target, "a", "INCR", key, asks=True) == 1
    assert agent.once(target, "a", "INCR", key) == 1
    assert agent.once(target, "new", "INCR", key) == 2


def test_call_is_remembered_behind_a_move_in_one_step(agents: Agents) -> None:
    """The record of a call moves with its slot."""
    cluster, client = agents.cluster, agents.connect()
    if not cluster.moves_in_one_step:
        pytest.skip("the servers have no CLUSTER MIGRATESLOTS")
    slot = key_slot(b"t:n")
    with keyleash.once("a"):
        assert client.incr("t:n") == 1
    cluster.move_in_one_step([slot], cluster.other(cluster.owner(slot)))
    with keyleash.once("a"):
        assert client.incr("t:n") == 1


def test_client_waits_until_a_slot_has_moved(some_agents: Agents) -> None:
    """Its pauses are those of other calls; the id stays the same."""
    cluster, client = some_agents.cluster, some_agents.connect()
    slot = key_slot(b"t:n")
    with keyleash.once("a"):
        assert client.incr("t:n") == 1
    with cluster.moving(slot, cluster.other(cluster.owner(slot))) as move:
        move.move("t:n")
        pauses = []

        def end(pause_s: float) -> Any:
            pauses.append(pause_s)
            if len(pauses) == 2:
                move.move_all()
                move.end()
            return done() if some_agents.kind == "async" else None

        async def done() -> None:
            pass

        client.sleep = end
        with keyleash.once("a"):
            assert client.incr("t:n") == 1
        assert pauses
    with keyleash.once("b"):
        assert client.incr("t:n") == 2


def test_call_without_a_place_for_its_record_is_denied(agents: Agents) -> None:
    """A key that no hash tag can repeat, one that is too long, and no key; reads pass."""
    client = agents.connect()
    for words in (("SET", "t:a}", "v"), ("SET", f"t:{600 * 'x'}", "v"), ("PUBLISH", "t:c", "v")):
        with keyleash.once("a"), pytest.raises(keyleash.CommandRefusedError) as caught:
            client.execute_command(*words)
        assert caught.value.details["once"] == "key"
        assert caught.value.details["command"] == words[0]
        assert "needs a key" in caught.value.details["reason"]
    agent = RawAgent(agents.cluster, agents.token)
    assert agent.once(agents.cluster.owner("t:a}"), "a", "GET", "t:a}") is None


def test_policy_that_allows_ids_since_is_noticed(some_agents: Agents) -> None:
    """As on one server, in a call and in a pipeline over all nodes."""
    some_agents.load(budget=ONCE["budget"])
    calls, pipes = some_agents.connect(), some_agents.connect()

    def step() -> Any:
        with keyleash.once("a"):
            return calls.incr("t:n")

    def steps() -> list[Any]:
        pipe = pipes.pipeline(once="b")
        for key in KEYS:
            pipe.incr(key)
        results: list[Any] = pipe.execute(raise_on_error=False)
        return results

    with pytest.raises(keyleash.CommandRefusedError):
        step()
    assert {type(error) for error in steps()} == {keyleash.CommandRefusedError}
    some_agents.load(**ONCE)
    assert [step(), step()] == [1, 1]
    assert [steps(), steps()] == 2 * [[1] * len(KEYS)]


def test_pipeline_that_waits_for_a_rate_runs_once(some_agents: Agents) -> None:
    """Calls that are sent again have the same ids, and ids of later calls stay."""
    rate = {"writes": "60/hour"}
    some_agents.load(idempotency=ONCE["idempotency"], rate=rate)
    client, other = some_agents.connect(wait=True), some_agents.connect()

    def step() -> list[Any]:
        with keyleash.once("a"):
            pipe = client.pipeline()
            for key in ("t:{s}n", "t:{s}n", "t:{s}m", "t:o"):
                pipe.incr(key)
            pipe.get("t:{s}m")
            return [*pipe.execute()[:4], client.incr("t:p")]

    while not isinstance(other.pipeline().incr("t:{s}").execute(False)[0], Exception):
        pass
    slept: list[float] = []

    def sleep(seconds: float) -> None:
        slept.append(seconds)
        some_agents.load(**ONCE)  # as if the time had passed

    client.sleep = _sleeping(some_agents, sleep)
    assert [step(), step()] == 2 * [[1, 2, 1, 1, 1]]
    assert slept


def test_coalesced_commands_have_no_ids_of_others(embedded_cluster: RealCluster) -> None:
    """Calls with ids are sent alone, beside commands of other tasks."""
    with lent(embedded_cluster, "async") as agents:
        agents.load(**ONCE)

        async def run() -> None:
            async with agents.connect_async(coalesce=True) as client:

                async def step(key: str) -> Any:
                    with keyleash.once(f"step/{key}"):
                        return await client.incr(key)

                for count in (1, 2, 3):
                    steps = [step(f"t:{{s}}{number}") for number in range(4)]
                    option = client.execute_command("INCR", "t:{s}o", once="option")
                    plain = [client.incr(f"t:{{s}}plain{number}") for number in range(3)]
                    found = await asyncio.gather(*steps, option, *plain)
                    assert found == [1, 1, 1, 1, 1, count, count, count]

        asyncio.run(run())


class LosingProxy(CuttingProxy):
    """Loses a fifth of the replies to calls of a guard."""

    def _fate(self, names: list[bytes]) -> str:
        is_lost = b"EVALSHA" in names and self._random.random() < 0.2
        return "drop the reply" if is_lost else "forward"


class Cut:
    """A proxy for each node, which a client uses in the place of the node."""

    def __init__(self, agents: Agents) -> None:
        ports = [node.port for node in agents.cluster.primaries]
        self.proxies = {port: LosingProxy(port, seed) for seed, port in enumerate(ports)}
        self.agents = agents

    def connect(self) -> Any:
        return self.agents.connect(address_remap=self._remap)

    def _remap(self, address: tuple[str, int]) -> tuple[str, int]:
        proxy = self.proxies.get(address[1])
        return (address[0], proxy.port) if proxy else address

    @property
    def drops(self) -> int:
        return sum(proxy.fates["drop the reply"] for proxy in self.proxies.values())

    def stop(self) -> None:
        for proxy in self.proxies.values():
            proxy.stop()


@pytest.fixture
def cut(some_agents: Agents) -> Iterator[Cut]:
    cut = Cut(some_agents)
    yield cut
    cut.stop()


@pytest.mark.parametrize("count", [40, pytest.param(1000, marks=pytest.mark.slow)])
def test_cut_calls_with_ids_run_once(some_agents: Agents, cut: Cut, count: int) -> None:
    """The client sends them again by itself; without an id it does not."""
    client = cut.connect()
    client.sleep = _sleeping(some_agents, lambda _: None)
    for number in range(count):
        with keyleash.once(f"n/{number}"):
            assert client.incr(f"t:{number % 7}") == number // 7 + 1
    assert cut.drops
    (status,) = some_agents.op.status().identities
    assert status.events == count
    lost = 0
    for _ in range(20):
        try:
            client.incr("t:other")
        except RedisConnectionError:
            lost += 1
    assert lost
    assert some_agents.raw("t:other") == b"20"


def test_cut_pipelines_run_once(some_agents: Agents, cut: Cut) -> None:
    """Each batch of a slot has an id; a program that runs again has the same ones."""
    client = cut.connect()
    client.sleep = _sleeping(some_agents, lambda _: None)
    keys = [f"t:{number}" for number in range(30)]

    def run(client: Any) -> list[Any]:
        pipe = client.pipeline(once="p")
        for key in (*keys, *keys):
            pipe.incr(key)
        pipe.get(keys[0])
        found: list[Any] = pipe.execute()
        return found

    assert run(client) == run(client) == run(some_agents.connect())
    assert {some_agents.raw(key) for key in keys} == {b"2"}
    for _ in range(2):
        pipe = client.pipeline(transaction=True, once="q")
        assert pipe.incr("t:{q}n").incr("t:{q}n").execute() == [1, 2]
    assert some_agents.raw("t:{q}n") == b"2"


def _sleeping(agents: Agents, sleep: Callable[[float], None]) -> Any:
    """Return what a client does in place of sleeping."""

    async def asleep(seconds: float) -> None:
        sleep(seconds)

    return asleep if agents.kind == "async" else sleep


def test_replica_of_a_killed_primary_knows_the_call(replicated_cluster: RealCluster) -> None:
    """The record is replicated with the change."""
    with lent(replicated_cluster, "sync") as agents:
        agents.load(**ONCE)
        client = agents.connect()
        node = replicated_cluster.owner("t:n")
        with keyleash.once("a"):
            assert client.incr("t:n") == 1
        node.settle()
        node.kill()
        slot = key_slot(b"t:n")
        wait_until(lambda: any(slot in item.slots for item in replicated_cluster.primaries))
        replicated_cluster.wait_until_served()
        for _ in range(2):
            with keyleash.once("a"):
                assert client.incr("t:n") == 1
        assert agents.raw("t:n") == b"1"


def test_fifty_clients_with_one_id_run_it_once(agents: Agents) -> None:
    """One event and one charge, and the same reply for all, on whatever node the key is."""
    clients = [agents.connect() for _ in range(50)]
    for key in ("t:a", "t:b", "t:c", "t:d"):
        barrier = threading.Barrier(len(clients))

        def call(client: Any, key: str = key, barrier: threading.Barrier = barrier) -> Any:
            client.get(key)
            barrier.wait(PATIENCE_S)
            with keyleash.once(f"set/{key}"):
                return client.incr(key)

        with ThreadPoolExecutor(len(clients)) as threads:
            assert {*threads.map(call, clients)} == {1}
        assert agents.raw(key) == b"1"
    (status,) = agents.op.status().identities
    (limit,) = status.limits
    leased = [shard.limits[0] for shard in status.shards or () if shard.limits]
    assert status.events == 4
    assert limit.used == 4 + sum((item.unspent or 0) + (item.stranded or 0) for item in leased)


CRASHES = 30 * FACTOR


@pytest.fixture
def durable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[RealCluster]:
    """A cluster whose nodes have their data again behind a crash."""

    def started(port: int, **options: Any) -> EmbeddedServer:
        return EmbeddedServer(port, data=tmp_path / str(port), appendfsync="always", **options)

    monkeypatch.setattr("keyleash.addons.servers.cluster.EmbeddedServer", started)
    # A node that starts again must not count as failed meanwhile.
    cluster = RealCluster("durable", EmbeddedCluster(3, node_timeout_ms=60_000).start())
    yield cluster
    cluster.close_clients()
    cluster.stop()


@pytest.mark.slow
def test_crashes_of_nodes_between_calls_with_ids_run_none_twice(durable: RealCluster) -> None:
    """Change and record are both on the disk of the node, or neither; also of the home."""
    keys = [f"t:{number}" for number in range(9)]
    done: list[tuple[str, int]] = []
    is_over = threading.Event()
    with lent(durable, "sync") as agents:
        agents.load(**ONCE)

        def work(worker: int) -> None:
            client = agents.connect()
            for number in itertools.count():
                if is_over.is_set():
                    return
                key = keys[number % len(keys)]
                done.append((key, until_it_ran(client, f"{worker}/{number}", key)))

        with ThreadPoolExecutor(4) as threads:
            working = [threads.submit(work, worker) for worker in range(4)]
            try:
                for number in range(CRASHES):
                    enough = len(done) + random.randint(3, 12)
                    wait_until(lambda enough=enough: len(done) >= enough)
                    process = durable.nodes[number % 3].process
                    process.kill()
                    process.start()
            finally:
                is_over.set()
            for future in working:
                future.result(PATIENCE_S)

        for key in keys:
            found = sorted(value for name, value in done if name == key)
            assert found == [*range(1, len(found) + 1)]
            assert int(agents.raw(key) or 0) == len(found)
        (status,) = agents.op.status().identities
        assert status.events == len(done)


def until_it_ran(client: Any, id: str, key: str) -> int:
    """Increment a key with an id, and again with it behind an error that says nothing of it."""
    while True:
        with contextlib.suppress(RedisConnectionError, redis.TimeoutError), keyleash.once(id):
            value: int = client.incr(key)
            return value
