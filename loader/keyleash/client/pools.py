"""Classes of guarded connections, and the pools of keyleash's own clients."""

from __future__ import annotations

from typing import Any

import redis.asyncio
import redis.asyncio.sentinel
from redis.sentinel import SentinelConnectionPool

from keyleash.client._redis_py import connections_of, copy_pool
from keyleash.client.aio_connection import AsyncGuarded
from keyleash.client.calls import longest_wait
from keyleash.client.guarding import Guarding
from keyleash.client.routing import Tags
from keyleash.client.session import Session
from keyleash.client.tokens import AsyncTokenSource


def guarded_pool(
    mixin: type[Guarding],
    plain: Any,
    token: AsyncTokenSource | None,
    wait: bool | float,
    correlation: Any,
) -> Any:
    """Return the pool of a client of ours: of guarded connections, with the options of its own.

    Args:
        mixin: `Guarded` or `AsyncGuarded`.
        plain: redis-py's client, whose pool has not been used if it made it. A pool that it was
            given is copied, unless its connections are guarded: then no token is needed.

    Raises:
        TypeError: There is no token, or a pool of guarded connections and one of their options, or
            a pool of the other kind of client.
    """
    pool = plain.connection_pool
    base = pool.connection_class
    is_async = issubclass(mixin, AsyncGuarded)
    if issubclass(base, redis.asyncio.connection.AbstractConnection) is not is_async:
        kinds = ("asyncio", "a sync") if is_async else ("sync", "an asyncio")
        raise TypeError("a client of {} needs a pool of its own kind, not {} one".format(*kinds))
    if issubclass(base, Guarding):
        if (token, wait, correlation) != (None, False, None):
            raise TypeError(
                "the pool's connections have a token: leave `token`, `wait`, `correlation` out"
            )
        return pool
    if token is None:
        raise TypeError("a `token` is required, or a pool of guarded connections")
    guarded = guarded_class(mixin, base, token, wait, correlation)
    if not plain.auto_close_connection_pool:
        pool = _copy_of(pool)
    pool.connection_class = guarded
    return pool


def _copy_of(pool: Any) -> Any:
    if isinstance(pool, SentinelConnectionPool | redis.asyncio.sentinel.SentinelConnectionPool):
        # It gives itself to its connections.
        options = {**pool.connection_kwargs, "max_connections": pool.max_connections}
        del options["connection_pool"]
        return type(pool)(
            pool.service_name,
            pool.sentinel_manager,
            is_master=pool.is_master,
            check_connection=pool.check_connection,
            **options,
        )
    return copy_pool(pool)


def guarded_class(
    mixin: type[Guarding],
    base: type,
    token: AsyncTokenSource,
    wait: bool | float,
    correlation: Any,
    session_class: type[Session] = Session,
) -> Any:
    """Return a class of guarded connections.

    Args:
        mixin: `Guarded`, `AsyncGuarded` or a subclass.
        base: A connection class of redis-py, of the same kind.
        session_class: The class of their session.

    Raises:
        TypeError: *base* is guarded already.
    """
    if issubclass(base, Guarding):
        raise TypeError("base is a class of guarded connections, which have a token already")
    is_async = issubclass(mixin, AsyncGuarded)
    attributes = {
        "session": session_class(token, is_async=is_async, correlation=correlation),
        "wait_s": longest_wait(wait),
        "is_async": is_async,
        "takes_parts": getattr(base, "takes_parts", False),
        "__module__": "keyleash",
    }
    return type(f"Guarded{base.__name__}", (mixin, base), attributes)


def is_guarded(client: Any) -> bool:
    """Return whether every command of a client goes through a guard.

    Assert it where a library makes its pool from a URL: some put another class of connections in
    place of the one that they were given. No command is sent.

    Args:
        client: A client, pipeline or pool of redis-py or keyleash, sync or asyncio, also of a
            Sentinel or a cluster. Only a cluster's client of keyleash is guarded.

    Raises:
        TypeError: It is something else, or makes or lends its connections in a way of its own.
    """
    if isinstance(client, redis.RedisCluster | redis.asyncio.RedisCluster):
        return isinstance(getattr(client, "tags", None), Tags)
    is_client = isinstance(client, redis.Redis | redis.asyncio.Redis)
    pool: Any = client.connection_pool if is_client else client
    is_pool = isinstance(pool, redis.ConnectionPool | redis.asyncio.ConnectionPool)
    # Of the instance, which may have its own. What wraps a client's methods is not looked at.
    used = (pool.make_connection, pool.get_connection) if is_pool else (None,)
    if not all(getattr(way, "__module__", "").startswith("redis.") for way in used):
        raise TypeError(
            f"keyleash cannot tell whether a `{type(client).__name__}` is guarded: pass the client"
            " or pool of redis-py that it uses"
        )
    made = [*connections_of(pool), getattr(client, "connection", None)]
    is_all = all(isinstance(item, Guarding) for item in made if item is not None)
    return is_all and issubclass(pool.connection_class, Guarding)
