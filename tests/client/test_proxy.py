"""Nothing runs twice, and no reply reaches another caller, behind a proxy that loses and fakes.

KEYLEASH_ROUNDS=1000 pytest tests/client/test_proxy.py   # as `make proxy`, with a new seed
"""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import itertools
import random
from collections import Counter
from collections.abc import Coroutine, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import redis
import redis.asyncio
from redis.asyncio.retry import Retry as AsyncRetry
from redis.backoff import NoBackoff
from redis.exceptions import (
    BusyLoadingError,
    ConnectionError,
    ReadOnlyError,
    RedisError,
    TimeoutError,
)
from redis.retry import Retry

import keyleash
from client.conftest import BROAD
from keyleash.audit.read import read_events
from support.leash import Leash
from support.proxies import ROUNDS, SEED, TIMEOUT_S, Proxy, rounds
from support.servers import RealServer

THREADS = 3
TASKS = 8
READABLE = 20
LOST = (ConnectionError, TimeoutError)


class Ledger:
    """The outcome of each value that was to be appended to a list once.

    Attributes:
        done: The reply acknowledges them.
        failed: The reply says that nothing ran.
        open: There was no reply, so they were appended once or not at all.
        numbers: The replies of acknowledged calls that no two calls can have in common.
    """

    def __init__(self) -> None:
        self.done: list[bytes] = []
        self.failed: list[bytes] = []
        self.open: list[bytes] = []
        self.numbers: dict[str, list[int]] = {"t:list": [], "t:n": [], "t:counter": []}
        self._values = itertools.count()

    def value(self) -> bytes:
        """Return a value that was never used."""
        return b"%d" % next(self._values)

    @contextlib.contextmanager
    def settled(self, values: Sequence[bytes]) -> Iterator[None]:
        """Note what became of an attempt, and go on after errors of redis-py."""
        try:
            yield
        except BaseException as error:
            is_open = type(error) in LOST or isinstance(error, asyncio.CancelledError)
            (self.open if is_open else self.failed).extend(values)
            if not isinstance(error, RedisError):
                raise
        else:
            self.done += values

    def compare(self, leash: Leash) -> None:
        """Compare it with what the server has and has recorded."""
        admin = leash.admin
        stored = [*admin.lrange("t:list", 0, -1), *admin.lrange("t:watched", 0, -1)]
        assert _repeated(stored) == []
        assert set(self.done) - set(stored) == set()
        assert set(stored) - set(self.done) - set(self.open) == set()
        assert _repeated(self.failed) == []
        assert set(stored) & set(self.failed) == set()
        for numbers in self.numbers.values():
            assert _repeated(numbers) == []
            assert numbers
        # Each of these is written in a transaction with a value.
        assert int(admin.get("t:counter")) == admin.llen("t:watched")
        assert int(admin.get("t:n")) >= len(self.numbers["t:n"])
        events = read_events(leash.store, ["one"])
        assert sum(event.op == "RPUSH" for event in events) == len(stored)


def _repeated(items: Iterable[Any]) -> list[Any]:
    return [item for item, times in Counter(items).items() if times > 1]


async def settled(result: Any) -> Any:
    """Return a result of a sync or an asyncio client."""
    return await result if inspect.isawaitable(result) else result


class Caller:
    """One of the users of a client. Its methods are coroutines for a sync client, too."""

    def __init__(self, agent: Any, ledger: Ledger, generator: random.Random) -> None:
        self._agent = agent
        self._ledger = ledger
        self._random = generator

    async def work(self) -> None:
        """Make some calls."""
        for _ in range(3):
            await self._random.choice(
                [self.append, self.append_many, self.watch, self.loop, self.read, self.read_many]
            )()

    async def append(self) -> None:
        value = self._ledger.value()
        with self._ledger.settled([value]):
            self._add("t:list", await settled(self._agent.rpush("t:list", value)))

    async def append_many(self) -> None:
        values = [self._ledger.value() for _ in range(self._random.randrange(2, 6))]
        pipe = self._agent.pipeline(transaction=self._random.random() < 0.5)
        pipe.incr("t:n")
        for value in values:
            pipe.rpush("t:list", value)
        with self._ledger.settled(values):
            number, *lengths = await settled(pipe.execute())
            self._add("t:n", number)
            self._add("t:list", *lengths)

    async def watch(self) -> None:
        """Read, modify and write once."""
        value = self._ledger.value()
        pipe = self._agent.pipeline()
        try:
            with self._ledger.settled([value]):
                await settled(pipe.watch("t:counter"))
                await self._modify(pipe, value)
                self._add("t:counter", (await settled(pipe.execute()))[1])
        finally:
            # redis-py fails if the reply to UNWATCH comes too late.
            with contextlib.suppress(TimeoutError):
                await settled(pipe.reset())

    async def loop(self) -> None:
        """Do so by redis-py's helper, which repeats a transaction whose watch is lost."""
        values: list[bytes] = []

        def modify(pipe: Any) -> Any:
            self._ledger.failed += values
            values[:] = [self._ledger.value()]
            modifying = self._modify(pipe, values[0])
            return modifying if isinstance(self._agent, redis.asyncio.Redis) else run(modifying)

        # It takes no value before the keys are watched.
        with self._ledger.settled(values):
            replies = await settled(self._agent.transaction(modify, "t:counter"))
            self._add("t:counter", replies[1])

    async def _modify(self, pipe: Any, value: bytes) -> None:
        count = int(await settled(pipe.get("t:counter")) or 0)
        pipe.multi()
        pipe.set("t:counter", count + 1)
        pipe.rpush("t:watched", value)

    async def read(self) -> None:
        number = self._random.randrange(READABLE)
        with contextlib.suppress(RedisError):
            assert await settled(self._agent.get(f"t:{number}")) == b"%d" % number

    async def read_many(self) -> None:
        numbers = self._random.sample(range(READABLE), 4)
        pipe = self._agent.pipeline(transaction=self._random.random() < 0.5)
        for number in numbers:
            pipe.get(f"t:{number}")
        with contextlib.suppress(RedisError):
            assert await settled(pipe.execute()) == [b"%d" % number for number in numbers]

    def _add(self, name: str, *numbers: int) -> None:
        self._ledger.numbers[name] += numbers


