"""Parts that depend on private members of redis-py or on hiredis, and replies for its parsers."""

from __future__ import annotations

import asyncio
import copy
import inspect
from collections.abc import Callable, Iterable, Sequence
from functools import partial, partialmethod
from itertools import chain
from types import FunctionType
from typing import Any, TypeVar

import redis.asyncio
from hiredis import pack_command
from redis import ConnectionPool, Redis
from redis._parsers.base import BaseParser
from redis.asyncio import Connection as AsyncConnection
from redis.asyncio import ConnectionPool as AsyncConnectionPool
from redis.asyncio.client import Pipeline as AsyncPipeline
from redis.client import EMPTY_RESPONSE, NEVER_DECODE, Pipeline
from redis.event import (
    AfterConnectionReleasedEvent,
    AsyncAfterConnectionReleasedEvent,
    AsyncReAuthConnectionListener,
    EventDispatcher,
    ReAuthConnectionListener,
)
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import DataError, MovedError, RedisError

from keyleash.errors import NotReplicatedError
from keyleash.store.wire import Argument, BatchMode

PipelineT = TypeVar("PipelineT", bound=Any)

try:
    from redis.maint_notifications import MaintNotificationsConfig
except ImportError:
    MaintNotificationsConfig = None  # type: ignore[assignment, misc]
try:
    from redis.observability import get_observability_instance
except ImportError:
    # The pools of an older redis-py do not count connections.
    _COUNTS_CONNECTIONS = False
else:
    _COUNTS_CONNECTIONS = True


def checkout(pool: Any) -> Any:
    """Return a connection that is ready to send, like `pool.get_connection()`, or None.

    `ConnectionPool.get_connection` and `release` take longer than the rest of the client's work
    for a call: they count connections for OpenTelemetry even if it is off. This fast path, under
    the pool's lock, serves only that class: None means that the pool is another, or is measured.

    Raises:
        RedisError: as the pool raises it.
    """
    if not _is_plain(pool, ConnectionPool):
        return None
    pool._checkpid()
    with pool._lock:
        free = pool._available_connections
        connection = free.pop() if free else None
        if connection is not None:
            pool._in_use_connections.add(connection)
    if connection is not None:
        try:
            is_usual = connection.is_ready and _is_usual(type(connection))
            if is_usual and not connection._parser.can_read(0):
                return connection
        except (RedisError, OSError):
            # The pool reconnects, or raises.
            pass
        except BaseException:
            pool.release(connection)
            raise
        pool.release(connection)
    return pool.get_connection()


def checkin(pool: Any, connection: Any) -> None:
    """Return a connection that was checked out, like `pool.release(connection)`."""
    if connection.should_reconnect() or not pool.owns_connection(connection):
        pool.release(connection)
        return
    pool._checkpid()
    with pool._lock:
        if connection in pool._in_use_connections:
            pool._in_use_connections.remove(connection)
            pool._available_connections.append(connection)
            event = AfterConnectionReleasedEvent
            if not _ends_with_release(pool, connection, event, ReAuthConnectionListener):
                pool._event_dispatcher.dispatch(event(connection))  # type: ignore[no-untyped-call]


def connections_of(pool: Any) -> list[Any]:
    """Return the connections that a pool has made."""
    names = ("_available_connections", "_in_use_connections", "_connections")
    return [item for name in names for item in getattr(pool, name, ())]


async def acheckout(pool: Any) -> Any:
    """Return a connection that is ready to send, of any pool of asyncio."""
    is_plain = _is_plain(pool, AsyncConnectionPool) and not pool._lock.locked()
    if is_plain and pool._available_connections and hasattr(AsyncConnection, "can_read"):
        connection = pool.get_available_connection()
        try:
            is_usual = connection.is_ready and _is_usual(type(connection))
            if is_usual and not await connection._parser.can_read():
                return connection
        except (RedisError, OSError):
            # The pool reconnects, or raises.
            pass
        except BaseException:
            await pool.release(connection)
            raise
        await pool.release(connection)
    return await pool.get_connection()


async def acheckin(pool: Any, connection: Any) -> None:
    """Return a connection to its pool."""
    event, listener = AsyncAfterConnectionReleasedEvent, AsyncReAuthConnectionListener
    if (
        _is_plain(pool, AsyncConnectionPool)
        and not pool._lock.locked()
        and not connection.should_reconnect()
        and _ends_with_release(pool, connection, event, listener)
    ):
        pool._in_use_connections.remove(connection)
        pool._available_connections.append(connection)
    else:
        await pool.release(connection)


def as_shipped(method: Any) -> Any:
    """Return a method of redis-py's; None if another library has replaced it."""
    is_own = isinstance(method, FunctionType) and method.__module__.startswith("redis.")
    return method if is_own else None


