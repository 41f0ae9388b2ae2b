"""Clients of clusters: calls over all slots, exact budgets, and slots that move under load."""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest
import redis
import redis.asyncio
from redis.crc import key_slot
from redis.exceptions import ConnectionError as RedisConnectionError

import keyleash
from client.alike import Awaited
from client.test_errors import assert_unseen
from keyleash.client.routing import PAUSES_S
from keyleash.store.keyspace import HOME_TAG, Keyspace
from support.clusters import RealCluster
from support.leash import grant, policy
from support.replication import wait_until

HOME = Keyspace().at_home()
HOME_SLOT = key_slot(HOME_TAG.encode())
DAY = {"requests": "1000000/day"}
KEYS = [f"t:{number}" for number in range(60)]
PATIENCE_S = 30


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
        else:
            runner = asyncio.Runner()
            client = Awaited(self.connect_async(**options), runner)
            self._runners.append(runner)
        self._clients.append(client)
        return client

    def connect_async(self, **options: Any) -> Any:
        """Return an asyncio client, for the loop that runs."""
        url = self.cluster.url
        return keyleash.asyncio.RedisCluster.from_url(url, token=self.token, **options)

    def close(self) -> None:
        for client in self._clients:
            client.close() if self.kind == "sync" else client.aclose()
        for runner in self._runners:
            runner.close()
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


def test_calls_go_to_the_nodes_of_their_keys(agents: Agents) -> None:
    """With one lease for each node."""
    client = agents.connect(decode_responses=True)

    for key in KEYS:
        assert client.set(key, key) is True

    assert [client.get(key) for key in KEYS] == KEYS
    assert all(agents.raw(key) == key.encode() for key in KEYS)
    leases = agents.cluster.owner(HOME_SLOT).admin.hkeys(HOME.leases("agent"))
    assert len([tag for tag in leases if tag != b"epoch"]) == 3


def test_pipeline_over_all_slots_returns_results_in_order(agents: Agents) -> None:
    """Each command is checked on its own, and its error takes the place of its result."""
    client = agents.connect(decode_responses=True)
    pipe = client.pipeline()
    for number, key in enumerate(KEYS):
        pipe.set(key, number)
    pipe.get("other")
    for key in KEYS:
        pipe.incr(key)

    *results, last = pipe.execute(raise_on_error=False)[: len(KEYS) + 1]

    assert results == [True] * len(KEYS)
    assert isinstance(last, keyleash.KeyNotGrantedError)
    assert client.mget_nonatomic(KEYS) == [str(number + 1) for number in range(len(KEYS))]
    assert client.delete(*KEYS) == len(KEYS)


def test_pipeline_raises_the_first_error(agent: Any) -> None:
    """With the number of its command, as redis-py does."""
    pipe = agent.pipeline()
    pipe.set("t:1", 1)
    pipe.get("other")

    with pytest.raises(keyleash.KeyNotGrantedError, match="Command # 2"):
        pipe.execute()

    assert agent.get("t:1") == "1"


def test_batch_of_one_slot_runs_whole_or_not_at_all(some_agents: Agents, agent: Any) -> None:
    """A denied command denies the others."""
    with agent.batch() as batch:
        batch.set("t:{a}1", 1)
        batch.incr("t:{a}1")
    assert batch.results == [True, 2]

    batch = agent.batch()
    batch.incr("t:{a}1")
    batch.set("other:{a}", 1)
    with pytest.raises(keyleash.KeyNotGrantedError):
        batch.execute()
    assert some_agents.raw("t:{a}1") == b"2"


@pytest.mark.parametrize("make", ["batch", "transaction"])
def test_transaction_of_several_slots_is_not_sent(
    some_agents: Agents, agent: Any, make: str
) -> None:
    """It could not be atomic."""
    queue = agent.batch() if make == "batch" else agent.pipeline(transaction=True)
    queue.set("t:1", 1)
    queue.set("t:2", 1)

    with pytest.raises(keyleash.CrossSlotError):
        queue.execute()

    assert (some_agents.raw("t:1"), some_agents.raw("t:2")) == (None, None)


def test_command_with_keys_of_several_slots_has_the_error_of_the_server(agent: Any) -> None:
    """As of redis-py on a cluster."""
    with pytest.raises(redis.exceptions.ClusterCrossSlotError):
        agent.mget("t:1", "t:2")


