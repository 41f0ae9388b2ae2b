"""redis-py's own clients over guarded connections."""

from __future__ import annotations

import asyncio
import contextlib
import random
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from socket import SHUT_WR
from typing import Any

import hiredis
import pytest
import redis
import redis.asyncio
from redis.asyncio.retry import Retry as AsyncRetry
from redis.backoff import AbstractBackoff, NoBackoff
from redis.cache import CacheConfig
from redis.exceptions import ConnectionError, ReadOnlyError, TimeoutError, WatchError
from redis.retry import Retry

import keyleash
from client.alike import Awaited, FakeClock, awaiting
from client.conftest import BROAD
from client.test_errors import assert_unseen
from client.test_fidelity import differences, named, parsers
from client.test_no_retry import FATES, Fate, Proxy, losing_the_reply
from client.twin import Piped, Twin
from support.leash import Leash
from support.redis_py import needs_redis_py_8
from support.replication import PATIENCE_S
from support.servers import RealServer

TRANSPORT = (ConnectionError, TimeoutError, OSError)


class Pooled(Leash):
    """A leash whose agents are redis-py's own clients over guarded pools.

    Attributes:
        retry_class: The Retry of redis-py for its clients.
    """

    retry_class: Any = Retry

    def agent(self, identity: str, **options: Any) -> Any:
        return super().agent(identity, **options)

    def client(self, token: str, **options: Any) -> Any:
        url = f"redis://localhost:{options.pop('port', self.server.port)}"
        return redis.Redis(connection_pool=keyleash.pool(url, token, **options))


class AsyncPooled(Pooled):
    """The same for asyncio."""

    retry_class = AsyncRetry

    def __init__(self, server: RealServer, runner: asyncio.Runner) -> None:
        super().__init__(server)
        self._runner = runner

    def client(self, token: str, **options: Any) -> Any:
        url = f"redis://localhost:{options.pop('port', self.server.port)}"
        pool = keyleash.asyncio.pool(url, token, **options)
        return Awaited(redis.asyncio.Redis(connection_pool=pool), self._runner)


def settled(agent: Any, result: Any) -> Any:
    """Return a result, awaited if it is of an asyncio client's helper."""
    return agent._settled(result) if isinstance(agent, Awaited) else result


@pytest.fixture(params=["sync", "async"])
def leash(request: pytest.FixtureRequest, embedded: RealServer) -> Iterator[Pooled]:
    with awaiting() as runner:
        leash = Pooled(embedded) if request.param == "sync" else AsyncPooled(embedded, runner)
        leash.load(one=BROAD)
        yield leash


@pytest.fixture
def proxy(leash: Leash) -> Iterator[Proxy]:
    with contextlib.closing(Proxy(leash.server.port)) as proxy:
        yield proxy


class PooledTwin(Twin):
    """A raw client and one over a guarded pool with the same options, sync or asyncio."""

    def __init__(self, server: RealServer, runner: asyncio.Runner | None, **options: Any) -> None:
        super().__init__(server, **options)
        token = self.guarded._session._token
        if runner is None:
            base = keyleash.connection_class(token)
            pool = redis.ConnectionPool.from_url(server.url, connection_class=base, **options)
            self.guarded: Any = redis.Redis(connection_pool=pool)
            return
        abase = keyleash.asyncio.connection_class(token)
        apool = redis.asyncio.ConnectionPool.from_url(server.url, connection_class=abase, **options)
        raw = redis.asyncio.Redis.from_url(server.url, **options)
        self.raw: Any = Awaited(raw, runner)
        self.guarded = Awaited(redis.asyncio.Redis(connection_pool=apool), runner)


@pytest.mark.slow
@needs_redis_py_8
@pytest.mark.parametrize("kind", ["sync", "async"])
@pytest.mark.parametrize("options", parsers(), ids=named)
def test_recorded_call_reads_the_same_over_a_guarded_pool(
    embedded: RealServer, options: dict[str, Any], kind: str
) -> None:
    """Value, type and order, alone and in a pipeline, for all options of the pool."""
    with awaiting() as runner:
        twin = PooledTwin(embedded, runner if kind == "async" else None, **options)
        alone = differences(twin, with_data=False)
        twin.raw, twin.guarded = (
            Piped(client, transaction=False) for client in (twin.raw, twin.guarded)
        )
        piped = differences(twin, with_data=False)
    assert alone == []
    assert piped == []


def test_maps_keep_their_order(leash: Pooled) -> None:
    """A program may read the first item of a map."""
    agent = leash.agent("one", protocol=3, decode_responses=True)
    fields: dict[Any, Any] = {f"field{number}": str(number) for number in range(50)}
    agent.hset("t:h", mapping=fields)

    assert list(agent.hgetall("t:h")) == list(fields)


