"""Idempotency ids of the client: the same calls with the same ids run once."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest
import redis
import redis.asyncio
from redis.asyncio.retry import Retry as AsyncRetry
from redis.backoff import NoBackoff
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.retry import Retry

import keyleash
from client.twin import BROAD, Piped, Twin, recorded_calls
from keyleash.audit.read import read_events
from keyleash.errors.sentences import reason_of
from support.leash import Leash
from support.proxies import Proxy
from support.servers import RealServer

ONCE: dict[str, Any] = {"idempotency": {"keep": "1h", "max_reply": "64kb"}}
ALL: dict[str, Any] = {**BROAD, **ONCE, "budget": {"writes": "100000/day"}}


@pytest.fixture
def leash(embedded: RealServer) -> Leash:
    leash = Leash(embedded)
    leash.load(one=ALL)
    return leash


class CuttingProxy(Proxy):
    """Loses every second reply to a call of a guard, or half of them: the packet has left."""

    is_cut = False
    is_random = False

    def _fate(self, names: list[bytes]) -> str:
        if b"EVALSHA" not in names:
            return "forward"
        self.is_cut = self._random.random() < 0.5 if self.is_random else not self.is_cut
        return "drop the reply" if self.is_cut else "forward"


@pytest.fixture
def proxy(leash: Leash) -> Iterator[CuttingProxy]:
    proxy = CuttingProxy(leash.server.port, 1)
    yield proxy
    proxy.stop()


def retrying(proxy: Proxy, token: str, **options: Any) -> keyleash.Redis:
    return keyleash.Redis(port=proxy.port, token=token, retry=Retry(NoBackoff(), 99), **options)


def charged(leash: Leash) -> int:
    return leash.used("one")["budget.writes"]


@pytest.mark.parametrize("count", [50, pytest.param(1000, marks=pytest.mark.slow)])
def test_cut_calls_with_ids_run_once(leash: Leash, proxy: CuttingProxy, count: int) -> None:
    """The client sends them again by itself; each is charged and recorded once."""
    agent = retrying(proxy, leash.issue("one").token)
    replies = []
    for number in range(count):
        with keyleash.once(f"n/{number}"):
            replies.append(agent.incr("t:n"))

    assert replies == list(range(1, count + 1))
    assert proxy.fates["drop the reply"] >= count
    assert charged(leash) == count
    assert sum(1 for _ in read_events(leash.store, ["one"])) == count


def test_cut_calls_without_an_id_are_not_sent_again(leash: Leash, proxy: CuttingProxy) -> None:
    """Also in a block, if they only read."""
    agent = retrying(proxy, leash.issue("one").token)

    with pytest.raises(RedisConnectionError):
        agent.incr("t:n")
    assert agent.incr("t:n") == 2
    with pytest.raises(RedisConnectionError), keyleash.once("a"):
        agent.get("t:n")
    with keyleash.once("a"):
        assert agent.get("t:n") == b"2"


@pytest.mark.parametrize("transaction", [True, False])
def test_cut_pipelines_run_once(leash: Leash, proxy: CuttingProxy, transaction: bool) -> None:
    """Of several batches each has an id of its own, and their order is that of the commands."""
    proxy.is_random = True
    agent = retrying(proxy, leash.issue("one").token)
    pipe = agent.pipeline(transaction=transaction, once="p")
    count = 100 if transaction else 300
    for _ in range(count):
        pipe.incr("t:n")

    assert pipe.execute() == list(range(1, count + 1))
    with keyleash.once("q"):
        with agent.batch() as batch:
            batch.incr("t:n")
            batch.set("t:k", "v")
        assert batch.results == [count + 1, True]
    assert charged(leash) == count + 2


def test_pipeline_of_redis_py_runs_once(leash: Leash, proxy: CuttingProxy) -> None:
    """And its client: only the pool is keyleash's."""
    options: dict[str, Any] = {"retry": Retry(NoBackoff(), 3)}
    token = leash.issue("one").token
    pool = keyleash.pool(f"redis://127.0.0.1:{proxy.port}", token, **options)
    agent = redis.Redis(connection_pool=pool)

    with keyleash.once("a"):
        assert agent.incr("t:n") == 1
        with agent.pipeline() as pipe:
            pipe.incr("t:n")
            pipe.incr("t:n")
            assert pipe.execute() == [2, 3]
    pool.disconnect()
    assert charged(leash) == 3


def test_cut_watch_is_not_sent_again(leash: Leash, proxy: CuttingProxy) -> None:
    """A transaction that watches keys has no id."""
    agent = retrying(proxy, leash.issue("one").token)
    proxy.is_cut = True
    with keyleash.once("a"), agent.pipeline() as pipe:
        pipe.watch("t:n")
        pipe.multi()
        pipe.incr("t:n")
        proxy.is_cut = False
        with pytest.raises(redis.RedisError):
            pipe.execute()
    assert leash.admin.get("t:n") in (b"1", None)


