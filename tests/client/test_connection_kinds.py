"""Guarded connections of each kind that redis-py has: TLS, Unix sockets, Sentinel, shared pools."""

from __future__ import annotations

import asyncio
import contextlib
import os
import pickle
import shutil
import ssl
import subprocess
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import redis
import redis.asyncio.sentinel
import redis.sentinel

import keyleash
from client.alike import Awaited
from client.conftest import BROAD
from keyleash.servers import EmbeddedServer
from support.leash import Leash
from support.replication import nodes
from support.sentinels import SERVICE, sentinels
from support.servers import RealServer, embedded_label, find_server_binaries


class Kind:
    """The sync or the asyncio side of redis-py and of keyleash."""

    def __init__(self, name: str, runner: asyncio.Runner) -> None:
        self.is_async = name == "async"
        self._runner = runner

    @property
    def keyleash(self) -> Any:
        return keyleash.asyncio if self.is_async else keyleash

    @property
    def redis(self) -> Any:
        return redis.asyncio if self.is_async else redis

    def client(self, pool: Any) -> Any:
        """Return redis-py's own client over a pool."""
        client = self.redis.Redis(connection_pool=pool)
        return Awaited(client, self._runner) if self.is_async else client


@pytest.fixture(params=["sync", "async"])
def kind(request: pytest.FixtureRequest) -> Iterator[Kind]:
    with asyncio.Runner() as runner:
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


class TlsFront(threading.Thread):
    """Accepts TLS connections and passes them on to a server that may not have TLS."""

    def __init__(self, certificate: Path, key: Path, port: int) -> None:
        super().__init__(daemon=True)
        self._server_port = port
        self._context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        self._context.load_cert_chain(certificate, key)
        self._loop = asyncio.new_event_loop()
        self._is_listening = threading.Event()
        self.port = 0
        self.start()
        self._is_listening.wait()

    def run(self) -> None:
        self._loop.run_until_complete(self._listen())
        with contextlib.suppress(RuntimeError):
            self._loop.run_forever()

    async def _listen(self) -> None:
        server = await asyncio.start_server(self._serve, "127.0.0.1", 0, ssl=self._context)
        self.port = server.sockets[0].getsockname()[1]
        self._is_listening.set()

    async def _serve(self, caller: asyncio.StreamReader, answer: asyncio.StreamWriter) -> None:
        reply, request = await asyncio.open_connection("127.0.0.1", self._server_port)
        await asyncio.gather(_pass_on(caller, request), _pass_on(reply, answer))

    def stop(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self.join()


async def _pass_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError):
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
    writer.close()


@pytest.fixture
def tls(embedded: RealServer, tmp_path: Path) -> Iterator[tuple[Path, int]]:
    """A certificate made here, and the port where it is shown."""
    if shutil.which("openssl") is None:
        pytest.skip("openssl, which makes the certificate, is not installed")
    certificate, key = tmp_path / "certificate.pem", tmp_path / "key.pem"
    curve = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1")
    subject = ("-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost")
    files = ("-keyout", key, "-out", certificate)
    subprocess.run(
        ["openssl", "req", "-x509", "-noenc", "-days", "2", *curve, *subject, *files],
        check=True,
        capture_output=True,
    )
    front = TlsFront(certificate, key, embedded.port)
    yield certificate, front.port
    front.stop()


def test_connection_by_tls_is_guarded(leash: Leash, kind: Kind, tls: tuple[Path, int]) -> None:
    """By the scheme of the URL, and the certificate of the server is checked."""
    certificate, port = tls
    url, token = f"rediss://localhost:{port}", leash.issue("one").token

    pool = kind.keyleash.pool(url, token, ssl_ca_certs=str(certificate))
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
    with (
        nodes(binary, 1) as (primary,),
        sentinels(binary, primary, tmp_path, count=1) as found,
    ):
        leash = Leash(primary)
        leash.load(one=BROAD)
        module = redis.asyncio.sentinel if kind.is_async else redis.sentinel
        guarded = kind.keyleash.connection_class(
            leash.issue("one").token, module.SentinelManagedConnection
        )
        sentinel: Any = module.Sentinel(found.addresses)

        agent = sentinel.master_for(SERVICE, connection_class=guarded)
        require_guarded(kind.client(agent.connection_pool))


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
