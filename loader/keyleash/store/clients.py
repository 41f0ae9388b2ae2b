"""Clients of operators: of either kind of redis-py client, and across processes."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import redis
import redis.asyncio as aio

from keyleash.store.server_check import CheckedRedis, Client

_OWN = frozenset({"event_dispatcher", "himport_registry"})
"""Connection options that belong to one pool."""


def synchronous(client: Client) -> Client:
    """Return *client*, or a sync client with the connection options of an asyncio client.

    Raises:
        TypeError: *client* is no redis-py client.
    """
    if isinstance(client, redis.Redis):
        return client
    if not isinstance(client, aio.Redis):
        raise TypeError(f"`client` must be a redis-py client, not {type(client).__name__}")
    pool = client.connection_pool
    kinds = {
        aio.UnixDomainSocketConnection: redis.UnixDomainSocketConnection,
        aio.SSLConnection: redis.SSLConnection,
    }
    kind = kinds.get(pool.connection_class, redis.Connection)
    dropped = {"retry", "parser_class", *_OWN}
    kwargs = {name: value for name, value in pool.connection_kwargs.items() if name not in dropped}
    return redis.Redis(connection_pool=redis.ConnectionPool(connection_class=kind, **kwargs))


def recipe_of(client: Client) -> Callable[[], Client]:
    """Return a function that can be pickled, and makes a client like *client*."""
    pool = client.connection_pool
    options = {name: value for name, value in pool.connection_kwargs.items() if name not in _OWN}
    return partial(_made, pool.connection_class, options)


def _made(kind: Any, options: dict[str, Any]) -> Client:
    return CheckedRedis(connection_pool=redis.ConnectionPool(connection_class=kind, **options))