def run(coroutine: Coroutine[Any, Any, Any]) -> Any:
    """Run a coroutine that awaits nothing: its client is a sync one."""
    try:
        coroutine.send(None)
    except StopIteration as end:
        return end.value
    raise AssertionError("it awaits something")


def options_of(generator: random.Random, retry_class: Any) -> dict[str, Any]:
    """Return random options of a client: what it retries, and when it thinks it should."""
    retried = [ConnectionError, TimeoutError, ReadOnlyError, BusyLoadingError, OSError]
    supported = generator.sample(retried, generator.randrange(1, 4))
    return {
        "retry": retry_class(
            NoBackoff(),
            generator.randrange(4),
            supported_errors=(Exception,) if generator.random() < 0.2 else tuple(supported),
        ),
        "retry_on_error": generator.sample(retried, generator.randrange(4)),
        "retry_on_timeout": generator.random() < 0.5,
        "health_check_interval": generator.choice([0, 1]),
        "protocol": generator.choice([2, 3]),
        "socket_timeout": TIMEOUT_S,
        "socket_connect_timeout": 10,
    }


@pytest.fixture
def leash(embedded: RealServer) -> Leash:
    leash = Leash(embedded)
    leash.load(one=BROAD)
    leash.admin.mset({f"t:{number}": number for number in range(READABLE)})
    return leash


@pytest.fixture
def proxy(leash: Leash) -> Iterator[Proxy]:
    print(f"KEYLEASH_ROUNDS={ROUNDS} KEYLEASH_SEED={SEED}")
    proxy = Proxy(leash.server.port, SEED)
    proxy.chance = 0.2
    yield proxy
    proxy.stop()
    print(proxy.fates)


def test_threads_behind_a_proxy_run_nothing_twice(leash: Leash, proxy: Proxy) -> None:
    """Whatever their client retries."""
    ledger, generator = Ledger(), random.Random(SEED)
    token = leash.issue("one").token

    with ThreadPoolExecutor(THREADS) as threads:
        for _ in rounds(lambda: ledger.open and ledger.failed):
            options = options_of(generator, Retry)
            pool = keyleash.pool(f"redis://127.0.0.1:{proxy.port}", token, **options)
            agent = redis.Redis(connection_pool=pool)
            callers = [
                Caller(agent, ledger, random.Random(generator.random())) for _ in range(THREADS)
            ]
            list(threads.map(lambda caller: run(caller.work()), callers))
            pool.disconnect()

    # What it holds back may still run.
    proxy.stop()
    ledger.compare(leash)


def test_cancelled_tasks_behind_a_proxy_run_nothing_twice(leash: Leash, proxy: Proxy) -> None:
    """Whatever their client retries, and whenever they are cancelled."""
    ledger, generator = Ledger(), random.Random(SEED)
    token = leash.issue("one").token

    async def storm() -> None:
        for _ in rounds(lambda: ledger.open and ledger.failed):
            options = options_of(generator, AsyncRetry)
            pool = keyleash.asyncio.pool(
                f"redis://127.0.0.1:{proxy.port}",
                token,
                pool_class=redis.asyncio.BlockingConnectionPool,
                max_connections=TASKS // 2,
                timeout=1,
                **options,
            )
            agent = redis.asyncio.Redis(connection_pool=pool)
            tasks = [
                asyncio.ensure_future(
                    Caller(agent, ledger, random.Random(generator.random())).work()
                )
                for _ in range(TASKS)
            ]
            for task in generator.sample(tasks, TASKS // 2):
                await asyncio.sleep(generator.random() * 0.01)
                task.cancel()
            for result in await asyncio.gather(*tasks, return_exceptions=True):
                if result is not None and not isinstance(result, asyncio.CancelledError):
                    raise result
            await pool.disconnect()

    asyncio.run(storm())
    # What it holds back may still run.
    proxy.stop()
    ledger.compare(leash)
