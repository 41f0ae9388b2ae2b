"""A connection of redis-py's pool, taken and given back with less ado.

`ConnectionPool.get_connection` and `release` take longer than all else that a client does for
a call: most of it counts connections for OpenTelemetry, also where nobody listens. What
remains is done here under the pool's own lock, for a pool of just that class and while it
goes well; in every other case the pool does it.
"""

from __future__ import annotations

from typing import Any

from redis import ConnectionPool
from redis.event import AfterConnectionReleasedEvent
from redis.exceptions import RedisError
from redis.observability import get_observability_instance


def take(pool: Any) -> Any:
    """What `pool.get_connection()` gives: a connection that is ready to send.

    Raises:
        RedisError: as the pool does it.
    """
    if _is_plain(pool):
        pool._checkpid()
        with pool._lock:
            free = pool._available_connections
            connection = free.pop() if free else None
            if connection is not None:
                pool._in_use_connections.add(connection)
        if connection is not None and _is_ready(connection, pool):
            return connection
    return pool.get_connection()


def give_back(pool: Any, connection: Any) -> None:
    """What `pool.release(connection)` does."""
    if not _is_plain(pool) or connection.should_reconnect() or not pool.owns_connection(connection):
        pool.release(connection)
        return
    pool._checkpid()
    with pool._lock:
        if connection in pool._in_use_connections:
            pool._in_use_connections.remove(connection)
            pool._available_connections.append(connection)
            # Or credentials that were renewed meanwhile would not reach the connection.
            pool._event_dispatcher.dispatch(AfterConnectionReleasedEvent(connection))


def _is_plain(pool: Any) -> bool:
    """Whether redis-py's own class would do nothing else, and counts nothing."""
    return (
        type(pool) is ConnectionPool and get_observability_instance().get_provider_manager() is None
    )


def _is_ready(connection: Any, pool: Any) -> bool:
    """Whether there is nothing to read on it, not even its end; if there is, it goes back."""
    ready = False
    try:
        ready = connection.is_connected and not connection.can_read()
    except (RedisError, OSError):
        # The pool connects anew, or says why not.
        pass
    finally:
        if not ready:
            pool.release(connection)
    return ready
