"""The redis-py client that the functions for operators need, made of the one they are given."""

from __future__ import annotations

from inspect import iscoroutinefunction
from typing import Any

import redis

from keyleash.protocol.active import Client


def operator_client(client: Client, parameter: str = "client") -> Client:
    """
    Return a client whose replies are bytes, as the functions for operators read them.

    Args:
        client: A redis-py client. One with `decode_responses` gets a companion that borrows
            its connections and does not decode.
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
    if isinstance(pool, _BytesPool) or not kwargs.get("decode_responses"):
        return client
    return redis.Redis(connection_pool=_BytesPool(pool))  # type: ignore[arg-type]


class _BytesPool:
    """A pool whose connections do not decode; they are those of another pool."""

    def __init__(self, pool: Any) -> None:
        self._pool = pool

    def get_connection(self, *args: Any, **options: Any) -> _BytesConnection:
        return _BytesConnection(self._pool.get_connection(*args, **options))

    def release(self, connection: _BytesConnection) -> None:
        self._pool.release(connection.borrowed)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._pool, name)


class _BytesConnection:
    """A borrowed connection that returns replies as they are."""

    def __init__(self, borrowed: Any) -> None:
        self.borrowed = borrowed

    def read_response(self, *_: Any, **options: Any) -> Any:
        return self.borrowed.read_response(**{**options, "disable_decoding": True})

    def __getattr__(self, name: str) -> Any:
        return getattr(self.borrowed, name)