def test_denials_are_raised_by_redis_pys_own_client(leash: Pooled) -> None:
    """Alone, in a transaction with the number of its command, and in a pipeline in its place."""
    agent = leash.agent("one")

    with pytest.raises(keyleash.KeyNotGrantedError):
        agent.get("x")
    with pytest.raises(keyleash.KeyNotGrantedError, match=r"Command # 2 \(GET x\) of pipeline"):
        agent.pipeline().set("t:a", 1).get("x").execute()
    assert agent.get("t:a") is None
    done, denied, again = (
        agent.pipeline(transaction=False)
        .set("t:a", 1)
        .get("x")
        .get("t:a")
        .execute(raise_on_error=False)
    )
    assert (done, type(denied), again) == (True, keyleash.KeyNotGrantedError, b"1")


def test_long_pipeline_runs_in_order(leash: Pooled) -> None:
    """Its commands are several calls of the guard."""
    pipe = leash.agent("one").pipeline(transaction=False)
    for _ in range(1000):
        pipe.incr("t:n")

    assert pipe.execute() == list(range(1, 1001))


def test_lost_scripts_and_new_policies_are_recovered(leash: Pooled) -> None:
    """Alone, in a pipeline and in a transaction."""
    agent = leash.agent("one")
    for disturb in (leash.admin.script_flush, lambda: leash.load(one={**BROAD, "rate": {}})):
        for call in (
            lambda: agent.incr("t:n"),
            lambda: agent.pipeline().incr("t:n").execute(),
            lambda: agent.pipeline(transaction=False).incr("t:n").get("t:n").execute(),
        ):
            disturb()
            call()  # type: ignore[no-untyped-call]

    assert agent.get("t:n") == b"6"


def test_blocking_command_waits_for_an_element(leash: Pooled) -> None:
    """And returns None at its timeout."""
    agent = leash.agent("one")
    assert agent.blpop("t:list", timeout=0.05) is None

    later = threading.Timer(0.1, lambda: leash.admin.rpush("t:list", "x"))
    later.start()
    assert agent.blpop("t:list", timeout=10) == (b"t:list", b"x")
    assert agent.xread({"t:s": "$"}, block=50) in (None, [], {})


def test_call_that_waits_for_its_rate_limit_runs_later(leash: Pooled) -> None:
    """`wait=` of a pool is that of the client."""
    leash.load(one={**BROAD, "rate": {"writes": {"limit": "20/second", "burst": 1}}})
    agent = leash.agent("one", wait=5)

    for _ in range(3):
        assert agent.incr("t:n")
    assert agent.get("t:n") == b"3"


@pytest.mark.parametrize(("fate", "error"), FATES, ids=[fate.name for fate, _ in FATES])
@pytest.mark.parametrize("how", ["alone", "pipeline", "transaction", "watched"])
def test_call_whose_reply_is_lost_ran_once(
    leash: Pooled, proxy: Proxy, fate: Fate, error: type[Exception], how: str
) -> None:
    """Whatever the retry policy. A lost EXEC is no lost watch, after which callers repeat it."""
    eager = leash.retry_class(NoBackoff(), 3, supported_errors=TRANSPORT)
    agent = leash.agent("one", port=proxy.port, retry=eager, socket_timeout=PATIENCE_S)
    agent.pipeline().ping().execute()

    pipe = agent.pipeline(transaction=how != "pipeline")
    if how == "watched":
        pipe.watch("t:other")
        pipe.multi()
    pipe.incr("t:marked")
    with losing_the_reply(pipe, proxy, fate), pytest.raises(error):
        agent.incr("t:marked") if how == "alone" else pipe.execute()

    assert leash.admin.get("t:marked") == b"1"
    assert len(leash.events("one")) == 1
    assert agent.incr("t:marked") == 2
    assert agent.get("t:other") is None


def test_late_reply_to_wait_does_not_reach_the_next_call(leash: Pooled, proxy: Proxy) -> None:
    """The write is not repeated, and the next call gets its own reply."""
    leash.load(one={**BROAD, "durability": {"wait_replicas": 1, "timeout": "100ms"}})
    agent = leash.agent("one", port=proxy.port, socket_timeout=2)

    with pytest.raises(keyleash.NotReplicatedError) as caught:
        # The proxy passes on the reply to WAIT after the next request only.
        agent.incr("t:n")

    assert caught.value.replicas is None
    assert agent.get("t:n") == b"1"


def test_reply_that_says_that_nothing_ran_follows_the_retry_policy(leash: Pooled) -> None:
    """A replica may become the primary meanwhile."""
    retry = leash.retry_class(NoBackoff(), 3, supported_errors=(ReadOnlyError,))
    agent = leash.agent("one", retry=retry, retry_on_error=[ReadOnlyError])
    agent.set("t:a", 1)
    leash.admin.replicaof("127.0.0.1", 1)
    leash.admin.config_resetstat()
    try:
        with pytest.raises(ReadOnlyError):
            agent.set("t:a", 2)
    finally:
        leash.admin.replicaof("NO", "ONE")

    assert leash.admin.info("commandstats")["cmdstat_evalsha"]["calls"] == 4
    assert agent.set("t:a", 3)


