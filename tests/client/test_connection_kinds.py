"""Guarded connections of each kind that redis-py has: TLS, Unix sockets, Sentinel, shared pools."""

from __future__ import annotations

import asyncio
import contextlib
import os
import pickle
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import redis
import redis.asyncio.sentinel
import redis.sentinel
from redis.commands.helpers import get_protocol_version

import keyleash
from client.alike import Awaited, awaiting
from client.conftest import BROAD
from keyleash.addons.servers import EmbeddedServer
from support.fronts import Front, certificate
from support.leash import Leash
from support.replication import nodes
from support.sentinels import SERVICE, sentinels
from support.servers import RealServer, embedded_label, find_server_binaries


class Kind:
    """The sync or the asyncio side of redis-py and of keyleash."""

    def __init__(self, name: str, runner: asyncio.Runner) -> None:
        self.is_async = name == "async"
        self.runner = runner

    @property
    def keyleash(self) -> Any:
        return keyleash.asyncio if self.is_async else keyleash

    @property
    def redis(self) -> Any:
        return redis.asyncio if self.is_async else redis

    def client(self, pool: Any) -> Any:
        """Return redis-py's own client over a pool."""
        client = self.redis.Redis(connection_pool=pool)
        return Awaited(client, self.runner) if self.is_async else client


@pytest.fixture(params=["sync", "async"])
def kind(request: pytest.FixtureRequest) -> Iterator[Kind]:
    with awaiting() as runner:
        yield Kind(request.param, runner)


@pytest.fixture
def leash(embedded: RealServer) -> Leash:
    leash = Leash(embedded)
    leash.load(one=BROAD)
    return leash


def require_guarded(agent: Any) -> None:
    """Check all ways to send: alone, in a pipeline, in a transaction, polled, and denied."""
    assert agent.set("t:a", 1)
    assert agent.pipeline(transaction=False).incr("t:a").get("t:a").execute() == [2, b"2"]
    pipe = agent.pipeline()
    pipe.watch("t:a")
    pipe.multi()
    assert pipe.incr("t:a").execute() == [3]
    assert agent.blpop("t:none", timeout=0.01) is None
    with pytest.raises(keyleash.KeyNotGrantedError):
        agent.set("x", 1)


@pytest.fixture
def tls(embedded: RealServer, tmp_path: Path) -> Iterator[tuple[Path, int]]:
    """A certificate made here, and the port where it is shown."""
    made, _ = certificate(tmp_path)
    front = Front(embedded.port, tmp_path)
    yield made, front.port
    front.stop()


def test_connection_by_tls_is_guarded(leash: Leash, kind: Kind, tls: tuple[Path, int]) -> None:
    """By the scheme of the URL, and the certificate of the server is checked."""
    made, port = tls
    url, token = f"rediss://localhost:{port}", leash.issue("one").token

    pool = kind.keyleash.pool(url, token, ssl_ca_certs=str(made))
    require_guarded(kind.client(pool))
    with pytest.raises(redis.ConnectionError, match="CERTIFICATE_VERIFY_FAILED"):
        kind.client(kind.keyleash.pool(url, token)).get("t:a")


def test_connection_by_a_unix_socket_is_guarded(kind: Kind, tmp_path: Path) -> None:
    """By the scheme of the URL."""
    path = tmp_path / "socket"
    with EmbeddedServer(settings={"unixsocket": str(path)}) as process:
        leash = Leash(RealServer("unix", process))
        leash.load(one=BROAD)

        pool = kind.keyleash.pool(f"unix://{path}", leash.issue("one").token)
        require_guarded(kind.client(pool))
        assert issubclass(pool.connection_class, kind.redis.UnixDomainSocketConnection)


def test_connection_of_a_sentinel_is_guarded(kind: Kind, tmp_path: Path) -> None:
    """A pool of redis-py asks the Sentinels for the address of each connection."""
    binary = find_server_binaries()[embedded_label()]
    with nodes(binary, 1) as (primary,), sentinels(binary, primary, tmp_path, count=1) as found:
        leash = Leash(primary)
        leash.load(one=BROAD)
        module = redis.asyncio.sentinel if kind.is_async else redis.sentinel
        guarded = kind.keyleash.connection_class(
            leash.issue("one").token, module.SentinelManagedConnection
        )
        sentinel: Any = module.Sentinel(found.addresses)
        for asked in sentinel.sentinels if kind.is_async else ():
            Awaited(asked, kind.runner)  # which closes it

        agent = sentinel.master_for(SERVICE, connection_class=guarded)
        require_guarded(kind.client(agent.connection_pool))


URLS = ["redis://h", "rediss://h", "unix:///s"]