_USUAL = {
    ("keyleash.client._sync.connection", "redis.connection"),
    ("keyleash.client.aio_connection", "redis.asyncio.connection"),
}


def _is_usual(kind: Any) -> bool:
    """Return whether connections of a class look for data as redis-py's own do.

    Those of a fake server, or of a user's class, may not.
    """
    is_usual: bool | None = vars(kind).get("_looks_as_usual")
    if is_usual is None:
        places = [base.__module__ for base in kind.__mro__ if "can_read" in vars(base)]
        is_usual = kind._looks_as_usual = tuple(places[:2]) in _USUAL
    return is_usual


def own_lock(client: Any) -> Any:
    """Return the lock of a client with a connection of its own."""
    return client.single_connection_lock


async def aown_lock(client: Any) -> Any:
    """Return the same of an asyncio client, which has a connection from now on."""
    await client.initialize()
    return client._single_conn_lock


def _ends_with_release(pool: Any, connection: Any, event: type, listener: type) -> bool:
    """Return whether only redis-py's *listener* listens to the release, and has nothing to do."""
    dispatcher = pool._event_dispatcher
    if type(dispatcher) is not EventDispatcher or awaits_auth(connection):
        return False
    return [*map(type, dispatcher._event_listeners_mapping.get(event, ()))] == [listener]


def awaits_auth(connection: Any) -> bool:
    """Return whether credentials were renewed that a connection has not sent yet."""
    return connection._re_auth_token is not None


def with_batches(pipeline: PipelineT) -> PipelineT:
    """Have a class of pipelines send their commands with its method `run_batch`."""
    for name, mode in (
        ("_execute_pipeline", BatchMode.EACH),
        ("_execute_transaction", BatchMode.ALL),
    ):
        run_as_usual = getattr(pipeline, name)
        setattr(pipeline, name, partialmethod(pipeline.run_batch, run_as_usual, mode))
    return pipeline


def needs_parser(client: Any, *options: dict[str, Any]) -> bool:
    """Return whether a client has its own parser, or options of commands change what it does."""
    is_usual = type(client).parse_response in _PARSERS
    return not (is_usual and _OF_PARSERS.isdisjoint(chain.from_iterable(options)))


_OF_PARSERS = {EMPTY_RESPONSE, NEVER_DECODE}
_PARSERS = {
    client.parse_response for client in (Redis, Pipeline, redis.asyncio.Redis, AsyncPipeline)
}


def called_back(client: Any, name: str | bytes, reply: Any, options: dict[str, Any]) -> Any:
    """Return what the response callback of a command makes of a reply."""
    # It is for redis-py's cache alone.
    options.pop("keys", None)
    callback = dict.get(client.response_callbacks, name)
    if callback is None:
        # The names of callbacks are in upper case, and redis-py looks them up in any.
        callback = client.response_callbacks.get(name)
    return reply if callback is None else callback(reply, **options)


async def acalled_back(client: Any, name: str | bytes, reply: Any, options: dict[str, Any]) -> Any:
    """Return the same of a callback that may return an awaitable."""
    result = called_back(client, name, reply, options)
    return await result if hasattr(result, "__await__") else result


def _is_plain(pool: Any, kind: type) -> bool:
    """Return whether the pool is exactly redis-py's class, without metrics."""
    return (
        type(pool) is kind
        and _COUNTS_CONNECTIONS
        and get_observability_instance().get_provider_manager() is None
    )


def copy_pool(pool: Any) -> Any:
    """Return a pool with the options of *pool*, and no connection yet."""
    other = copy.copy(pool)
    for name in ("_condition", "_fork_lock", "_lock"):
        if hasattr(other, name):
            # Else those who wait for one of them would wake users of the other.
            setattr(other, name, type(getattr(other, name))())
    other.reset()
    return other


class Parser:
    """Takes the place of redis-py's, which asks the server for the keys of commands."""

    async def initialize(self, node: Any) -> None:
        """Ask nothing."""


def guard_nodes(cluster: Any, guard: Callable[[type], type]) -> None:
    """Have all connections of a cluster's nodes guarded.

    Args:
        guard: Returns the class of guarded connections for one of redis-py's.
    """
    manager = cluster.nodes_manager
    create = manager.create_redis_node
    classes: dict[type, type] = {}

    def guarded(client: Any) -> Any:
        pool = client.connection_pool
        pool.disconnect()
        base = pool.connection_class
        if base not in classes:
            classes[base] = guard(base)
        pool.connection_class = classes[base]
        pool.reset()
        if "disconnect_startup_nodes_pools" not in refresh_options(manager, None):
            # redis-py 7.0 closes all when it reads the slots again, also under calls of others.
            pool.disconnect = partial(pool.disconnect, inuse_connections=False)
        return client

    manager.create_redis_node = lambda *args, **options: guarded(create(*args, **options))
    for node in manager.nodes_cache.values():
        guarded(node.redis_connection)
    # A copy, since the slots are read by that client.
    callbacks = copy.copy(manager.default_node.redis_connection.response_callbacks)
    callbacks.update(cluster.cluster_response_callbacks)
    cluster.response_callbacks = cluster.cluster_response_callbacks = callbacks