class Meanwhile(AbstractBackoff):
    """Does something before each new attempt, and does not wait."""

    def __init__(self, do: Callable[[], Any]) -> None:
        self._do = do

    def compute(self, failures: int) -> float:
        self._do()
        return 0


@pytest.mark.parametrize("transaction", [False, True])
def test_pipeline_that_is_repeated_reads_its_own_replies(leash: Pooled, transaction: bool) -> None:
    """It reconnects while it sends, and reads the replies to what that sends."""
    promoting = Meanwhile(lambda: leash.admin.replicaof("NO", "ONE"))
    retry = leash.retry_class(promoting, 1, supported_errors=(ReadOnlyError,))
    agent = leash.agent("one", retry=retry, retry_on_error=[ReadOnlyError])
    agent.set("t:n", 1)
    leash.admin.replicaof("127.0.0.1", 1)

    pipe = agent.pipeline(transaction=transaction).incr("t:n").get("t:n")
    assert pipe.execute() == [2, b"2"]
    assert agent.get("t:n") == b"2"


@pytest.mark.parametrize("how", ["pipeline", "transaction", "long pipeline"])
def test_pipeline_of_which_a_part_ran_is_not_repeated(leash: Pooled, how: str) -> None:
    """Whatever error the caller's policy repeats a call for."""
    retry = leash.retry_class(NoBackoff(), 3, supported_errors=(Exception,))
    agent = leash.agent("one", retry=retry)
    agent.set("t:text", "x")
    pipe = agent.pipeline(transaction=how == "transaction")
    for _ in range(300 if how == "long pipeline" else 1):
        pipe.incr("t:n")
    pipe.incr("t:text")

    with pytest.raises(redis.ResponseError, match=r"\(INCRBY t:text 1\)"):
        pipe.execute()
    assert leash.admin.get("t:n") == (b"300" if how == "long pipeline" else b"1")


@pytest.mark.parametrize("transaction", [False, True])
def test_pipeline_on_an_idle_connection_is_preceded_by_a_health_check(
    leash: Pooled, transaction: bool
) -> None:
    """As redis-py's: a connection that the server closed is replaced before anything is sent."""
    agent = leash.agent("one", health_check_interval=60)
    agent.set("t:n", 1)
    leash.admin.config_resetstat()
    for connection in agent.connection_pool._available_connections:
        connection.next_health_check = 0

    assert agent.pipeline(transaction=transaction).incr("t:n").get("t:n").execute() == [2, b"2"]
    assert leash.admin.info("commandstats")["cmdstat_ping"]["calls"] == 1


def test_write_that_was_not_replicated_is_not_repeated(leash: Pooled) -> None:
    """Whatever error the caller's policy repeats a call for: it has run."""
    leash.load(one={**BROAD, "durability": {"wait_replicas": 1, "timeout": "1ms"}})
    retry = leash.retry_class(NoBackoff(), 3, supported_errors=(Exception,))

    with pytest.raises(keyleash.NotReplicatedError):
        leash.agent("one", retry=retry).incr("t:n")
    assert leash.admin.get("t:n") == b"1"


def test_transaction_whose_watch_is_lost_is_not_repeated_without_it(leash: Pooled) -> None:
    """redis-py would repeat it in place if its policy repeats every error."""
    retry = leash.retry_class(NoBackoff(), 3, supported_errors=(Exception,))
    pipe = leash.agent("one", retry=retry).pipeline()
    pipe.watch("t:a")
    pipe.multi()
    pipe.set("t:b", 1)
    leash.admin.set("t:a", "x")

    with pytest.raises(WatchError):
        pipe.execute()
    assert leash.admin.get("t:b") is None


def test_concurrent_transactions_with_a_watch_lose_no_update(embedded: RealServer) -> None:
    """20 writers read, modify and write one counter; aborted ones are not recorded or charged."""
    leash = Pooled(embedded)
    leash.load(one={**BROAD, "budget": {"writes": "1000000/day"}})
    leash.admin.set("t:n", 0)
    rounds = 25

    def add_one(pipe: Any) -> None:
        value = int(pipe.get("t:n"))
        pipe.multi()
        pipe.set("t:n", value + 1)

    def add(_: int) -> None:
        agent = leash.agent("one")
        for _ in range(rounds):
            agent.transaction(
                lambda pipe: (
                    value := int(pipe.get("t:n")),
                    pipe.multi(),
                    pipe.set("t:n", value + 1),
                ),
                "t:n",
            )

    with ThreadPoolExecutor(20) as threads:
        list(threads.map(add, range(20)))

    assert leash.admin.get("t:n") == b"%d" % (20 * rounds)
    assert len(leash.events("one")) == 20 * rounds


def test_watched_key_that_changes_aborts_without_an_event(leash: Pooled) -> None:
    """Also if the script was lost meanwhile."""
    agent = leash.agent("one")
    for disturb in (lambda: leash.admin.set("t:a", "x"), leash.admin.script_flush):
        pipe = agent.pipeline()
        pipe.watch("t:a")
        pipe.multi()
        pipe.set("t:b", 1)
        disturb()
        with pytest.raises(WatchError):
            pipe.execute()
        pipe.reset()
    assert leash.events("one") == []
    assert leash.admin.get("t:b") is None
    assert agent.pipeline().set("t:b", 1).execute() == [True]


