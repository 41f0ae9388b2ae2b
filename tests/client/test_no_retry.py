"""A call that may have run is never sent again, whatever the retry policy."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Iterator
from enum import Enum
from typing import Any

import pytest
import redis
from redis.backoff import NoBackoff
from redis.exceptions import ConnectionError, TimeoutError
from redis.retry import Retry

import keyleash
from client.alike import EITHER
from client.conftest import BROAD
from support.leash import Leash
from support.replication import PATIENCE_S


class Fate(Enum):
    """The treatment of the reply to a marked request."""

    PASS = "it arrives"
    DROP = "the connection closes instead"
    CUT = "the connection closes in its middle"
    HOLD = "it never arrives"


class Proxy:
    """Forwards requests and replies, until it gets a fate for the next guard call.

    Attributes:
        fate: The treatment of replies to marked requests.
        forwarded: The number of marked requests.
        answered: Whether the server has answered one.
    """

    def __init__(self, port: int) -> None:
        self.fate = Fate.PASS
        self.forwarded = 0
        self.answered = threading.Event()
        self._server_port = port
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._open: list[socket.socket] = [self._listener]
        self.port: int = self._listener.getsockname()[1]
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                agent, _ = self._listener.accept()
                threading.Thread(target=self._forward, args=(agent,), daemon=True).start()

    def _forward(self, agent: socket.socket) -> None:
        server = socket.create_connection(("127.0.0.1", self._server_port))
        self._open += [agent, server]
        with agent, server, contextlib.suppress(OSError):
            while request := agent.recv(65536):
                marked = b"t:marked" in request
                self.forwarded += marked
                server.sendall(request)
                # One command at a time, so one reply is on its way.
                reply = server.recv(65536)
                if marked:
                    self.answered.set()
                if not marked or self.fate is Fate.PASS:
                    agent.sendall(reply)
                elif self.fate is Fate.CUT:
                    agent.sendall(reply[:1])
                    return
                elif self.fate is Fate.DROP:
                    return

    def close(self) -> None:
        for item in self._open:
            with contextlib.suppress(OSError):
                item.close()


@pytest.fixture
def proxy(leash: Leash) -> Iterator[Proxy]:
    with contextlib.closing(Proxy(leash.server.port)) as proxy:
        yield proxy


@contextlib.contextmanager
def losing_the_reply(client: Any, proxy: Proxy, fate: Fate) -> Iterator[None]:
    """Let the next marked call run without a reply; its client is connected and knows its guard.

    The timeout is short for a reply that never arrives, and for no other: a busy machine may
    delay those. Afterwards the call ran, even if its client did not wait for that.
    """
    connection = client.connection or client.connection_pool._available_connections[-1]
    patience_s = connection.socket_timeout
    if fate is Fate.HOLD:
        connection.socket_timeout = 0.1
        if isinstance(connection, redis.Connection):
            connection.update_current_socket_timeout(0.1)
    proxy.fate = fate
    yield
    connection.socket_timeout = patience_s
    assert proxy.answered.wait(60)
    proxy.fate = Fate.PASS


EAGER = Retry(NoBackoff(), 3, supported_errors=(ConnectionError, TimeoutError, OSError))
RETRIES: dict[str, dict[str, Any]] = {
    "default": {},
    "three": {"retry": EAGER},
    "on error": {"retry": EAGER, "retry_on_error": [ConnectionError, TimeoutError]},
    "health check": {"health_check_interval": 1},
    "RESP2": {"retry": EAGER, "protocol": 2},
    "single connection": {"retry": EAGER, "single_connection_client": True},
}

FATES: list[tuple[Fate, type[Exception]]] = [
    (Fate.DROP, ConnectionError),
    (Fate.CUT, ConnectionError),
    (Fate.HOLD, TimeoutError),
]


@EITHER
@pytest.mark.parametrize("options", RETRIES.values(), ids=RETRIES)
@pytest.mark.parametrize(("fate", "error"), FATES, ids=[fate.name for fate, _ in FATES])
def test_call_whose_reply_is_lost_ran_once(
    leash: Leash, proxy: Proxy, fate: Fate, error: type[Exception], options: dict[str, Any]
) -> None:
    """It ran without a reply, and does not run again; the error is redis-py's own."""
    client = leash.agent("one", port=proxy.port, socket_timeout=PATIENCE_S, **options)
    client.get("t:other")

    with losing_the_reply(client, proxy, fate), pytest.raises(error) as caught:
        client.incr("t:marked")
    assert not isinstance(caught.value, keyleash.LeashError)
    assert proxy.forwarded == 1
    assert leash.admin.get("t:marked") == b"1"
    assert len(leash.events("one")) == 1

    assert client.incr("t:marked") == 2
    assert client.get("t:other") is None


def test_raw_client_would_have_run_it_again(leash: Leash, proxy: Proxy) -> None:
    """The proxy does what these tests take it to do: redis-py's retry counts four times."""
    client = redis.Redis(port=proxy.port, retry=EAGER)
    client.ping()
    proxy.fate = Fate.DROP

    with pytest.raises(ConnectionError):
        client.incr("t:marked")
    assert leash.admin.get("t:marked") == b"4"