@pytest.mark.parametrize("url", URLS)
def test_class_of_guarded_connections_has_the_base_of_a_url(kind: Kind, url: str) -> None:
    """So that one line serves every scheme; a pool's options are then those of its class."""
    guarded = kind.keyleash.connection_class(f"kl_one_{'A' * 32}", url)
    pool = kind.redis.ConnectionPool.from_url(url)

    assert issubclass(guarded, pool.connection_class)
    guarded(**pool.connection_kwargs)


@pytest.mark.parametrize(
    ("url", "base", "needed"),
    [
        ("redis://h", "unix:///s", "`Connection`"),
        ("rediss://h?ssl_cert_reqs=none", "redis://h", "`SSLConnection`"),
        ("unix:///s", "redis://h", "`UnixDomainSocketConnection`"),
    ],
)
def test_pool_with_options_of_another_class_names_the_base(
    kind: Kind, url: str, base: str, needed: str
) -> None:
    """When it makes a connection: redis-py names the option alone."""
    guarded = kind.keyleash.connection_class(f"kl_one_{'A' * 32}", base)
    pool = kind.redis.ConnectionPool.from_url(url)

    with pytest.raises(TypeError, match=f"{needed} as `base`"):
        guarded(**pool.connection_kwargs)


def test_pool_of_sentinels_names_its_base(kind: Kind) -> None:
    """Its connections ask it for their address."""
    module = redis.asyncio.sentinel if kind.is_async else redis.sentinel
    sentinel: Any = module.Sentinel([("h", 1)])
    guarded = kind.keyleash.connection_class(f"kl_one_{'A' * 32}")
    pool = sentinel.master_for(SERVICE, connection_class=guarded).connection_pool

    with pytest.raises(TypeError, match="`SentinelManagedConnection` as `base`"):
        pool.make_connection()


def test_guarded_clients_and_pools_are_told_from_others(leash: Leash, kind: Kind) -> None:
    """Clients of both libraries, their pipelines, and the pools of each scheme."""
    token = leash.issue("one").token
    for url in URLS:
        pool = kind.keyleash.pool(url, token)
        assert keyleash.is_guarded(pool)
        assert keyleash.is_guarded(kind.redis.Redis(connection_pool=pool).pipeline())
        assert not keyleash.is_guarded(kind.redis.Redis.from_url(url))
    assert keyleash.is_guarded(kind.keyleash.Redis(token=token))
    sentinel: Any = (redis.asyncio.sentinel if kind.is_async else redis.sentinel).Sentinel([])
    assert not keyleash.is_guarded(sentinel.master_for(SERVICE))
    base = (redis.asyncio.sentinel if kind.is_async else redis.sentinel).SentinelManagedConnection
    guarded = kind.keyleash.connection_class(token, base)
    assert keyleash.is_guarded(sentinel.master_for(SERVICE, connection_class=guarded))


@pytest.mark.parametrize("url", URLS)
def test_pool_that_ignores_its_connection_class_is_not_guarded(kind: Kind, url: str) -> None:
    """As asyncio's `from_url` does for two schemes, without a word."""
    guarded = kind.keyleash.connection_class(f"kl_one_{'A' * 32}", url)
    client = kind.redis.Redis.from_url(url, connection_class=guarded)

    is_kept = url.startswith("redis:") or not kind.is_async
    assert keyleash.is_guarded(client) is is_kept
    assert keyleash.is_guarded(client.connection_pool) is is_kept


def test_pool_with_an_older_connection_is_not_guarded(leash: Leash, kind: Kind) -> None:
    """A class that is set later leaves those that were made before."""
    pool = kind.redis.ConnectionPool(port=leash.server.port)
    kind.client(pool).ping()
    pool.connection_class = kind.keyleash.connection_class(leash.issue("one").token)

    assert not keyleash.is_guarded(pool)


def test_client_with_a_connection_of_its_own_is_not_guarded(leash: Leash) -> None:
    """It was made before the class of the pool was set."""
    client = redis.Redis(port=leash.server.port, single_connection_client=True)
    client.connection_pool.reset()
    client.connection_pool.connection_class = keyleash.connection_class(leash.issue("one").token)

    assert not keyleash.is_guarded(client)


class OddPool(redis.ConnectionPool):
    """Makes connections as it likes."""

    def make_connection(self) -> Any:
        return redis.Connection()


class LendingPool(redis.ConnectionPool):
    """A pool that lends connections of another pool."""

    def get_connection(self, *args: Any, **options: Any) -> Any:
        return redis.Connection()


@pytest.mark.parametrize(
    "given",
    [None, redis.sentinel.Sentinel([]), SimpleNamespace(connection_pool=1), OddPool, LendingPool],
)
def test_what_is_no_client_of_redis_py_is_an_error(given: Any) -> None:
    """Where keyleash cannot know, it does not guess."""
    guarded = keyleash.connection_class(f"kl_one_{'A' * 32}")
    odd = given(connection_class=guarded) if isinstance(given, type) else given

    with pytest.raises(TypeError, match="cannot tell"):
        keyleash.is_guarded(odd)