def test_rate_limited_transaction_with_a_watch_is_not_repeated_without_it(leash: Pooled) -> None:
    """It waits, and then the caller reads the watched key again."""
    leash.load(one={**BROAD, "rate": {"writes": {"limit": "1/hour", "burst": 1}}})
    agent = leash.agent("one", wait=True)
    FakeClock(agent).at[0] = lambda: leash.load(one=BROAD)
    agent.set("t:a", 1)
    pipe = agent.pipeline()
    pipe.watch("t:a")
    value = int(pipe.get("t:a"))
    pipe.multi()
    pipe.set("t:a", value + 1)

    with pytest.raises(WatchError):
        pipe.execute()
    assert leash.admin.get("t:a") == b"1"


def test_rate_limited_transaction_with_a_watch_goes_on_after_some_attempts(leash: Pooled) -> None:
    """Each attempt watches and reads first, which would use up all that it waited for."""
    leash.load(one={**BROAD, "rate": {"requests": {"limit": "10/second", "burst": 4}}})
    agent = leash.agent("one", wait=True)
    for _ in range(4):
        agent.get("t:a")

    for _ in range(9):
        pipe = agent.pipeline()
        pipe.watch("t:a")
        value = int(pipe.get("t:a") or 0)
        pipe.multi()
        pipe.set("t:a", value + 1)
        with contextlib.suppress(WatchError):
            pipe.execute()
            break
    assert leash.admin.get("t:a") == b"1"


def test_watch_needs_a_grant_on_its_keys(leash: Pooled) -> None:
    """A watch shows when a key changes."""
    pipe = leash.agent("one").pipeline()
    with pytest.raises(keyleash.KeyNotGrantedError):
        pipe.watch("x")
    pipe.reset()


@pytest.mark.parametrize(
    ("call", "named_reason"),
    [
        (lambda agent: agent.register_script("return 1")(), "script"),
        (lambda agent: agent.client_kill("127.0.0.1:1"), "CLIENT"),
        (lambda agent: agent.execute_command("MONITOR"), "MONITOR"),
        (lambda agent: agent.flushdb(), "FLUSHDB"),
        (lambda agent: agent.execute_command("AUTH", "x"), "AUTH"),
        (lambda agent: agent.execute_command("SELECT", "1"), "SELECT"),
        (lambda agent: agent.execute_command("HELLO", "3"), "HELLO"),
    ],
)
def test_what_no_guard_can_check_is_denied(
    leash: Pooled, call: Callable[[Any], Any], named_reason: str
) -> None:
    """Also what redis-py itself sends when it connects."""
    agent = leash.agent("one")

    with pytest.raises(keyleash.CommandRefusedError, match=named_reason):
        settled(agent, call(agent))


def test_own_commands_of_a_connection_are_sent_as_they_are(leash: Pooled) -> None:
    """They concern it alone."""
    agent = leash.agent("one", client_name="job", max_connections=1)

    assert agent.client_getname() in (b"job", "job")
    assert agent.client_setname("other")
    assert isinstance(agent.client_id(), int)


def test_bytes_that_another_client_packed_go_through_the_guard(embedded: RealServer) -> None:
    """Their replies and denials are those of the same commands as words."""
    leash = Pooled(embedded)
    leash.load(one=BROAD)
    connection = leash.agent("one").connection_pool.get_connection()
    packed = redis.Connection().pack_commands(
        [("SET", "t:a", "1"), ("get", "other"), ("INCR", "t:a"), ("MULTI",), ("DEL", "t:a")]
    )

    connection.send_packed_command([*packed, hiredis.pack_command(("EXEC",))])

    assert connection.read_response() in (b"OK", "OK")
    with pytest.raises(keyleash.KeyNotGrantedError, match="other"):
        connection.read_response()
    assert connection.read_response() == 2
    assert [connection.read_response() for _ in range(2)] in ([b"OK", b"QUEUED"], ["OK", "QUEUED"])
    assert connection.read_response() == [1]
    connection.send_packed_command(b"*1\r\n$4\r\nPING\r\n")
    assert connection.read_response() in (b"PONG", "PONG")


@pytest.mark.parametrize(
    "packed",
    [b"", b"PING\r\n", b"*1\r\n$4\r\nPI", b"*1\r\n$4\r\nPING\r\n#f\r\n", b"*0\r\n", b"*1\r\n:1\r\n",
     b"*1\r\n*1\r\n$4\r\nPING\r\n", b"-ERR\r\n", [b"*1\r\n$4\r\nPING\r\n", 7], 7],
)  # fmt: skip
def test_bytes_that_are_not_whole_commands_are_denied(embedded: RealServer, packed: Any) -> None:
    """Nothing of them is sent, and the connection stays usable."""
    leash = Pooled(embedded)
    leash.load(one=BROAD)
    connection = leash.agent("one").connection_pool.get_connection()

    with pytest.raises(keyleash.CommandRefusedError, match="whole commands"):
        connection.send_packed_command(packed)

    connection.send_command("PING")
    assert connection.read_response() in (b"PONG", "PONG")


