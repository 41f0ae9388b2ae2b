"""The redis-py client that the functions for operators need, made of the one they are given."""

from __future__ import annotations

from copy import copy
from inspect import iscoroutinefunction
from typing import Any

import redis
from redis.exceptions import ResponseError

from keyleash.errors import ClusterError
from keyleash.protocol.active import Client
from keyleash.protocol.reply import is_of_a_cluster


def operator_client(client: Client, parameter: str = "client") -> Client:
    """
    Return a client whose replies are bytes, as the functions for operators read them.

    Args:
        client: A redis-py client. Its companion borrows its connections, does not decode, and
            raises ClusterError for the errors of a cluster. A client that has its own connection
            or is of a subclass is returned as it is, unless it decodes.
        parameter: What the caller's caller knows it as.

    Raises:
        TypeError: *client* is asynchronous.
    """
    if iscoroutinefunction(getattr(client, "execute_command", None)):
        raise TypeError(
            f"`{parameter}` is an asynchronous client; pass a `redis.Redis`,"
            " and call this with `asyncio.to_thread` where a loop is running"
        )
    pool = getattr(client, "connection_pool", None)
    kwargs = getattr(pool, "connection_kwargs", {})
    if isinstance(pool, _BytesPool):
        return client
    if kwargs.get("decode_responses"):
        return redis.Redis(connection_pool=_BytesPool(pool, client))  # type: ignore[arg-type]
    if type(client) is not redis.Redis or client.connection is not None:
        return client
    companion = copy(client)
    companion.connection_pool = _BytesPool(pool, client)  # type: ignore[assignment]
    companion.auto_close_connection_pool = False
    return companion


class _BytesPool:
    """A pool whose connections do not decode; they are those of another pool."""

    def __init__(self, pool: Any, owner: Client) -> None:
        self._pool = pool
        # A client may close its pool when it is collected.
        self._owner = owner

    def get_connection(self, *args: Any, **options: Any) -> _BytesConnection:
        return _BytesConnection(self._pool.get_connection(*args, **options))

    def release(self, connection: _BytesConnection) -> None:
        self._pool.release(connection.borrowed)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._pool, name)


class _BytesConnection:
    """A borrowed connection that returns replies as they are, and names a cluster."""

    def __init__(self, borrowed: Any) -> None:
        self.borrowed = borrowed

    def read_response(self, *_: Any, **options: Any) -> Any:
        try:
            return self.borrowed.read_response(**{**options, "disable_decoding": True})
        except ResponseError as error:
            if is_of_a_cluster(error):
                raise ClusterError from None
            raise

    def __getattr__(self, name: str) -> Any:
        return getattr(self.borrowed, name)