class LastingNodes(redis.asyncio.cluster.NodesManager):
    """The nodes of redis-py 7, which stay when the slots are read again.

    redis-py 7 makes new ones, and closes the connections of the old, also those in use.
    """

    __slots__ = ()

    def set_nodes(self, old: Any, new: Any, remove_old: bool = False) -> None:
        """Add new nodes; of known ones take the type."""
        for name in new.keys() & old.keys():
            old[name].server_type = new[name].server_type
            new[name] = old[name]
        super().set_nodes(old, new, remove_old)
        # Many slots have the same list.
        for nodes in {id(nodes): nodes for nodes in self.slots_cache.values()}.values():
            nodes[:] = [old.get(node.name, node) for node in nodes]


def aguard_nodes(cluster: Any, guard: Callable[[type], type]) -> None:
    """Do the same for an asyncio client."""
    cluster.commands_parser = Parser()
    manager = cluster.nodes_manager
    if not hasattr(manager, "move_slot"):  # redis-py 7
        manager.__class__ = LastingNodes
    options = manager.connection_kwargs
    options["connection_class"] = guard(options["connection_class"])
    for node in manager.startup_nodes.values():
        node.connection_class = options["connection_class"]


def checkout_node(cluster: Any, node: Any) -> Any:
    """Return a connection to a node."""
    pool = cluster.get_redis_connection(node).connection_pool
    return checkout(pool) or pool.get_connection()


def checkin_node(cluster: Any, node: Any, connection: Any) -> None:
    """Return a connection to its node."""
    pool = cluster.get_redis_connection(node).connection_pool
    if _is_plain(pool, ConnectionPool):
        checkin(pool, connection)
    else:
        pool.release(connection)


_LOOK = "can_read" if hasattr(AsyncConnection, "can_read") else "can_read_destructive"
"""The method of an asyncio connection that returns whether anything was left to be read."""


async def acheckout_node(cluster: Any, node: Any) -> Any:
    """Return a connection to a node, which an asyncio client connects when it is used."""
    connection = node.acquire_connection()
    try:
        if connection.is_connected:
            try:
                is_usable = (
                    connection.is_ready
                    and not connection.should_reconnect()
                    and not await getattr(connection, _LOOK)()
                )
            except (RedisError, OSError):
                is_usable = False
            if not is_usable:
                await connection.disconnect()
    except BaseException:
        node.release(connection)
        raise
    return connection


async def acheckin_node(cluster: Any, node: Any, connection: Any) -> None:
    """Return a connection to its node."""
    try:
        if connection.should_reconnect():
            await connection.disconnect()
    finally:
        node.release(connection)


def move_slot(manager: Any, error: MovedError) -> None:
    """Note the new node of a slot."""
    if hasattr(manager, "move_slot"):
        manager.move_slot(error)
    else:  # redis-py 7
        manager._moved_exception = error
        manager._update_moved_slots()


async def amove_slot(manager: Any, error: MovedError) -> None:
    """Note the new node of a slot."""
    if hasattr(manager, "move_slot"):
        await manager.move_slot(error)
    else:  # redis-py 7
        move_slot(manager, error)


def refresh_options(manager: Any, failed: str | None) -> dict[str, Any]:
    """Return options with which the slots are read from another node first than a failed one.

    Connections stay open: redis-py closes them to read from replicas no more, and subscriptions
    would lose messages.
    """
    options = {"last_failed_node_name": failed, "disconnect_startup_nodes_pools": False}
    parameters = inspect.signature(manager.initialize).parameters
    return {name: value for name, value in options.items() if name in parameters}


def gathered(calls: Iterable[Any]) -> None:
    """Make calls, one after the other."""
    for _ in calls:
        pass


async def agathered(calls: Iterable[Any]) -> None:
    """Make calls at the same time."""
    running = [*calls]
    if len(running) == 1:
        await running[0]
    else:
        await asyncio.gather(*running)


def longer_timeout(connection: Any, longer_s: float) -> dict[str, float]:
    """Return options for `connection.read_response` that wait *longer_s* more than usual.

    The sync client of redis-py 7 offers none: there the first byte is awaited here.
    """
    if connection.socket_timeout is None:
        return {}
    timeout_s = connection.socket_timeout + longer_s
    if "timeout" in inspect.signature(connection.read_response).parameters:
        return {"timeout": timeout_s}
    connection.can_read(timeout_s)
    return {}