@pytest.mark.parametrize("is_transaction", [False, True])
def test_pipeline_with_names_in_bytes_is_the_same_call(
    embedded: RealServer, packets: list[bytes], is_transaction: bool
) -> None:
    """Its commands are sent as a run, in one packet."""
    leash = Pooled(embedded)
    leash.load(one=BROAD)
    agent = leash.agent("one")
    agent.get("t:a")
    sent = []
    for name in ("SET", b"SET"):
        packets.clear()
        with keyleash.correlation("job"), agent.pipeline(transaction=is_transaction) as pipe:
            for number in range(3):
                pipe.execute_command(name, f"t:{number}", "x")
            assert len(pipe.execute()) == 3
        sent.append([*packets])

    assert sent[0] == sent[1]
    assert len(sent[0]) == 1
    assert b"3*3" in sent[0][0]


def test_connections_of_one_pool_have_sources_of_their_own(embedded: RealServer) -> None:
    """A program that makes calls for others sets the source of each connection."""
    leash = Pooled(embedded)
    leash.load(one={**BROAD, "audit": {"source": True}})
    pool = leash.agent("one").connection_pool
    connections = [pool.get_connection() for _ in range(3)]
    for connection, origin in zip(connections, ("10.0.0.7:51234", "unix", ""), strict=True):
        connection._dialogue.caller.origin = origin
    for connection in (*connections, *connections):
        connection.send_command("SET", "t:a", "x")
        assert connection.read_response() in (b"OK", "OK")
        connection.disconnect()

    events = leash.events("one")
    assert [event["source"] for event in events] == ["10.0.0.7:51234", "unix", ""] * 2
    assert not any("\n" in event["correlation"] for event in events)


def test_half_read_replies_are_not_read_by_the_next_user(embedded: RealServer) -> None:
    """A connection that comes back with replies due is closed."""
    leash = Pooled(embedded)
    leash.load(one=BROAD)
    agent = leash.agent("one", max_connections=1)
    agent.mset({"t:a": "a", "t:b": "b"})
    pool = agent.connection_pool
    for send in (
        lambda connection: connection.send_command("GET", "t:a"),
        lambda connection: connection.send_packed_command(
            connection.pack_commands([("GET", "t:a"), ("GET", "t:a")])
        ),
    ):
        connection = pool.get_connection()
        send(connection)  # type: ignore[no-untyped-call]
        pool.release(connection)

        assert agent.get("t:b") == b"b"


@pytest.mark.parametrize("protocol", [2, 3])
def test_connection_that_was_left_subscribed_is_not_handed_out(
    leash: Pooled, protocol: int
) -> None:
    """A message is no reply to the next user's command, and no error either."""
    leash.load(one={"grants": [*BROAD["grants"], {"allow": ["subscribe"], "channels": ["ev:*"]}]})
    agent = leash.agent("one", protocol=protocol)
    agent.set("t:a", 1)

    for _ in range(20):
        agent.execute_command("SUBSCRIBE", "ev:a")
        leash.admin.publish("ev:a", "message")
        assert agent.get("t:a") == b"1"


def test_cancelled_tasks_leave_no_reply_to_others(embedded: RealServer) -> None:
    """Each reads the value of its own key, whatever was cancelled on its connection before."""
    leash = Pooled(embedded)
    leash.load(one=BROAD)
    leash.admin.mset({f"t:{number}": number for number in range(50)})
    token = leash.issue("one").token
    generator = random.Random(1)

    async def storm() -> None:
        pool = keyleash.asyncio.pool(embedded.url, token, max_connections=5)
        agent: Any = redis.asyncio.Redis(
            connection_pool=redis.asyncio.BlockingConnectionPool.from_url(
                embedded.url, connection_class=pool.connection_class, max_connections=5
            )
        )

        async def read(number: int) -> None:
            if number % 2:
                assert await agent.get(f"t:{number}") == b"%d" % number
            else:
                pipe = agent.pipeline(transaction=False).get(f"t:{number}").get("t:1")
                assert await pipe.execute() == [b"%d" % number, b"1"]

        for _ in range(40):
            tasks = [asyncio.ensure_future(read(number)) for number in range(20)]
            await asyncio.sleep(generator.random() / 200)
            for task in generator.sample(tasks, 5):
                task.cancel()
            for result in await asyncio.gather(*tasks, return_exceptions=True):
                assert result is None or isinstance(result, asyncio.CancelledError)
        await agent.aclose(close_connection_pool=True)

    asyncio.run(storm())