def test_cut_calls_of_the_async_client_run_once(leash: Leash, proxy: CuttingProxy) -> None:
    """Of tasks that run at the same time, and of one that coalesces."""
    token = leash.issue("one").token

    async def add(agent: Any, number: int) -> int:
        with keyleash.asyncio.once(f"n/{number}"):
            found: int = await agent.incr("t:n")
            return found

    async def work() -> list[int]:
        replies = []
        for coalesce in (False, True):
            agent = keyleash.asyncio.Redis(
                port=proxy.port, token=token, coalesce=coalesce, retry=AsyncRetry(NoBackoff(), 9)
            )
            numbers = range(10 * coalesce, 10 + 10 * coalesce)
            replies += await asyncio.gather(*(add(agent, number) for number in numbers))
            await agent.aclose()
        return replies

    assert sorted(asyncio.run(work())) == list(range(1, 21))
    assert charged(leash) == 20


def test_ids_of_a_block_are_numbered(leash: Leash) -> None:
    """Calls that only read have none; a block that runs again gets the same replies."""
    agent = leash.agent("one")
    replies = []
    for _ in range(2):
        with keyleash.once("step"):
            agent.get("t:n")
            replies.append([agent.incr("t:n"), agent.incr("t:n"), agent.set("t:k", "v")])
    assert replies == [[1, 2, True]] * 2
    assert agent.execute_command("INCRBY", "t:n", 1, once="step#2") == 2
    with pytest.raises(keyleash.IdempotencyConflictError, match="once='step#3'"):
        agent.execute_command("INCR", "t:n", once="step#3")
    assert agent.incr("t:n") == 3


def test_lock_of_redis_py_within_a_block_has_no_id(leash: Leash) -> None:
    """It is taken and released each time that the block runs, and takes no number."""
    agent = leash.agent("one")
    for _ in range(2):
        with keyleash.once("a"), agent.lock("t:lock", timeout=5):
            assert agent.incr("t:n") == 1
    assert leash.admin.exists("t:lock") == 0


def test_inner_block_has_its_own_ids(leash: Leash) -> None:
    """And the outer one goes on behind it."""
    agent = leash.agent("one")
    with keyleash.once("outer"):
        agent.incr("t:n")
        with keyleash.once("inner"):
            agent.incr("t:n")
        agent.incr("t:n")
    ids = ["outer", "inner", "outer#2"]
    assert [agent.execute_command("INCRBY", "t:n", 1, once=id) for id in ids] == [1, 2, 3]


def test_blocking_call_and_rate_waits_keep_their_id(leash: Leash) -> None:
    """A poll without a result and a denial are not remembered."""
    leash.load(one={**ALL, "rate": {"writes": {"limit": "600/minute", "burst": 1}}})
    agent = leash.agent("one", wait=True)
    leash.admin.rpush("t:l", "x")
    with keyleash.once("a"):
        assert agent.blpop("t:l", timeout=5) == (b"t:l", b"x")
        assert [agent.incr("t:n"), agent.incr("t:n")] == [1, 2]
    with keyleash.once("b"):
        assert agent.blpop("t:l", timeout=0.02) is None
    with keyleash.once("a"):
        assert agent.blpop("t:l", timeout=5) == (b"t:l", b"x")
        assert [agent.incr("t:n"), agent.incr("t:n")] == [1, 2]
    with agent.pipeline(transaction=False, once="p") as pipe:
        for _ in range(3):
            pipe.incr("t:n")
        assert pipe.execute() == [3, 4, 5]
        for _ in range(3):
            pipe.incr("t:n")
        assert pipe.execute() == [3, 4, 5]


@pytest.mark.parametrize("left", [0, 1, 2])
def test_pipeline_that_waits_for_a_rate_runs_once(leash: Leash, left: int) -> None:
    """Calls that are sent again have the same ids, and ids of later calls stay."""
    leash.load(one={**ALL, "rate": {"writes": {"limit": "1200/minute", "burst": 3}}})
    agent = leash.agent("one", wait=True)

    def step() -> list[Any]:
        with keyleash.once("a"):
            with agent.pipeline(transaction=False) as pipe:
                pipe.get("t:other")
                for _ in range(5):
                    pipe.incr("t:n")
                _, *results = pipe.execute()
            return [*results, agent.incr("t:n")]

    for _ in range(3 - left):
        agent.incr("t:other")
    assert [step(), step()] == 2 * [[1, 2, 3, 4, 5, 6]]
    leash.load(one=ALL)
    assert step() == [1, 2, 3, 4, 5, 6]