def test_watched_transaction_is_repeated_until_it_is_undisturbed(some_agents: Agents) -> None:
    """On the node of its keys, also if that needs a lease first."""
    client = some_agents.connect(decode_responses=True)
    other = some_agents.connect()
    rounds = Counter[str]()

    def add(pipe: Any) -> None:
        pipe.multi()
        rounds["all"] += 1
        if rounds["all"] == 1:
            other.set("t:{a}1", 10)
        pipe.incr("t:{a}1")

    async def aadd(pipe: Any) -> None:
        await asyncio.sleep(0)
        pipe.multi()
        rounds["all"] += 1
        if rounds["all"] == 1:
            some_agents.cluster.owner("t:{a}1").admin.set("t:{a}1", 10)
        pipe.incr("t:{a}1")

    change: Any = add if some_agents.kind == "sync" else aadd
    assert client.transaction(change, "t:{a}1") == [11]
    assert rounds["all"] == 2


def test_watch_of_keys_in_several_slots_is_denied(agent: Any) -> None:
    """A connection watches the keys of one node."""
    pipe = agent.pipeline(transaction=True)
    with pytest.raises(keyleash.CrossSlotError):
        pipe.watch("t:1", "t:2")


def test_scan_lists_the_keys_of_all_primaries(agent: Any) -> None:
    """Each node is scanned to its end; KEYS is made of such scans."""
    agent.mset_nonatomic(dict.fromkeys(KEYS, 1))

    assert sorted(agent.scan_iter(match="t:*", count=7)) == sorted(KEYS)
    assert sorted(agent.keys("t:*")) == sorted(KEYS)


def test_blocking_call_is_answered_when_the_key_appears(some_agents: Agents, agent: Any) -> None:
    """It is polled on the node of its key."""
    other = redis.RedisCluster.from_url(some_agents.cluster.url)
    later = threading.Timer(0.2, lambda: other.rpush("t:q", "x"))
    later.start()

    assert agent.blpop("t:q", timeout=PATIENCE_S) in (("t:q", "x"), ["t:q", "x"])
    assert agent.blpop("t:q", timeout=0.1) is None
    later.join()
    other.close()


def test_lock_of_redis_py_is_taken_and_released(some_agents: Agents) -> None:
    """Its script is replaced by commands on the node of its key."""

    async def take() -> None:
        async with some_agents.connect_async() as client, client.lock("t:lock"):
            assert some_agents.raw("t:lock")

    if some_agents.kind == "async":
        asyncio.run(take())
    else:
        with some_agents.connect().lock("t:lock"):
            assert some_agents.raw("t:lock")
    assert some_agents.raw("t:lock") is None


def test_published_message_reaches_subscribers_on_another_node(some_agents: Agents) -> None:
    """The cluster passes it on."""
    if not hasattr(redis.asyncio.RedisCluster, "pubsub"):
        pytest.skip("this redis-py has no subscriptions of asyncio on clusters")
    if some_agents.kind == "async":
        asyncio.run(_publish(some_agents))
        return
    client = some_agents.connect(decode_responses=True)
    with client.pubsub() as pubsub:
        pubsub.subscribe("t:channel")
        assert pubsub.get_message(timeout=PATIENCE_S)["type"] == "subscribe"
        client.publish("t:channel", "x")
        assert pubsub.get_message(timeout=PATIENCE_S)["data"] == "x"


async def _publish(agents: Agents) -> None:
    async with (
        agents.connect_async() as client,
        client.pubsub() as pubsub,
    ):
        await pubsub.subscribe("t:channel")
        found: Any = await pubsub.get_message(timeout=PATIENCE_S)
        assert found["type"] == "subscribe"
        await client.publish("t:channel", "x")
        found = await pubsub.get_message(timeout=PATIENCE_S)
        assert found["data"] == b"x"


def test_whoami_has_the_limits_of_the_home(some_agents: Agents, agent: Any) -> None:
    """Nothing is charged for it."""
    agent.set("t:1", 1)

    found = agent.whoami()

    assert found.identity == "agent"
    assert found.limits[0].left <= 1_000_000 - 1


def test_rate_limited_call_waits_if_it_may(some_agents: Agents) -> None:
    """For the places that become free at the home."""
    some_agents.load(rate={"writes": "5/second"})
    client = some_agents.connect(wait=PATIENCE_S)

    for number in range(12):
        client.set(f"t:{number}", 1)
    pipe = client.pipeline()
    for number in range(6):
        pipe.set(f"t:{number}", 2)

    assert pipe.execute() == [True] * 6


def test_replicas_cannot_be_read(some_agents: Agents) -> None:
    """Guards charge and record each call, which only a primary can."""
    with pytest.raises(TypeError, match="primaries"):
        some_agents.connect(read_from_replicas=True)