def test_unwatch_inside_a_transaction_is_denied_and_nothing_runs(leash: Pooled) -> None:
    """It would be a command of the batch, where it has no effect."""
    pipe = leash.agent("one").pipeline()
    pipe.watch("t:a")
    pipe.multi()
    pipe.set("t:b", 1)
    pipe.execute_command("UNWATCH")

    with pytest.raises(keyleash.CommandRefusedError, match="UNWATCH"):
        pipe.execute()
    assert leash.admin.get("t:b") is None


def test_token_is_shown_by_no_pool_or_client(leash: Pooled) -> None:
    """Their repr has the options of connections."""
    token = leash.issue("one").token
    agent = leash.client(token)
    agent.ping()

    assert token not in f"{agent!r} {agent.connection_pool!r} {vars(agent.connection_pool)!r}"


@needs_redis_py_8
@pytest.mark.parametrize("kind", [keyleash.Redis, keyleash.asyncio.Redis])
def test_monitor_and_push_handlers_are_denied_with_their_reason(kind: Any) -> None:
    """When they are made, not when nothing comes."""
    client = kind(token="kl_one_x")
    with pytest.raises(keyleash.CommandRefusedError, match="commands of all clients"):
        client.monitor()
    with pytest.raises(keyleash.CommandRefusedError, match="no push messages"):
        client.pubsub(push_handler_func=print)


def test_client_side_cache_is_denied_with_its_reason(embedded: RealServer) -> None:
    """By the pool's maker, and by a pool that was given the class."""
    leash = Pooled(embedded)
    leash.load(one=BROAD)
    token = leash.issue("one").token
    with pytest.raises(keyleash.CommandRefusedError, match="cached"):
        keyleash.pool(embedded.url, token, cache_config=CacheConfig(), protocol=3)
    pool = redis.ConnectionPool.from_url(
        embedded.url,
        connection_class=keyleash.connection_class(token),
        cache_config=CacheConfig(),
        protocol=3,
    )
    with pytest.raises(keyleash.CommandRefusedError, match="cached"):
        redis.Redis(connection_pool=pool).get("t:a")


