"""Clients of clusters: calls over all slots, denials, and replicas."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
import redis
import redis.asyncio

import keyleash
from client.test_errors import assert_unseen
from cluster.conftest import HOME, HOME_SLOT, KEYS, Agents, lent
from support.clusters import RealCluster
from support.leash import grant, policy
from support.replication import PATIENCE_S


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


def test_commands_of_a_slot_run_in_the_order_of_a_long_pipeline(some_agents: Agents) -> None:
    """Also if a batch of it has to fetch a lease, and units are left for the next."""
    client = some_agents.connect()
    for number in range(4):
        key = f"t:{{{number}}}"
        for _ in range(40):
            client.incr(f"{key}warm")
        pipe = client.pipeline()
        for at in range(140):
            pipe.rpush(key, at)
        assert pipe.execute() == [*range(1, 141)]
        found = some_agents.cluster.owner(key).admin.lrange(key, 0, -1)
        assert found == [str(at).encode() for at in range(140)]


def test_pipeline_of_short_batches_is_one_packet_for_each_node(
    some_agents: Agents, agent: Any
) -> None:
    """Only the second batch of a slot waits for the first."""
    some_agents.load()
    sent: list[int] = []
    kind = agent._kind if some_agents.kind == "sync" else agent._inner._kind
    packed = kind._packed

    def counted(self: Any, calls: Any, **options: Any) -> Any:
        sent.append(len(calls))
        return packed(self, calls, **options)

    for words in (None, "count"):
        if words:
            kind._packed = counted
        pipe = agent.pipeline()
        for key in KEYS:
            pipe.get(key)
        pipe.execute()
    assert len(sent) == len(some_agents.cluster.primaries)


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


@pytest.mark.parametrize("reads", [0, 3])
def test_watched_transaction_of_a_small_budget_runs_at_its_first_attempt(
    some_agents: Agents, reads: int
) -> None:
    """A node that has no units fetches them while the keys are watched."""
    some_agents.load(budget={"requests": "200/day", "writes": "50/day"})
    client = some_agents.connect()
    for number in range(6):
        key = KEYS[number % 3]
        pipe = client.pipeline(transaction=True)
        pipe.watch(key)
        for _ in range(reads):
            pipe.get(key)
        pipe.multi()
        pipe.incr(key)
        pipe.incr(key)
        assert pipe.execute() == [number // 3 * 2 + 1, number // 3 * 2 + 2]


async def watch(client: Any) -> None:
    async with client.pipeline(transaction=True) as pipe:
        await pipe.watch("t:1")


@pytest.mark.parametrize(
    "call",
    [
        lambda client: client.pipeline(transaction=True).incr("t:1").execute(),
        watch,
        lambda client: client.get("t:1"),
        lambda client: client.whoami(),
    ],
    ids=["transaction", "watch", "command", "whoami"],
)
def test_connections_are_closed_whatever_the_first_call_was(
    embedded_cluster: RealCluster, call: Callable[[Any], Any]
) -> None:
    """redis-py closes none of a client that has not begun to its knowledge."""
    with lent(embedded_cluster, "async") as agents:

        async def run() -> list[Any]:
            client = agents.connect_async()
            await call(client)
            nodes = client.nodes_manager.nodes_cache.values()
            used = [item for node in nodes for item in node._connections if item.is_connected]
            await client.aclose()
            assert used
            return [item for item in used if item.is_connected]

        assert asyncio.run(run()) == []


def test_watched_transaction_that_is_denied_ends_the_watch(some_agents: Agents) -> None:
    """With the error of the transaction; its connection is used again."""
    some_agents.load(budget={"writes": "2/day"})
    client = some_agents.connect()
    for _ in range(3):
        pipe = client.pipeline(transaction=True)
        pipe.watch("t:1")
        pipe.multi()
        pipe.incr("t:1")
        pipe.incr("t:1")
        pipe.incr("t:1")
        with pytest.raises(keyleash.BudgetExhaustedError):
            pipe.execute()
    client.set("t:1", 7)
    pipe = client.pipeline(transaction=True)
    pipe.watch("t:1")
    pipe.multi()
    pipe.incr("t:1")
    assert pipe.execute() == [8]


def test_watched_transaction_is_not_run_by_its_check(some_agents: Agents, agent: Any) -> None:
    """A change of another client is noticed, and nothing of the transaction is left."""
    pipe = agent.pipeline(transaction=True)
    pipe.watch("t:1")
    some_agents.cluster.owner("t:1").admin.set("t:1", 5)
    pipe.multi()
    pipe.incr("t:1")
    with pytest.raises(redis.WatchError):
        pipe.execute()
    assert some_agents.raw("t:1") == b"5"
    (status,) = some_agents.op.status().identities
    assert status.events == 0


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


@pytest.mark.parametrize("limits", [{}, {"budget": {"requests": "200/day"}}])
def test_lock_of_redis_py_is_taken_and_released(some_agents: Agents, limits: Any) -> None:
    """Its script is replaced by commands on the node of its key, which fetch units as others do."""
    some_agents.load(**limits)

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
    async with agents.connect_async() as client, client.pubsub() as pubsub:
        await pubsub.subscribe("t:channel")
        found: Any = await pubsub.get_message(timeout=PATIENCE_S)
        assert found["type"] == "subscribe"
        await client.publish("t:channel", "x")
        found = await pubsub.get_message(timeout=PATIENCE_S)
        assert found["data"] == b"x"


def test_subscribers_are_counted_at_nodes_that_are_asked(some_agents: Agents, agent: Any) -> None:
    """A subscription is known to one node alone."""
    listening = [node.admin.pubsub() for node in some_agents.cluster.nodes]
    for pubsub in listening:
        pubsub.subscribe("t:channel")
        assert pubsub.get_message(timeout=PATIENCE_S)["type"] == "subscribe"

    # The asyncio client of redis-py 7.0 has no method for it.
    every = {"target_nodes": redis.RedisCluster.PRIMARIES}
    counted = agent.execute_command("PUBSUB NUMSUB", "t:channel", "t:other", **every)
    assert [count for _, count in counted] == [3, 0]
    assert [count for _, count in agent.execute_command("PUBSUB NUMSUB", "t:channel")] == [1]
    with pytest.raises(keyleash.ChannelNotGrantedError):
        agent.execute_command("PUBSUB NUMSUB", "t:channel", "other")
    for pubsub in listening:
        pubsub.close()


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
        agents.load(durability={"wait_replicas": 1, "timeout": "2s"})
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


def test_limit_of_bytes_that_a_cluster_cannot_count_is_a_located_error(some_agents: Agents) -> None:
    """Replies are known behind the command, when the unit of a lease is spent."""
    limits = {"budget": {"bytes_read": "1gb/day"}}
    with pytest.raises(keyleash.PolicyError) as error:
        some_agents.load(**limits)
    (problem,) = error.value.problems
    assert problem.code == "cluster-bytes"
    assert problem.message.endswith("of bytes it counts only `budget: {bytes_written: …}`")
    assert problem.help == "leave it out, or limit calls by `reads`"


def test_client_of_a_cluster_is_guarded_if_it_is_keyleashs(some_agents: Agents) -> None:
    """Others have no leases, and make the connections of new nodes by themselves."""
    module = keyleash if some_agents.kind == "sync" else keyleash.asyncio
    plain = redis if some_agents.kind == "sync" else redis.asyncio
    url = some_agents.cluster.url

    assert keyleash.is_guarded(module.RedisCluster.from_url(url, token=some_agents.token))
    assert not keyleash.is_guarded(plain.RedisCluster.from_url(url))
