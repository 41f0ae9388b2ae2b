"""Fast paths that depend on private members of redis-py."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeAlias

from hiredis import pack_command
from redis import ConnectionPool
from redis.event import AfterConnectionReleasedEvent
from redis.exceptions import DataError, RedisError
from redis.observability import get_observability_instance

from keyleash.client.flow import NothingYet
from keyleash.errors import NotReplicatedError
from keyleash.store.wire import Argument

# A connection of redis-py's pool, taken and given back with less ado.
#
# `ConnectionPool.get_connection` and `release` take longer than all else that a client does for
# a call: most of it counts connections for OpenTelemetry, also where nobody listens. What
# remains is done here under the pool's own lock, for a pool of just that class and while it
# goes well; in every other case the pool does it.


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


class InHand:
    """Looks like a connection that has one reply to read.

    Redis-py's own `parse_response` then does with an item of a batch what it does with
    the reply of a command: callbacks, EMPTY_RESPONSE, NEVER_DECODE.

    Args:
        reply: The reply, or the exception that it is.
        encoder: The connection's, if the reply was read without decoding.
    """

    __slots__ = ("_encoder", "_reply")

    def __init__(self, reply: Any, encoder: Any = None) -> None:
        self._reply = reply
        self._encoder = encoder

    @property
    def is_error(self) -> bool:
        """Whether reading it raises."""
        return isinstance(self._reply, Exception)

    def read_response(self, disable_decoding: bool = False) -> Any:
        if isinstance(self._reply, Exception):
            raise self._reply
        if self._encoder is None or disable_decoding:
            return self._reply
        return _decoded(self._reply, self._encoder)


class Unreplicated(InHand):
    """A reply to what was done, and that replicas lack."""

    __slots__ = ("short",)

    def __init__(self, hand: InHand, short: NotReplicatedError) -> None:
        super().__init__(hand._reply, hand._encoder)
        self.short = short


class AsyncInHand:
    """The async twin of `InHand`."""

    __slots__ = ("_hand",)

    def __init__(self, hand: InHand) -> None:
        self._hand = hand

    async def read_response(self, disable_decoding: bool = False) -> Any:
        return self._hand.read_response(disable_decoding)


def found(reply: Any) -> InHand:
    """The reply to a poll, unless it is null.

    Raises:
        NothingYet: it is.
    """
    if reply is None:
        raise NothingYet
    return InHand(reply)


def _decoded(reply: Any, encoder: Any) -> Any:
    match reply:
        case bytes():
            return encoder.decode(reply)
        case list() | set():
            return type(reply)(_decoded(item, encoder) for item in reply)
        case dict():
            return {_decoded(k, encoder): _decoded(v, encoder) for k, v in reply.items()}
        case _:
            return reply


Words: TypeAlias = tuple[Argument, ...]


def packed(request: Sequence[Argument], encoder: Any = None) -> list[bytes]:
    """What redis-py's sync client makes of *request*, with less ado.

    Args:
        encoder: Encodes what hiredis does not take, or says in its words why not.

    Raises:
        DataError: a word is of a type that cannot be sent.
    """
    # Reports of errors show what functions hold, and the request holds the token.
    try:
        return [pack_command(tuple(request))]
    except TypeError:
        pass
    except BaseException:
        del request
        raise
    try:
        return _packed_slowly(request, encoder)
    except Exception as error:
        del request
        raise error.with_traceback(None) from None


def _packed_slowly(request: Sequence[Argument], encoder: Any) -> list[bytes]:
    if encoder is not None:
        request = [encoder.encode(word) for word in request]
    plain: list[Any] = [bytes(word) if isinstance(word, bytearray) else word for word in request]
    try:
        return [pack_command(tuple(plain))]
    except TypeError as error:
        why = str(error)
    # Without the TypeError as its context, which would show the request as well.
    raise DataError(why)


def encoded(commands: Sequence[Words], encoder: Any) -> Sequence[Words]:
    """Commands as an async connection's own packer, slow and in Python, would encode them."""
    if encoder.encoding == "utf-8" and encoder.encoding_errors == "strict":
        # What hiredis does too.
        return commands
    return [(words[0], *map(encoder.encode, words[1:])) for words in commands]