def test_token_comes_from_the_environment_or_a_callable(
    embedded: RealServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As for `keyleash.Redis`; a callable is asked again when the token is over."""
    leash = Pooled(embedded)
    leash.load(one=BROAD)
    first, second = leash.issue("one"), leash.issue("one")
    monkeypatch.setenv("KEYLEASH_TOKEN", first.token)
    assert redis.Redis(connection_pool=keyleash.pool(embedded.url)).set("t:a", 1)

    tokens = iter([first.token, second.token])
    agent = redis.Redis(connection_pool=keyleash.pool(embedded.url, lambda: next(tokens)))
    assert agent.set("t:a", 1)
    keyleash.Operator(leash.admin).tokens.revoke(first.id)
    assert agent.set("t:a", 2)


def test_wrong_base_is_a_type_error() -> None:
    """Of the other kind of client, or no connection at all."""
    token = f"kl_one_{'A' * 32}"
    wrong: list[tuple[Any, Any]] = [
        (keyleash.connection_class, redis.asyncio.Connection),
        (keyleash.connection_class, redis.Redis),
        (keyleash.asyncio.connection_class, redis.Connection),
    ]
    for make, base in wrong:
        with pytest.raises(TypeError, match="base must be a connection class"):
            make(token, base)


def test_pool_of_the_other_kind_of_client_is_a_type_error_at_once() -> None:
    """It would fail late, when a coroutine is taken for a connection."""
    token, url = f"kl_one_{'A' * 32}", "redis://localhost"
    makers: list[tuple[Any, dict[str, Any]]] = [
        (keyleash.Redis, {"connection_pool": keyleash.asyncio.pool(url, token)}),
        (keyleash.asyncio.Redis, {"connection_pool": keyleash.pool(url, token)}),
        (keyleash.Redis, {"connection_pool": redis.asyncio.ConnectionPool(), "token": token}),
        (keyleash.asyncio.Redis, {"connection_pool": redis.ConnectionPool(), "token": token}),
    ]
    for make, options in makers:
        with pytest.raises(TypeError, match="needs a pool of its own kind"):
            make(**options)
    for make_pool, pool_class in (
        (keyleash.pool, redis.asyncio.ConnectionPool),
        (keyleash.asyncio.pool, redis.ConnectionPool),
    ):
        wrong: Any = pool_class
        with pytest.raises(TypeError, match="pool_class must be a pool class"):
            make_pool(url, token, pool_class=wrong)


def test_coalesce_of_a_pool_or_of_the_sync_client_is_a_type_error_at_once() -> None:
    """Only the asyncio client gathers the commands of tasks."""
    token, url = f"kl_one_{'A' * 32}", "redis://localhost"
    makers: list[Any] = [
        lambda: keyleash.pool(url, token, coalesce=True),
        lambda: keyleash.asyncio.pool(url, token, coalesce=True),
        lambda: keyleash.Redis(token=token, coalesce=True),
        lambda: keyleash.Redis.from_url(url, token=token, coalesce=True),
        lambda: keyleash.RedisCluster.from_url(url, token=token, coalesce=True),
    ]
    for make in makers:
        with pytest.raises(TypeError, match=r"of the clients of `keyleash\.asyncio`"):
            make()


def test_unix_sockets_and_tls_have_guarded_classes() -> None:
    """By the scheme of the URL."""
    token = f"kl_one_{'A' * 32}"

    assert issubclass(
        keyleash.pool("unix:///tmp/x", token).connection_class, redis.UnixDomainSocketConnection
    )
    assert issubclass(
        keyleash.pool("rediss://localhost", token).connection_class, redis.SSLConnection
    )


def test_pool_of_guarded_connections_serves_a_client_of_ours(one_leash: Leash) -> None:
    """It has the token already; another one, or an option of it, would not be used."""
    pool = keyleash.pool(one_leash.server.url, one_leash.issue("one").token)
    client = keyleash.Redis(connection_pool=pool)
    assert client.set("t:a", 1) is True
    assert client.connection_pool is pool
    assert client.whoami().identity == "one"

    for options in ({"token": one_leash.issue("one").token}, {"wait": True}, {"correlation": "x"}):
        with pytest.raises(TypeError, match="have a token"):
            keyleash.Redis(connection_pool=pool, **options)
    with pytest.raises(TypeError, match="`token` is required"):
        keyleash.Redis(port=one_leash.server.port)


def test_transaction_of_a_single_connection_is_held_until_exec(leash: Pooled) -> None:
    """redis-py asks after each command whether to connect again; that would forget it."""
    token = leash.issue("one").token
    kind = keyleash.asyncio.Redis if isinstance(leash, AsyncPooled) else keyleash.Redis
    single: Any = kind(port=leash.server.port, token=token, single_connection_client=True)
    agent = Awaited(single, leash._runner) if isinstance(leash, AsyncPooled) else single

    assert agent.execute_command("MULTI") in (b"OK", True)
    assert agent.execute_command("INCR", "t:n") == b"QUEUED"
    agent.execute_command("DISCARD")
    assert leash.admin.get("t:n") is None
    with pytest.raises(redis.ResponseError, match="wrong number of arguments for 'multi'"):
        agent.execute_command("MULTI", "t:n")


@pytest.mark.parametrize("protocol", [2, 3])
def test_transaction_that_is_left_open_does_not_reach_the_next_user(
    leash: Pooled, protocol: int
) -> None:
    """A pool given RESP3 does not look whether there is something to read."""
    agent = leash.agent("one", protocol=protocol)
    agent.execute_command("MULTI")
    assert agent.set("t:a", 1) is True
    assert leash.admin.get("t:a") == b"1"
    (agent.aclose if isinstance(agent, Awaited) else agent.close)()


def test_pipeline_that_another_thread_disconnects_is_not_sent_again(one_leash: Leash) -> None:
    """Its replies were read in part; whatever the retry policy, it has run."""
    client = keyleash.Redis(port=one_leash.server.port, token=one_leash.issue("one").token)

    def disconnect(reply: Any, **_: Any) -> Any:
        thread = threading.Thread(target=client.connection_pool.disconnect)
        thread.start()
        thread.join()
        return reply

    client.set_response_callback("INCRBY", disconnect)
    pipe = client.pipeline(transaction=False)
    for _ in range(10):
        pipe.incr("t:n")
    with pytest.raises(ConnectionError, match="before the reply was read"):
        pipe.execute()
    assert one_leash.admin.get("t:n") == b"10"


@pytest.mark.parametrize(
    ("method", "arguments"),
    [
        ("lcs", ("idx", "t:b")),
        ("hrandfield", ("withvalues", 2)),
        ("zrange", ("withscores", 0, -1)),
        ("zrandmember", ("withscores", 1)),
        ("zunion", (["withscores"],)),
        ("geosearch", ("t:g",)),
    ],
)
def test_key_or_member_that_looks_like_an_option_is_none(
    embedded: RealServer, method: str, arguments: tuple[Any, ...]
) -> None:
    """The reply has the shape of the call as it is."""
    leash = Leash(embedded)
    leash.load(one={"grants": [{"allow": ["read"], "keys": ["*"]}]})
    admin = leash.admin
    admin.set("idx", "abc")
    admin.set("t:b", "xbc")
    admin.hset("withvalues", mapping={"a": 1})
    admin.zadd("withscores", {"a": 1})
    admin.geoadd("t:g", (13.4, 52.5, "withcoord"))
    options = {}
    if method == "geosearch":
        options = {"member": "withcoord", "radius": 10, "unit": "km"}
    guarded = redis.Redis(connection_pool=keyleash.pool(embedded.url, leash.issue("one").token))
    with redis.Redis.from_url(embedded.url) as raw:
        expected = getattr(raw, method)(*arguments, **options)
    assert getattr(guarded, method)(*arguments, **options) == expected


def test_send_that_fails_does_not_show_the_token(one_leash: Leash) -> None:
    """Frames of redis-py have the request in local variables, which error reports may show."""
    token = one_leash.issue("one").token
    client = keyleash.Redis(port=one_leash.server.port, token=token, single_connection_client=True)
    client.ping()
    socket: Any = client.connection
    socket._sock.shutdown(SHUT_WR)

    with pytest.raises(ConnectionError) as caught:
        client.set("t:a", 1)
    assert_unseen(token, caught.value)
    assert caught.value.__context__ is None


def test_denied_watch_names_the_command_that_was_sent(leash: Pooled) -> None:
    """Its keys are checked by another one."""
    with pytest.raises(keyleash.KeyNotGrantedError) as denied:
        leash.agent("one").transaction(lambda pipe: None, "x:a")
    assert denied.value.details == {"key": "x:a"}


def test_connect_callback_may_send_guarded_commands(embedded: RealServer) -> None:
    """`redis_connect_func` of a pool takes the place of redis-py's own handshake."""
    leash = Pooled(embedded)
    leash.load(one=BROAD)

    def connected(connection: Any) -> None:
        connection.on_connect()
        for words in (("INCR", "t:connects"), ("CLIENT", "SETNAME", "job"), ("GET", "t:connects")):
            connection.send_command(*words)
            connection.read_response()

    agent = leash.agent("one", redis_connect_func=connected, max_connections=1)
    for _ in range(2):
        assert agent.get("t:connects") == b"1"
        assert agent.pipeline().set("t:a", 1).get("t:a").execute() == [True, b"1"]
    assert agent.client_getname() in (b"job", "job")
    agent.connection_pool.disconnect()
    assert agent.get("t:connects") == b"2"


def test_async_connect_callback_may_send_guarded_commands(embedded: RealServer) -> None:
    """The same with asyncio."""
    with awaiting() as runner:
        leash = AsyncPooled(embedded, runner)
        leash.load(one=BROAD)

        async def connected(connection: Any) -> None:
            await connection.on_connect()
            await connection.send_command("INCR", "t:connects")
            await connection.read_response()

        agent = leash.agent("one", redis_connect_func=connected, max_connections=1)
        for _ in range(2):
            assert agent.get("t:connects") == b"1"


def test_denial_in_a_connect_callback_is_raised_by_the_call(embedded: RealServer) -> None:
    """It says why no connection is made."""
    leash = Pooled(embedded)
    leash.load(one=BROAD)

    def connected(connection: Any) -> None:
        connection.on_connect()
        connection.send_command("GET", "x")
        connection.read_response()

    agent = leash.agent("one", redis_connect_func=connected)
    for _ in range(2):
        with pytest.raises(keyleash.KeyNotGrantedError):
            agent.get("t:a")


@pytest.mark.parametrize("how", ["alone", "pipeline", "transaction"])
@pytest.mark.parametrize("own", [False, True], ids=["pool", "keyleash"])
def test_callback_that_raises_a_connection_error_repeats_nothing(
    one_leash: Leash, how: str, own: bool
) -> None:
    """The command has run: redis-py alone would take the error for one of the connection."""
    token = one_leash.issue("one").token
    retry = Retry(NoBackoff(), 3)
    pool = keyleash.pool(one_leash.server.url, token, retry=retry)
    client = keyleash.Redis.from_pool(pool) if own else redis.Redis(connection_pool=pool)

    def fail(reply: Any, **_: Any) -> Any:
        raise ConnectionError("of the callback")

    client.set_response_callback("INCRBY", fail)
    pipe: Any = client.pipeline(transaction=how == "transaction").incr("t:n")
    with pytest.raises(ConnectionError, match="of the callback"):
        client.incr("t:n") if how == "alone" else pipe.execute()

    assert one_leash.admin.get("t:n") == b"1"
    assert client.get("t:n") == b"1"


@pytest.mark.parametrize(
    "nested", ["WATCH t:a", "WATCH", "MULTI", "MULTI x", "UNWATCH x", "DISCARD x", "EXEC x"]
)
def test_error_inside_multi_aborts_where_the_server_aborts(server: RealServer, nested: str) -> None:
    """Replies equal those of a raw connection; servers differ."""
    leash = Pooled(server)
    leash.load(one=BROAD)
    pool = keyleash.pool(server.url, leash.issue("one").token)
    commands = [
        ("MULTI",),
        ("SET", "t:x", "1"),
        tuple(nested.split()),
        ("EXEC",),
        ("EXISTS", "t:x"),
    ]

    def replies(connection: Any, *, packed: bool) -> list[Any]:
        found: list[Any] = []
        leash.admin.delete("t:x")
        if packed:
            connection.send_packed_command(connection.pack_commands(commands))
        for words in commands:
            try:
                if not packed:
                    connection.send_command(*words)
                found.append(connection.read_response())
            except redis.ResponseError as error:
                found.append((type(error), str(error)))
        return found

    with contextlib.closing(redis.Redis.from_url(server.url)) as raw:
        for packed in (False, True):
            wanted = replies(raw.connection_pool.get_connection(), packed=packed)
            assert replies(pool.get_connection(), packed=packed) == wanted
