"""Clients of operators: of either kind of redis-py client, and across processes."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import redis
import redis.asyncio as aio

from keyleash.store.server_check import CheckedRedis, Client

AnyClient = redis.Redis | aio.Redis
"""A client of redis-py."""

_OF_A_POOL = ("event_dispatcher", "himport_registry", "maint_notifications", "orig_")
"""The beginnings of connection options that belong to one pool, and are made again for another."""
_OF_REPLIES = ("decode_responses", "encoding", "legacy_responses", "protocol")
"""Those of options that clients of operators set by themselves."""


def synchronous(client: AnyClient, parameter: str = "client") -> Client:
    """Return *client*, or a sync client with the connection options of an asyncio client.

    Args:
        parameter: The name of the argument in the caller.

    Raises:
        TypeError: it is no redis-py client, a pipeline, or the client of an agent.
    """
    kind = type(client)
    if isinstance(client, redis.client.Pipeline | aio.client.Pipeline):
        raise TypeError(f"`{parameter}` must be a client, not a pipeline")
    # Of an agent; its class is above this package.
    if hasattr(client, "whoami"):
        raise TypeError(
            f"`{parameter}` must be a client of redis-py, not a `{kind.__module__}.Redis`"
        )
    if isinstance(client, redis.Redis):
        return client
    if not isinstance(client, aio.Redis):
        raise TypeError(f"`{parameter}` must be a redis-py client, not {kind.__name__}")
    pool = client.connection_pool
    kinds = {
        aio.UnixDomainSocketConnection: redis.UnixDomainSocketConnection,
        aio.SSLConnection: redis.SSLConnection,
    }
    connection = kinds.get(pool.connection_class, redis.Connection)
    return _made(connection, _options(pool, *_OF_A_POOL, *_OF_REPLIES, "parser_class", "retry"), "")


def recipe_of(client: Client) -> Callable[[], Client]:
    """Return a function that can be pickled, and makes a client like *client*."""
    pool = client.connection_pool
    options = _options(pool, *_OF_A_POOL, *_OF_REPLIES)
    return partial(_made, pool.connection_class, options, getattr(client, "shown_url", ""))


def _options(pool: Any, *dropped: str) -> dict[str, Any]:
    options = pool.connection_kwargs.items()
    return {name: value for name, value in options if not name.startswith(dropped)}


def _made(kind: Any, options: dict[str, Any], shown_url: str) -> Client:
    pool = redis.ConnectionPool(connection_class=kind, **{**options, "protocol": 2})
    client = CheckedRedis(connection_pool=pool)
    client.shown_url = shown_url
    return client