@pytest.mark.parametrize("module", [keyleash, keyleash.asyncio], ids=["sync", "asyncio"])
def test_class_of_guarded_connections_is_no_base_of_another(module: Any) -> None:
    """Each has one token."""
    token = f"kl_one_{'A' * 32}"
    guarded = module.connection_class(token)

    with pytest.raises(TypeError, match="have a token already"):
        module.connection_class(token, guarded)


def test_empty_token_is_reported_as_empty() -> None:
    """Often it is the value of a variable that is not set."""
    with pytest.raises(keyleash.TokenUnknownError, match="the token is empty"):
        keyleash.Redis(token="")


def test_blocking_pool_lends_its_connections_in_turn(leash: Leash) -> None:
    """Each caller reads its own replies, though there are more callers than connections."""
    pool = keyleash.pool(
        leash.server.url,
        leash.issue("one").token,
        pool_class=redis.BlockingConnectionPool,
        max_connections=2,
    )
    agent: Any = redis.Redis(connection_pool=pool)

    def write_and_read(number: int) -> Any:
        pipe = agent.pipeline(transaction=bool(number % 2))
        return pipe.set(f"t:{number}", number).get(f"t:{number}").execute()

    with ThreadPoolExecutor(8) as threads:
        results = list(threads.map(write_and_read, range(100)))
    assert results == [[True, b"%d" % number] for number in range(100)]
    require_guarded(agent)


def test_blocking_asyncio_pool_lends_its_connections_in_turn(leash: Leash) -> None:
    """The same for tasks."""
    token = leash.issue("one").token

    async def run() -> list[Any]:
        pool = keyleash.asyncio.pool(
            leash.server.url,
            token,
            pool_class=redis.asyncio.BlockingConnectionPool,
            max_connections=2,
        )
        agent: Any = redis.asyncio.Redis.from_pool(pool)

        async def write_and_read(number: int) -> Any:
            pipe = agent.pipeline(transaction=bool(number % 2))
            return await pipe.set(f"t:{number}", number).get(f"t:{number}").execute()

        async with agent:
            return await asyncio.gather(*map(write_and_read, range(100)))

    assert asyncio.run(run()) == [[True, b"%d" % number] for number in range(100)]


def test_forked_process_does_not_use_the_connections_of_its_parent(leash: Leash) -> None:
    """Parent and child use one pool at the same time, and each reads its own replies."""
    agent: Any = redis.Redis(
        connection_pool=keyleash.pool(leash.server.url, leash.issue("one").token)
    )
    leash.admin.mset({"t:parent": "parent", "t:child": "child"})
    assert agent.get("t:parent") == b"parent"

    child = os.fork()
    if child == 0:
        is_right = False
        with contextlib.suppress(BaseException):
            is_right = all(agent.get("t:child") == b"child" for _ in range(200))
            is_right &= agent.pipeline().incr("t:n").get("t:child").execute() == [1, b"child"]
        os._exit(0 if is_right else 1)
    for _ in range(200):
        assert agent.get("t:parent") == b"parent"
    assert os.waitpid(child, 0)[1] == 0

    require_guarded(agent)
    assert leash.admin.get("t:n") == b"1"


def test_options_of_a_pool_are_pickled_as_redis_pys_are(leash: Leash, kind: Kind) -> None:
    """Libraries send them to other processes, which make their own pool; the token is in none."""
    token = leash.issue("one").token
    guarded = kind.keyleash.connection_class(token)
    pools = (
        kind.redis.ConnectionPool(port=leash.server.port, protocol=2, **options)
        for options in ({}, {"connection_class": guarded})
    )
    raw, sent = (dict(_pickled(pool.connection_kwargs)) for pool in pools)

    assert sent == raw
    assert not any(token.encode() in value for value in sent.values())
    options = {name: pickle.loads(value) for name, value in sent.items()}  # noqa: S301
    require_guarded(kind.client(kind.redis.ConnectionPool(connection_class=guarded, **options)))


def _pickled(options: dict[str, Any]) -> Iterator[tuple[str, bytes]]:
    for name, value in options.items():
        # redis-py 8 has objects with locks among them.
        with contextlib.suppress(TypeError):
            yield name, pickle.dumps(value)


def test_no_protocol_given_makes_redis_py_read_replies_of_modules_as_guards_send_them(
    leash: Leash, kind: Kind
) -> None:
    """From version 8 on it reads them as RESP3 otherwise, which `.json()` and `.ft()` cannot."""
    url, token = leash.server.url, leash.issue("one").token
    pools = [kind.keyleash.pool(url, token), kind.keyleash.pool(url, token, protocol=3)]

    clients = [kind.redis.Redis(connection_pool=pool) for pool in pools]
    assert [get_protocol_version(client) for client in clients] == [2, 3]
