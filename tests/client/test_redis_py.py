"""The fast path to a connection is equivalent to redis-py's pool."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import pytest
import redis
import redis.asyncio
from redis._parsers.hiredis import _HiredisParser
from redis.event import (
    AfterConnectionReleasedEvent,
    AsyncAfterConnectionReleasedEvent,
    AsyncEventListenerInterface,
    EventDispatcher,
    EventListenerInterface,
)
from redis.exceptions import MaxConnectionsError
from redis.observability import OTelConfig, get_observability_instance

import keyleash
import keyleash.asyncio
from client.alike import agent
from keyleash.client._redis_py import acheckin, acheckout, checkin, checkout
from support.leash import Leash


def test_pool_keeps_count_of_what_is_taken(leash: Leash) -> None:
    """Taken is in use, given back is free, and the last one back is the first one out."""
    pool = agent(leash).connection_pool
    first, other = checkout(pool), checkout(pool)
    assert pool._in_use_connections == {first, other}
    checkin(pool, first)
    checkin(pool, other)

    assert pool._in_use_connections == set()
    assert pool._available_connections == [first, other]
    assert checkout(pool) is other


def test_pool_refuses_more_than_it_may_have(leash: Leash) -> None:
    """The bound is the pool's, and a connection that came back makes room."""
    client = agent(leash, max_connections=1)
    taken = checkout(client.connection_pool)
    with pytest.raises(MaxConnectionsError):
        client.get("t:a")
    checkin(client.connection_pool, taken)

    assert client.get("t:a") is None


@pytest.mark.parametrize("protocol", [2, 3])
def test_connection_that_was_closed_or_has_a_reply_left_is_not_used(
    leash: Leash, protocol: int
) -> None:
    """Such a connection is left by other code: the pool reconnects."""
    client = agent(leash, protocol=protocol)
    client.set("t:a", 1)
    pool = client.connection_pool
    checkout(pool).disconnect()
    checkin(pool, *pool._in_use_connections)
    assert client.get("t:a") == b"1"

    leash.admin.client_kill_filter(_type="normal", skipme=True)
    assert client.get("t:a") == b"1"

    if protocol == 2:
        # Under RESP3 redis-py itself takes what is there for a push message.
        connection = checkout(pool)
        connection.send_command("ECHO", "left")
        connection.can_read(10)
        checkin(pool, connection)
        assert client.get("t:a") == b"1"


def test_connection_of_another_pool_is_left_alone(leash: Leash) -> None:
    """And so is one that is given back twice."""
    pool, other = (agent(leash).connection_pool for _ in range(2))
    taken = checkout(other)
    checkin(pool, taken)
    assert pool._available_connections == []
    checkin(other, taken)
    checkin(other, taken)
    assert other._available_connections == [taken]


def test_pool_of_another_class_does_it_its_own_way(leash: Leash) -> None:
    """The methods of a subclass are called."""
    asked: list[str] = []

    class Mine(redis.ConnectionPool):
        def get_connection(self, *args: Any, **options: Any) -> Any:
            asked.append("get")
            return super().get_connection(*args, **options)

        def release(self, connection: Any) -> None:
            asked.append("release")
            super().release(connection)

    token = leash.issue("one").token
    client = keyleash.Redis.from_pool(Mine(port=leash.server.port), token=token)
    client.set("t:a", 1)
    assert asked == ["get", "release"]

    pool = redis.BlockingConnectionPool(port=leash.server.port, max_connections=1, timeout=10)
    blocking = keyleash.Redis.from_pool(pool, token=token)
    threads = [threading.Thread(target=blocking.incr, args=("t:n",)) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert leash.admin.get("t:n") == b"8"


def test_release_is_announced_to_whoever_renews_credentials(leash: Leash) -> None:
    """redis-py sends a new AUTH on a connection when it comes back."""
    released = []

    class Listener(EventListenerInterface):
        def listen(self, event: Any) -> None:
            released.append(event.connection)

    dispatcher = EventDispatcher()
    dispatcher.register_listeners({AfterConnectionReleasedEvent: [Listener()]})
    pool = redis.ConnectionPool(port=leash.server.port, event_dispatcher=dispatcher)
    client = keyleash.Redis.from_pool(pool, token=leash.issue("one").token)
    client.set("t:a", 1)
    client.set("t:a", 2)

    assert released == client.connection_pool._available_connections * 2


def test_pool_of_asyncio_lends_only_ready_connections_and_announces_releases(
    one_leash: Leash,
) -> None:
    """The same for asyncio, whose pools share no code with the others."""
    released = []

    class Listener(AsyncEventListenerInterface):
        async def listen(self, event: Any) -> None:
            released.append(event.connection)

    async def run() -> None:
        pool = redis.asyncio.ConnectionPool(port=one_leash.server.port)
        token = one_leash.issue("one").token
        async with keyleash.asyncio.Redis.from_pool(pool, token=token) as client:
            pool = client.connection_pool
            await client.set("t:a", 1)
            first, other = await acheckout(pool), await acheckout(pool)
            assert {*pool._in_use_connections} == {first, other}
            await acheckin(pool, first)
            await acheckin(pool, other)
            assert not pool._in_use_connections
            assert pool._available_connections == [first, other]

            one_leash.admin.client_kill_filter(_type="normal", skipme=True)
            await asyncio.sleep(0.05)  # until the event loop knows
            assert await client.get("t:a") == b"1"
            await (await acheckout(pool)).disconnect()
            await acheckin(pool, *pool._in_use_connections)
            assert await client.get("t:a") == b"1"
            left = await acheckout(pool)
            await left.send_command("GET", "t:b")
            await acheckin(pool, left)
            assert await client.get("t:a") == b"1"

            dispatcher: Any = pool._event_dispatcher
            dispatcher.register_listeners({AsyncAfterConnectionReleasedEvent: [Listener()]})
            await client.get("t:a")
            assert released == [other]

    asyncio.run(run())


def test_connections_are_counted_for_whoever_measures(
    leash: Leash, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With OpenTelemetry on, it is the pool's own way."""
    client = agent(leash)
    client.set("t:a", 1)
    asked = []
    get = redis.ConnectionPool.get_connection

    def counted(self: Any) -> Any:
        asked.append(self)
        return get(self)

    monkeypatch.setattr(redis.ConnectionPool, "get_connection", counted)
    client.set("t:a", 2)
    assert asked == []
    monkeypatch.setattr(get_observability_instance(), "get_provider_manager", OTelConfig)
    client.set("t:a", 3)
    assert asked == [client.connection_pool]


def test_interrupted_look_at_a_connection_gives_it_back(
    leash: Leash, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Or a pool of one would be empty for ever."""
    client = agent(leash, max_connections=1)
    client.set("t:a", 1)

    def interrupted(*_: Any, **__: Any) -> bool:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(_HiredisParser, "can_read", interrupted)
        with pytest.raises(KeyboardInterrupt):
            client.get("t:a")
    assert client.get("t:a") == b"1"