def test_client_from_the_environment_is_one_of_the_cluster(
    some_agents: Agents, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The URL is that of any node."""
    monkeypatch.setenv("KEYLEASH_URL", some_agents.cluster.nodes[1].process.url)
    monkeypatch.setenv("KEYLEASH_TOKEN", some_agents.token)

    async def call() -> None:
        async with keyleash.asyncio.RedisCluster.from_env() as client:
            await client.set("t:1", 1)

    if some_agents.kind == "async":
        asyncio.run(call())
    else:
        with keyleash.RedisCluster.from_env() as client:
            client.set("t:1", 1)
    assert some_agents.raw("t:1") == b"1"


@pytest.mark.parametrize("command", ["MULTI", "WATCH t:1", "SUBSCRIBE t:channel"])
def test_pipeline_over_nodes_denies_what_is_of_one_connection(agent: Any, command: str) -> None:
    """The other commands run."""
    pipe = agent.pipeline()
    pipe.set("t:1", 1)
    pipe.command_stack.append((tuple(command.split()), {}))
    pipe.incr("t:1")

    first, denial, last = pipe.execute(raise_on_error=False)

    assert (first, last) == (True, 2)
    assert isinstance(denial, keyleash.CommandRefusedError)


# Durability.


@pytest.mark.parametrize("kind", ["sync", "async"])
def test_writes_wait_for_replicas_of_the_node_and_of_its_lease(
    replicated_cluster: RealCluster, kind: str
) -> None:
    """Without a replica a write has run, and its caller learns it; without a lease none runs."""
    with lent(replicated_cluster, kind) as agents:
        agents.load(durability={"wait_replicas": 1, "timeout": "200ms"})
        client = agents.connect()
        assert client.set("t:1", 1) is True
        assert client.pipeline().incr("t:1").incr("t:2").execute() == [2, 1]
        primary = replicated_cluster.owner("t:1")
        replicated_cluster.replica_of(primary).halt()

        with pytest.raises(keyleash.NotReplicatedError) as caught:
            client.incr("t:1")
        assert caught.value.reply == 3
        with pytest.raises(keyleash.NotReplicatedError):
            client.pipeline().incr("t:1").incr("t:2").execute()
        assert primary.admin.get("t:1") == b"4"


# Denials.


def test_revoked_token_is_denied_at_every_node_by_the_next_call(agents: Agents) -> None:
    """Its leases have expired everywhere."""
    client = agents.connect()
    for key in KEYS[:9]:
        client.set(key, 1)

    agents.op.tokens.revoke(identity="agent")

    for key in KEYS[:9]:
        with pytest.raises(keyleash.TokenRevokedError):
            client.set(key, 2)


def test_token_is_in_no_error(agents: Agents) -> None:
    """Nor in a local variable of its traceback, which services that collect errors show."""
    client = agents.connect()
    client.set("t:1", 1)
    agents.op.tokens.revoke(identity="agent")

    with pytest.raises(keyleash.TokenRevokedError) as caught:
        client.set("t:2", 2)

    assert_unseen(agents.token, caught.value)


def test_new_policy_takes_effect_on_the_next_call(some_agents: Agents, agent: Any) -> None:
    """The client reads the guard record again at the home."""
    agent.set("t:1", 1)

    some_agents.load(budget={"requests": "999999/day"})

    agent.set("t:1", 2)
    pipe = agent.pipeline()
    assert pipe.incr("t:1").incr("t:2").execute() == [3, 1]


def test_callable_token_is_asked_again_when_the_token_is_over(some_agents: Agents) -> None:
    """The call is repeated with the new one."""
    tokens = [some_agents.token]
    some_agents.token = lambda: tokens[-1]  # type: ignore[assignment]
    client = some_agents.connect()
    client.set("t:1", 1)

    some_agents.op.tokens.revoke(identity="agent")
    tokens.append(some_agents.op.tokens.issue("agent").token)

    assert client.set("t:1", 2) is True


def test_script_that_a_node_lost_is_loaded_again(some_agents: Agents, agent: Any) -> None:
    """From its source at the home; that of leases at the home itself."""
    agent.set("t:1", 1)
    for node in some_agents.cluster.primaries:
        node.admin.script_flush()
    some_agents.op.tokens.revoke(some_agents.op.tokens.issue("agent").id)

    assert [agent.set(key, 1) for key in KEYS] == [True] * len(KEYS)
    assert agent.pipeline().incr("t:1").incr("t:2").execute() == [2, 2]


# Exact budgets.


def test_budget_is_exact_for_eight_threads(cluster: RealCluster) -> None:
    """1,600 calls over all slots, of which exactly 1,000 pass."""
    with lent(cluster, "sync") as agents:
        agents.load(budget={"requests": "1000/day"})
        outcomes = Counter[str]()

        def work(client: Any, number: int) -> None:
            for place in range(200):
                try:
                    client.set(f"t:{number}:{place}", 1)
                    outcomes["passed"] += 1
                except keyleash.BudgetExhaustedError:
                    outcomes["denied"] += 1

        shared = agents.connect()
        clients = [shared, shared, *(agents.connect() for _ in range(6))]
        with _threads(*((work, client, number) for number, client in enumerate(clients))):
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
        outcomes = Counter[str]()

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

    with _threads(*[(call, client, number) for number in range(6)]):
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


# Slots that move, and nodes that fail.


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
        with _threads(*zip(works, clients, range(len(works)), strict=True)):
            try:
                self._run_on()
                yield
                self._run_on()
            finally:
                self._is_over = True

    def _run_on(self) -> None:
        before = self.acknowledged
        wait_until(lambda: self.acknowledged > before + 3 * len(KEYS) or bool(self.errors))


@contextlib.contextmanager
def _threads(*jobs: tuple[Callable[..., None], Any, int]) -> Iterator[None]:
    threads = [threading.Thread(target=job, args=arguments) for job, *arguments in jobs]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        for thread in threads:
            thread.join()


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


def test_no_call_is_lost_or_doubled_while_slots_move_in_one_step(
    some_agents: Agents,
) -> None:
    """As Valkey 9 does."""
    cluster, load = some_agents.cluster, Load(some_agents)
    if not cluster.moves_in_one_step:
        pytest.skip("the server moves slots key by key")
    source = cluster.owner(0)
    with load.running():
        cluster.move_in_one_step(range(100), cluster.other(source))

    assert load.errors == []
    assert some_agents.used() == load.acknowledged


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
    assert len(pauses) <= len(PAUSES_S)
    assert slots_read <= len(pauses) + 1


def test_lost_reply_is_raised_and_the_call_not_sent_again(some_agents: Agents) -> None:
    """It may have run."""
    client = some_agents.connect()
    client.set("t:1", 0)
    node = some_agents.cluster.owner("t:1")
    timed = some_agents.connect(socket_timeout=0.5)
    timed.get("t:1")

    node.halt()
    with pytest.raises((redis.exceptions.TimeoutError, RedisConnectionError)):
        timed.incr("t:1")
    node.go_on()

    wait_until(lambda: node.admin.get("t:1") == b"1")
    assert client.incr("t:1") == 2


def test_rules_for_values_and_bytes_hold_on_every_node(some_agents: Agents) -> None:
    """Sizes are those of the node; units of bytes are leased like calls."""
    values = {"max_elements": 3, "max_bytes": "1kb", "ttl": {"max": "1h"}}
    grants = [
        {**grant("read", "write", "delete", keys="t:*"), "values": values},
        {"allow": ["write"], "keys": ["t:*"], "only": ["RESTORE"]},
    ]
    budget = {"bytes_written": "3000b/day"}
    document = keyleash.Policy(policy(agent={"grants": grants, "budget": budget}))
    some_agents.op.load(document, allow_widening=True, allow_unvalidated_restore=True)
    client = some_agents.connect()

    client.rpush("t:1", "a", "b", "c")
    payload = some_agents.cluster.owner("t:1").admin.dump("t:1")
    for key in KEYS[:9]:
        with pytest.raises(keyleash.ValueRefusedError):
            client.sadd(key, "a", "b", "c", "d")
        client.restore(key, 0, payload, replace=True)
        assert 0 < client.pttl(key) <= 3_600_000
    written = 0
    with contextlib.suppress(keyleash.BudgetExhaustedError):
        for number in range(100):
            client.set(f"t:{number % 9}", "x" * 95, keepttl=True)
            written += 100
    assert 1500 <= written <= 3000


def test_limit_of_bytes_that_a_cluster_cannot_count_is_a_located_error(
    some_agents: Agents,
) -> None:
    """Replies are known behind the command, when the unit of a lease is spent."""
    limits = {"budget": {"bytes_read": "1gb/day"}}
    with pytest.raises(keyleash.PolicyError) as error:
        some_agents.load(**limits)
    assert [problem.code for problem in error.value.problems] == ["cluster-bytes"]