@EITHER
def test_lost_reply_of_the_lookup_is_not_asked_again(leash: Leash, proxy: Proxy) -> None:
    """Before the guard is known nothing can have run, and the next call starts afresh."""
    client = leash.agent("one", port=proxy.port, retry=EAGER)
    leash.admin.client_kill_filter(_type="normal", skipme=True)
    proxy.fate = Fate.DROP
    with pytest.raises(ConnectionError):
        client.incr("t:marked")
    proxy.fate = Fate.PASS

    assert client.incr("t:marked") == 2


def test_connecting_is_retried(leash: Leash) -> None:
    """Nothing can have run before there is a connection."""
    attempts = []

    class Late(redis.Connection):
        def _connect(self) -> socket.socket:
            attempts.append(1)
            if len(attempts) < 3:
                raise ConnectionError("not yet")
            connected: socket.socket = super()._connect()  # type: ignore[no-untyped-call]
            return connected

    pool = redis.ConnectionPool(connection_class=Late, port=leash.server.port, retry=EAGER)
    client = keyleash.Redis.from_pool(pool, token=leash.issue("one").token)

    assert client.incr("t:marked") == 1
    assert len(attempts) == 3


@pytest.mark.parametrize("single", [False, True], ids=["pool", "single connection"])
def test_connection_that_the_server_closed_between_calls(leash: Leash, single: bool) -> None:
    """A pool notices and reconnects; a pinned connection reports it once, and nothing ran."""
    client = leash.agent("one", single_connection_client=single)
    client.incr("t:n")
    leash.admin.client_kill_filter(_type="normal", skipme=True)

    if single:
        with pytest.raises(ConnectionError):
            client.incr("t:n")
        assert leash.admin.get("t:n") == b"1"
    assert client.incr("t:n") == 2


@pytest.mark.parametrize("raised", [KeyboardInterrupt, SystemExit, RuntimeError])
def test_call_that_is_interrupted_leaves_no_reply_for_the_next(
    leash: Leash, raised: type[BaseException], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The reply that was not read must not be taken for that of another command."""
    client = leash.agent("one", max_connections=1)
    client.set("t:a", "a")
    client.set("t:b", "b")

    def interrupted(*_: Any, **__: Any) -> None:
        raise raised

    with monkeypatch.context() as patched:
        patched.setattr(keyleash.Redis, "parse_response", interrupted)
        with pytest.raises(raised):
            client.get("t:a")
    assert client.get("t:b") == b"b"
    assert client.get("t:a") == b"a"


@EITHER
def test_error_of_a_callback_leaves_the_connection_usable(leash: Leash) -> None:
    """The reply was read by then."""
    client = leash.agent("one", max_connections=1)

    def broken(*_: Any, **__: Any) -> Any:
        raise ValueError("broken callback")

    client.set_response_callback("GET", broken)
    with pytest.raises(ValueError, match="broken callback"):
        client.get("t:a")
    assert client.set("t:a", "x") is True
    assert client.strlen("t:a") == 1


@EITHER
@pytest.mark.parametrize("wait", [False, True])
@pytest.mark.parametrize("transaction", [False, True])
@pytest.mark.parametrize(("fate", "error"), FATES, ids=[fate.name for fate, _ in FATES])
def test_pipeline_whose_reply_is_lost_ran_once(
    leash: Leash, proxy: Proxy, fate: Fate, error: type[Exception], transaction: bool, wait: bool
) -> None:
    """redis-py would send the whole of it again; one that waits for limits goes another way."""
    client: Any = leash.agent(
        "one", port=proxy.port, retry=EAGER, socket_timeout=PATIENCE_S, wait=wait
    )
    client.get("t:other")
    pipe = client.pipeline(transaction=transaction).incr("t:marked").incr("t:marked")

    with losing_the_reply(client, proxy, fate), pytest.raises(error):
        pipe.execute(raise_on_error=False)
    assert proxy.forwarded == 1
    assert leash.admin.get("t:marked") == b"2"

    assert pipe.execute() == []
    assert pipe.incr("t:marked").execute() == [3]


@EITHER
@pytest.mark.parametrize("transaction", [False, True])
def test_durability_that_is_loaded_between_calls_is_reported_by_the_next(
    leash: Leash, transaction: bool
) -> None:
    """Such a call began as one that waits for no replicas."""
    client: Any = leash.agent("one", retry=EAGER)
    for _ in range(2):
        pipe = client.pipeline(transaction=transaction).incr("t:n").incr("t:n")
        found = pipe.execute()
    assert found == [3, 4]
    durable = {**BROAD, "durability": {"wait_replicas": 1, "timeout": "1ms"}}

    leash.load(one=durable)
    with pytest.raises(keyleash.NotReplicatedError) as of_pipeline:
        client.pipeline(transaction=transaction).incr("t:n").incr("t:n").execute()
    leash.load(one=BROAD)
    assert client.get("t:n") == b"6"
    leash.load(one=durable)
    with pytest.raises(keyleash.NotReplicatedError) as of_call:
        client.incr("t:n")

    assert of_pipeline.value.reply == [5, 6]
    assert of_call.value.reply == 7
    assert leash.admin.get("t:n") == b"7"


@EITHER
def test_blocking_call_whose_reply_is_lost_is_not_made_again(leash: Leash, proxy: Proxy) -> None:
    """It may have taken an element along."""
    client: Any = leash.agent("one", port=proxy.port, retry=EAGER)
    client.ping()
    leash.admin.rpush("t:marked", "x", "y")
    proxy.fate = Fate.DROP

    with pytest.raises(ConnectionError):
        client.blpop("t:marked", 0)
    assert leash.admin.llen("t:marked") == 1
