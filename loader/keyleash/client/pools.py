"""Guarded connections for redis-py's own clients, and for libraries that use them."""

from __future__ import annotations

from typing import Any

import redis
import redis.asyncio
import redis.asyncio.sentinel
from redis.connection import AbstractConnection, parse_url
from redis.sentinel import SentinelConnectionPool

from keyleash.client._redis_py import copied
from keyleash.client.aio_connection import AsyncGuarded
from keyleash.client.calls import longest_wait
from keyleash.client.connection import Guarded
from keyleash.client.correlation import CorrelationSource
from keyleash.client.guarding import Guarding
from keyleash.client.session import Session
from keyleash.client.tokens import AsyncTokenSource, TokenSource, token_from_env
from keyleash.client.unsupported import reject_coalesce, require_no_cache


def connection_class(
    token: TokenSource | None = None,
    base: type[AbstractConnection] = redis.Connection,
    *,
    wait: bool | float = False,
    correlation: CorrelationSource | None = None,
) -> type[AbstractConnection]:
    """Return a class of connections whose every command goes through the guard of a token.

    Pass it as `connection_class` to a pool of redis-py, or to a library that takes one. Clients of
    that pool are redis-py's own: `redis.Redis(connection_pool=pool)`.

    Args:
        token: As of `keyleash.Redis`; by default that of `keyleash.Redis.from_env`.
        base: A connection class of redis-py: for TCP, `redis.SSLConnection`,
            `redis.UnixDomainSocketConnection` or those of `redis.sentinel`.
        wait, correlation: As of `keyleash.Redis`.

    Raises:
        TokenUnknownError: the token is malformed.
        TypeError: *base* is no connection class of redis-py's sync client.
        ValueError: *wait* is negative.
        SecretInTextError: *correlation* contains a token.
        OperationError (bad-environment): There is no token, nor a variable that has one.
    """
    _require_kind("base", base, AbstractConnection, "sync")
    session = Session(token_from_env() if token is None else token, correlation=correlation)
    guarded: type[AbstractConnection] = _guarded(Guarded, base, session, wait)
    return guarded


def pool(
    url: str,
    token: TokenSource | None = None,
    *,
    wait: bool | float = False,
    correlation: CorrelationSource | None = None,
    pool_class: type[redis.ConnectionPool] = redis.ConnectionPool,
    **options: Any,
) -> redis.ConnectionPool:
    """Return a pool of guarded connections, for `redis.Redis(connection_pool=…)`.

    Args:
        url: As of `redis.Redis.from_url`.
        token, wait, correlation: As of `connection_class`.
        pool_class: `redis.ConnectionPool` or `redis.BlockingConnectionPool`.
        options: Those of the pool and its connections.

    Raises:
        CommandRefusedError: a client-side cache is requested.
        TypeError: *pool_class* is no pool of redis-py's sync client.
        ValueError: the URL does not name a server. Otherwise as `connection_class`.
    """
    _require_kind("pool_class", pool_class, redis.ConnectionPool, "sync")
    reject_coalesce(options)
    require_no_cache(options)
    options = {"protocol": 2, **options, **parse_url(url)}
    base = options.pop("connection_class", redis.Connection)
    guarded = connection_class(token, base, wait=wait, correlation=correlation)
    return pool_class(connection_class=guarded, **options)


def aconnection_class(
    token: AsyncTokenSource | None = None,
    base: type = redis.asyncio.Connection,
    *,
    wait: bool | float = False,
    correlation: CorrelationSource | None = None,
) -> Any:
    """Return a class of asyncio connections, otherwise as `keyleash.connection_class`.

    Args:
        token: As of `keyleash.asyncio.Redis`.
        base: A connection class of `redis.asyncio`.
        wait, correlation: As of `keyleash.asyncio.Redis`.

    Raises:
        TypeError: *base* is no connection class of redis-py's asyncio client. Otherwise as
            `keyleash.connection_class`.
    """
    _require_kind("base", base, redis.asyncio.connection.AbstractConnection, "asyncio")
    source = token_from_env() if token is None else token
    session = Session(source, is_async=True, correlation=correlation)
    return _guarded(AsyncGuarded, base, session, wait)


def apool(
    url: str,
    token: AsyncTokenSource | None = None,
    *,
    wait: bool | float = False,
    correlation: CorrelationSource | None = None,
    pool_class: Any = redis.asyncio.ConnectionPool,
    **options: Any,
) -> Any:
    """Return a pool of guarded asyncio connections, otherwise as `keyleash.pool`.

    Raises:
        CommandRefusedError: a client-side cache is requested.
        TypeError: *pool_class* is no pool of redis-py's asyncio client.
        ValueError: the URL does not name a server. Otherwise as `connection_class`.
    """
    _require_kind("pool_class", pool_class, redis.asyncio.ConnectionPool, "asyncio")
    reject_coalesce(options)
    require_no_cache(options)
    # Not by `from_url`, which takes the class of `rediss:` and `unix:` in place of a given one.
    options = {"protocol": 2, **options, **redis.asyncio.connection.parse_url(url)}
    base = options.pop("connection_class", redis.asyncio.Connection)
    guarded = aconnection_class(token, base, wait=wait, correlation=correlation)
    return pool_class(connection_class=guarded, **options)


def guarded_pool(
    plain: Any, token: AsyncTokenSource | None, wait: bool | float, correlation: Any
) -> Any:
    """Return the pool of a client of ours: of guarded connections, with the options of its own.

    Args:
        plain: redis-py's client, whose pool has not been used if it made it. A pool that it was
            given is copied, unless its connections are guarded: then no token is needed.

    Raises:
        TypeError: There is no token, or a pool of guarded connections and one of their options, or
            a pool of the other kind of client.
    """
    pool = plain.connection_pool
    base = pool.connection_class
    is_async = isinstance(plain, redis.asyncio.Redis)
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
    session = Session(token, is_async=is_async, correlation=correlation)
    guarded = _guarded(AsyncGuarded if is_async else Guarded, base, session, wait)
    if not plain.auto_close_connection_pool:
        pool = _copied(pool)
    pool.connection_class = guarded
    return pool


def _require_kind(name: str, given: Any, wanted: type, client: str) -> None:
    """Raise TypeError if a class is not of the right kind of client."""
    if not (isinstance(given, type) and issubclass(given, wanted)):
        what = "connection" if name == "base" else "pool"
        raise TypeError(f"{name} must be a {what} class of redis-py's {client} client")


def _copied(pool: Any) -> Any:
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
    return copied(pool)


def _guarded(mixin: type, base: type, session: Session, wait: bool | float) -> Any:
    known = {
        "session": session,
        "wait_s": longest_wait(wait),
        "is_async": mixin is AsyncGuarded,
        "__module__": "keyleash",
    }
    return type(f"Guarded{base.__name__}", (mixin, base), known)