def readable(connection: Any, timeout_s: float) -> bool:
    """Return whether a connection has something to read within *timeout_s* seconds."""
    return bool(connection.can_read(timeout_s))


async def areadable(connection: Any, _timeout_s: float) -> bool:
    """Return whether a connection has something to read; asyncio's does not wait."""
    return bool(await connection.can_read())


def read_within(
    connection: Any, timeout_s: float, disable_decoding: bool, options: dict[str, Any]
) -> Any:
    """Return the next reply of a connection; None if none begins within *timeout_s* seconds."""
    if not readable(connection, timeout_s):
        return None
    return connection.read_response(disable_decoding=disable_decoding, **options)


async def aread_within(
    connection: Any, timeout_s: float, disable_decoding: bool, options: dict[str, Any]
) -> Any:
    """Return the next reply of a connection; None if there is none within *timeout_s* seconds."""
    options = {**options, "timeout": timeout_s}
    return await connection.read_response(disable_decoding=disable_decoding, **options)


ErrorT = TypeVar("ErrorT", bound=BaseException)


def copy_error(error: ErrorT) -> ErrorT:
    """Return a copy, since each reader raises its own; the error itself if it cannot be copied."""
    try:
        duplicate = copy.copy(error)
    except Exception:
        return error
    # An exception class with its own signature may be rebuilt from wrong arguments.
    if type(duplicate) is not type(error) or str(duplicate) != str(error):
        return error
    duplicate.__cause__ = error.__cause__
    return duplicate


class BufferedReply:
    """A buffered reply that redis-py's response parser reads like a connection.

    `parse_response` then treats an item of a batch like the reply to a command: callbacks,
    EMPTY_RESPONSE, NEVER_DECODE.

    Args:
        reply: The reply, or the exception of an error reply.
        encoder: The connection's, if the reply was read without decoding.
    """

    __slots__ = ("_encoder", "_reply")

    def __init__(self, reply: Any, encoder: Any = None) -> None:
        self._reply = reply
        self._encoder = encoder

    @property
    def error(self) -> Exception | None:
        """The exception that reading it raises, if any."""
        return self._reply if isinstance(self._reply, Exception) else None

    @property
    def value(self) -> Any:
        """The decoded reply, or the exception."""
        return self.error or self.read_response()

    def read_response(self, disable_decoding: bool = False) -> Any:
        if isinstance(self._reply, Exception):
            raise self._reply
        if self._encoder is None or disable_decoding:
            return self._reply
        return _decoded(self._reply, self._encoder)


class UnreplicatedReply(BufferedReply):
    """The reply to a command that ran, but that too few replicas have."""

    __slots__ = ("short",)

    def __init__(self, reply: BufferedReply, short: NotReplicatedError) -> None:
        super().__init__(reply._reply, reply._encoder)
        self.short = short


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


def error_of(line: bytes) -> Any:
    """Return the exception of an error reply, with its *line*, of which redis-py drops the code."""
    error = BaseParser.parse_error(line.decode("utf-8", "surrogateescape"))
    error.line = line
    return error


def quiet_options() -> dict[str, Any]:
    """Return options of connections that speak RESP2, and get nothing that was not asked for."""
    options: dict[str, Any] = {"protocol": 2, "decode_responses": False}
    if MaintNotificationsConfig is not None:
        options["maint_notifications_config"] = MaintNotificationsConfig(enabled=False)
    return options


async def taken_over(connection: Any, protocol: Any) -> Any:
    """Connect a connection of redis-py's asyncio client; return the writer of its socket.

    It authenticates as its options say. Then *protocol* reads, and redis-py no longer does. The
    socket is closed when the writer is collected.

    Raises:
        RedisConnectionError: the server closed the connection, or cannot be reached.
    """
    try:
        await connection.connect()
        writer = connection._writer
        connection._reader = connection._writer = None
        writer.transport.set_protocol(protocol)
    except RuntimeError as error:
        # That of uvloop, for a transport that is closed.
        raise RedisConnectionError(str(error)) from None
    if writer.transport.is_closing():
        # Its loss was reported to redis-py, and would never be to *protocol*.
        raise RedisConnectionError("the server closed the connection")
    protocol.connection_made(writer.transport)
    return writer


def pack(request: Sequence[Argument]) -> list[bytes]:
    """Encode *request* with hiredis.

    Raises:
        DataError: a word is of a type that cannot be sent.
    """
    # Error reports may show local variables, and the request contains the token.
    try:
        return [pack_command(tuple(request))]
    except TypeError:
        pass
    except BaseException:
        del request
        raise
    plain: list[Any] = [bytes(word) if isinstance(word, bytearray) else word for word in request]
    try:
        return [pack_command(tuple(plain))]
    except TypeError as error:
        del request, plain
        why = str(error)
    # Without the TypeError as its context, which would show the request.
    raise DataError(why)