def test_policy_that_allows_ids_since_is_noticed(leash: Leash) -> None:
    """The client knows a guard that takes none, and looks again before it denies a call."""
    leash.load(one=BROAD)
    agent = leash.agent("one")

    def step() -> list[Any]:
        with keyleash.once("a"), agent.pipeline(transaction=False) as pipe:
            pipe.incr("t:p")
            pipe.incr("t:p")
            return [agent.incr("t:n"), pipe.execute()]

    with pytest.raises(keyleash.CommandRefusedError):
        step()
    leash.load(one=ALL)
    assert [step(), step()] == 2 * [[1, [1, 2]]]


def test_identity_without_idempotency_gets_no_id(leash: Leash) -> None:
    """The client refuses before anything is sent, and names what is missing."""
    leash.load(one=BROAD)
    agent = leash.agent("one")

    with keyleash.once("a"):
        assert agent.get("t:n") is None
        with pytest.raises(keyleash.CommandRefusedError) as denial:
            agent.incr("t:n")
        pipe = agent.pipeline()
        pipe.incr("t:n")
        pipe.incr("t:n")
        with pytest.raises(keyleash.CommandRefusedError):
            pipe.execute()
    assert denial.value.details["once"] == "a"
    assert denial.value.help == "make the call without an id"
    assert "add `idempotency: {keep: 24h}` to `one`" in reason_of(denial.value).operator
    assert leash.refusals("one") == 0
    assert agent.incr("t:n") == 1


@pytest.mark.parametrize("id", ["", 201 * "x", "a\nb", "é"])
def test_malformed_id_is_an_error(id: str) -> None:
    """Before any call."""
    with pytest.raises(ValueError, match="1 to 200 printable"), keyleash.once(id):
        pass


def test_id_that_becomes_too_long_by_its_number_is_an_error(leash: Leash) -> None:
    """Nothing is sent."""
    agent = leash.agent("one")
    with keyleash.once(200 * "x"):
        agent.incr("t:n")
        with pytest.raises(ValueError, match="1 to 200 printable"):
            agent.incr("t:n")
    assert agent.incr("t:n") == 2


def test_id_with_a_token_or_of_another_type_is_an_error(leash: Leash) -> None:
    """The error does not repeat the token."""
    token = leash.issue("one").token
    with pytest.raises(keyleash.SecretInTextError) as error, keyleash.once(f"a {token}"):
        pass
    assert token not in str(error.value)
    with pytest.raises(TypeError, match="must be a str, not int"), keyleash.once(7):  # type: ignore[arg-type]
        pass


def test_long_reply_is_an_error_that_says_that_the_call_was_done(leash: Leash) -> None:
    """Also of a pipeline."""
    leash.load(one={**ALL, "idempotency": {"keep": "1h", "max_reply": "1b"}})
    agent = leash.agent("one")
    with keyleash.once("a"):
        agent.set("t:k", "v")
    with keyleash.once("a"), pytest.raises(keyleash.ReplayedError) as error:
        agent.set("t:k", "v")
    assert "do not repeat it" in str(error.value.help)
    pipe = agent.pipeline(once="p")
    for _ in range(2):
        pipe.incr("t:n")
    assert pipe.execute() == [1, 2]
    for _ in range(2):
        pipe.incr("t:n")
    with pytest.raises(keyleash.ReplayedError):
        pipe.execute()


class Repeated:
    """A client that makes every call twice with one id, and compares what comes back."""

    def __init__(self, client: Any) -> None:
        self._client = client
        self.count = 0
        self.differences: Counter[str] = Counter()

    def execute_command(self, *words: Any) -> Any:
        self.count += 1
        outcomes = []
        for _ in range(2):
            with keyleash.once(f"call-{self.count}"):
                try:
                    outcomes.append(self._client.execute_command(*words))
                except redis.ResponseError as error:
                    outcomes.append(error)
        first, second = outcomes
        if repr(first) != repr(second):
            self.differences[f"{words}: {first!r}, then {second!r}"[:300]] += 1
        if isinstance(first, Exception):
            raise first
        return first


@pytest.mark.parametrize("piped", [False, True], ids=["alone", "piped"])
@pytest.mark.parametrize("protocol", [2, 3])
def test_replayed_reply_equals_the_first(embedded: RealServer, protocol: int, piped: bool) -> None:
    """Of every recorded call of every command that changes something, and the data stays."""
    twin = Twin(embedded, protocol=protocol)
    Leash(embedded).load(one={**BROAD, **ONCE})
    client: Any = Piped(twin.guarded, transaction=True, is_behind=True) if piped else twin.guarded
    repeated = Repeated(client)
    for call in recorded_calls():
        if call.name in twin.commands and twin.guarded._session.may_write(call.words):
            twin.outcome(repeated, call, with_data=False)  # type: ignore[arg-type]

    assert repeated.count > 300
    assert dict(repeated.differences) == {}
    assert Leash(embedded).admin.exists("keyleash:repeats:one") == 1
