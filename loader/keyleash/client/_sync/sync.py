"""Drop-in `redis` clients and pools that call guards."""
# Generated from client/aio.py by `make sync`: edit that file.

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, ClassVar, Self

import redis
import redis.client
import redis.connection
from redis.exceptions import MasterDownError, ReadOnlyError, ResponseError
from redis.sentinel import Sentinel, SentinelConnectionPool

from keyleash.client._redis_py import (
    as_shipped,
    called_back,
    checkin,
    checkout,
    needs_parser,
    own_lock,
    with_batches,
)
from keyleash.client._sync.connection import Guarded
from keyleash.client._sync.holder import TokenHolder
from keyleash.client.correlation import CorrelationSource
from keyleash.client.once import current_block, maybe_once
from keyleash.client.pools import guarded_class, guarded_pool
from keyleash.client.session import Session
from keyleash.client.shortcuts import with_shortcuts
from keyleash.client.tokens import TokenSource, token_from_env
from keyleash.client.unsupported import push_handler, reject_options, require_kind
from keyleash.errors import NotReplicatedError
from keyleash.store.wire import BatchMode

_EXECUTE = as_shipped(redis.Redis.execute_command)
"""Tracing libraries replace redis-py's method. Then every call goes through theirs."""


def connection_class(
    token: TokenSource | None = None,
    base: type | str = redis.Connection,
    *,
    wait: bool | float = False,
    correlation: CorrelationSource | None = None,
) -> type[redis.connection.AbstractConnection]:
    """Return a class of connections whose every command goes through the guard of a token.

    Pass it as `connection_class` to a pool of redis-py, or to a library that takes one. Clients of
    that pool are redis-py's own: `redis.Redis(connection_pool=pool)`.

    Args:
        token: As of `keyleash.Redis`; by default that of `from_env`.
        base: A connection class of redis-py: for TCP, `redis.SSLConnection`,
            `redis.UnixDomainSocketConnection` or those of `redis.sentinel`; or a
            URL, whose scheme names one. A pool with options of another class cannot connect.
        wait: As of `keyleash.Redis`.
        correlation: As of `keyleash.Redis`.

    Raises:
        TokenUnknownError: the token is malformed.
        TypeError: *base* is no connection class of redis-py's client of this kind.
        ValueError: *wait* is negative, or the URL does not name a server.
        SecretInTextError: *correlation* contains a token.
        OperationError (bad-environment): There is no token, nor a variable that has one.
    """
    kind: Any = base
    if isinstance(base, str):
        options: Any = redis.connection.parse_url(base)
        kind = options.get("connection_class", redis.Connection)
    require_kind("base", kind, redis.connection.AbstractConnection)
    source = token_from_env() if token is None else token
    guarded: type = guarded_class(Guarded, kind, source, wait, correlation)
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
        token: As of `connection_class`.
        wait: As of `connection_class`.
        correlation: As of `connection_class`.
        pool_class: `redis.ConnectionPool` or `redis.BlockingConnectionPool`.
        options: Those of the pool and its connections.

    Raises:
        CommandRefusedError: a client-side cache is requested.
        TypeError: *pool_class* is no pool of redis-py's client of this kind.
        ValueError: the URL does not name a server. Otherwise as `connection_class`.
    """
    require_kind("pool_class", pool_class, redis.ConnectionPool)
    reject_options(options)
    # asyncio's `from_url` takes the class of `rediss:` and `unix:` in place of a given one. Without
    # a protocol, redis-py 8 would read the replies of modules as RESP3, which guards do not speak.
    options = {"protocol": 2, **options, **redis.connection.parse_url(url)}
    options["connection_class"] = connection_class(token, url, wait=wait, correlation=correlation)
    return pool_class(**options)


@with_batches
@with_shortcuts
class Pipeline(redis.client.Pipeline):
    """Made by `keyleash.Redis.pipeline`; redis-py's, over guarded connections.

    Attributes:
        once: The idempotency id of what it executes; None for none, or that of a block.
    """

    once: str | None = None

    def execute(self, raise_on_error: bool = True) -> list[Any]:
        """Send the queued commands; return one result for each, in order."""
        commands = self.command_stack
        if commands and self.connection is None:
            self.connection = checkout(self.connection_pool)
        try:
            with maybe_once(self.once):
                results: list[Any] = super().execute(raise_on_error)
        except NotReplicatedError as short:
            decoded = self._called_back(commands, short.reply, BatchMode.ALL)
            raise short.about(decoded) from short.__cause__
        return results

    def run_batch(self, run_as_usual: Any, mode: BatchMode, *args: Any) -> Any:
        """Send commands as one batch, or as redis-py does if one of them needs more."""
        connection, commands, raise_on_error = args
        replies = None
        if not needs_parser(self, *(options for _, options in commands if options)):
            replies = connection.run_batch([words for words, _ in commands], mode)
        if replies is None:
            return run_as_usual(self, *args)
        if raise_on_error and mode is BatchMode.ALL:
            self.raise_first_error(commands, replies)  # type: ignore[no-untyped-call]
        replies = self._called_back(commands, replies, mode)
        if raise_on_error and mode is BatchMode.EACH:
            self.raise_first_error(commands, replies)  # type: ignore[no-untyped-call]
        return replies

    def _called_back(self, commands: Any, replies: list[Any], mode: BatchMode) -> list[Any]:
        """Return what the response callbacks make of the replies to commands."""
        for at, ((name, *_), options) in enumerate(commands):
            if isinstance(replies[at], Exception):
                continue
            try:
                replies[at] = called_back(self, name, replies[at], options)
            except ResponseError as error:
                if mode is BatchMode.ALL:
                    raise
                replies[at] = error
        return replies


class Batch(Pipeline):
    """Made by `keyleash.Redis.batch`: a block whose commands all run, or none.

    Attributes:
        results: The results of the last `execute`, or of leaving the block.
    """

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.results: list[Any] = []

    def __enter__(self) -> Self:
        self.results = []
        return self

    def __exit__(self, exc_type: Any, exc_value: Any, traceback: Any) -> None:
        try:
            if exc_type is None and self.command_stack:
                self.execute()
        finally:
            self.reset()  # type: ignore[no-untyped-call]

    def execute(self, raise_on_error: bool = True) -> list[Any]:
        """Send the queued commands; return one result for each, in order."""
        commands: Any = self.command_stack
        self.results = []
        try:
            self.results = results = super().execute(raise_on_error=False)
        except NotReplicatedError as short:
            self.results = short.reply
            raise
        if raise_on_error:
            self.raise_first_error(commands, results)  # type: ignore[no-untyped-call]
        return results


@with_shortcuts
class Redis(TokenHolder, redis.Redis):  # type: ignore[misc]
    """A drop-in `redis.Redis` for the holder of a token.

    Every command goes through the guard of the token's identity. A denial is raised
    as a `LeashError`; every other reply and error is as in redis-py. A command that was sent is
    never sent again, whatever the retry policy, since it may have run, unless its reply says that
    nothing ran, or it has an idempotency id (`keyleash.once`).

    Args:
        token: The agent's token, which never appears in a repr, log or exception; or a callable
            that returns it, such as a `TokenFile`, which is called again, once per call, after
            TOKEN_EXPIRED or TOKEN_REVOKED; then the call is repeated. It must return tokens of
            one identity.
            With a pool of guarded connections, such as `keyleash.pool` returns, it is left
            out. Of another pool a copy is used.
        wait: Whether a rate-limited call sleeps and retries: True, or the number of seconds
            that one call may sleep in all.
        correlation: The correlation id of calls outside of `keyleash.correlation` blocks, or a
            callable that returns it, as for these blocks.

    Raises:
        TokenUnknownError: the token is malformed.
        ValueError: *wait* is negative.
        SecretInTextError: *correlation* contains a token.
        CommandRefusedError: a client-side cache is requested.
        TypeError: There is no token, or a pool of another kind or with a token.
    """

    _OPTIONS: ClassVar[tuple[str, ...]] = ("single_connection_client",)
    """Options of the client itself, in which redis-py's pools have no part."""

    def __init__(
        self,
        *args: Any,
        token: TokenSource | None = None,
        wait: bool | float = False,
        correlation: CorrelationSource | None = None,
        single_connection_client: bool = False,
        **kwargs: Any,
    ) -> None:
        reject_options(kwargs)
        plain = redis.Redis(*args, **kwargs)
        pool = guarded_pool(Guarded, plain, token, wait, correlation)
        is_own = plain.auto_close_connection_pool or pool is not plain.connection_pool
        plain.auto_close_connection_pool = False
        super().__init__(
            connection_pool=pool,
            single_connection_client=single_connection_client,
            event_dispatcher=kwargs.get("event_dispatcher"),
        )
        self.auto_close_connection_pool = is_own
        self._session: Session = pool.connection_class.session
        self._is_single = single_connection_client

    @classmethod
    def from_url(  # type: ignore[override]
        cls,
        url: str,
        *,
        token: TokenSource | None = None,
        wait: bool | float = False,
        correlation: CorrelationSource | None = None,
        **kwargs: Any,
    ) -> Self:
        """Like `redis.Redis.from_url`, for the holder of *token*."""
        own = {name: kwargs.pop(name) for name in cls._OPTIONS if name in kwargs}
        reject_options(kwargs)
        pool = redis.ConnectionPool.from_url(url, **kwargs)
        return cls(connection_pool=pool, token=token, wait=wait, correlation=correlation, **own)

    @classmethod
    def from_pool(
        cls,
        connection_pool: redis.ConnectionPool,
        *,
        token: TokenSource | None = None,
        wait: bool | float = False,
        correlation: CorrelationSource | None = None,
        **own: Any,
    ) -> Self:
        """Like `redis.Redis.from_pool`, for the holder of *token*.

        Args:
            own: Options of the client itself.
        """
        client = cls(
            connection_pool=connection_pool, token=token, wait=wait, correlation=correlation, **own
        )
        client.auto_close_connection_pool = True
        return client

    @classmethod
    def from_sentinel(
        cls,
        sentinel: Sentinel,
        service_name: str,
        *,
        token: TokenSource | None = None,
        wait: bool | float = False,
        correlation: CorrelationSource | None = None,
        **kwargs: Any,
    ) -> Self:
        """Return a client of the primary that Sentinels report, for the holder of *token*.

        Like `Sentinel.master_for`, which cannot pass on a token. After a failover the next
        connection is to the new primary.

        Args:
            sentinel: A `redis.sentinel.Sentinel`.
            service_name: The name of the primary in the Sentinels.
            kwargs: Options of connections; they override those of *sentinel*.
        """
        own = {name: kwargs.pop(name) for name in cls._OPTIONS if name in kwargs}
        options = {**sentinel.connection_kwargs, **kwargs}
        reject_options(options)
        pool = SentinelConnectionPool(service_name, sentinel, **options)
        return cls.from_pool(pool, token=token, wait=wait, correlation=correlation, **own)

    def client(self) -> Self:
        """Return a client with the same token and its own connection."""
        return type(self)(connection_pool=self.connection_pool, single_connection_client=True)

    def pubsub(self, **options: Any) -> redis.client.PubSub:
        """Return redis-py's PubSub, over a guarded connection.

        Raises:
            CommandRefusedError: a handler of push messages is given.
        """
        if options.get("push_handler_func") is not None:
            raise push_handler()
        above: Any = super()
        pubsub: redis.client.PubSub = above.pubsub(**options)
        return pubsub

    def pipeline(
        self, transaction: bool = True, shard_hint: Any = None, *, once: str | None = None
    ) -> Pipeline:
        """Return a pipeline like redis-py's, whose calls go through the guard.

        With *transaction* it is one batch: all commands are allowed, or none runs. Without, each
        command is checked on its own, up to 128 commands or 1 MiB in one call; a rate-limited
        command that waits may be overtaken by others of the same call. As in EXEC, the error of a
        command takes the place of its result; unlike EXEC, so does a wrong number of arguments.
        *once* is the idempotency id of what it executes, see `keyleash.once`.
        """
        pool, callbacks = self.connection_pool, self.response_callbacks
        pipeline = Pipeline(pool, callbacks, transaction, shard_hint)
        pipeline.once = once
        return pipeline

    def batch(self, *, once: str | None = None) -> Batch:
        """Queue commands in a `with` block; leaving it runs all of them, or none.

        The results are in `results` after the block. A denial is raised, with the number of its
        command in the details as `item`. An exception in the block discards the commands.
        *once* is the idempotency id of the batch, see `keyleash.once`.
        """
        batch = Batch(self.connection_pool, self.response_callbacks, True, None)
        batch.once = once
        return batch

    @contextmanager
    def _connected(self) -> Iterator[Any]:
        """Check out a connection."""
        if self._is_single:
            with own_lock(self):
                if self.connection is not None:
                    yield self.connection
                    return
        connection = self.connection_pool.get_connection()
        try:
            yield connection
        finally:
            self.connection_pool.release(connection)

    def execute_command(self, *args: Any, **options: Any) -> Any:
        """Send a command through the guard; return its reply, or raise the typed denial.

        Args:
            args: The command.
            options: As of redis-py; besides, `once` is its idempotency id, see `keyleash.once`.
        """
        if "once" in options:
            with maybe_once(options.pop("once")):
                return self.execute_command(*args, **options)
        pool = self.connection_pool
        is_usual = (
            not self._is_single
            and redis.Redis.execute_command is _EXECUTE
            # redis-py repeats calls with ids.
            and current_block() is None
        )
        connection: Any = checkout(pool) if is_usual else None
        try:
            if connection is None:
                return super().execute_command(*args, **options)  # type: ignore[no-untyped-call]
            try:
                # A parser of the user's own reads from a connection.
                if needs_parser(self, options):
                    connection.send_command(*args)
                    return self.parse_response(connection, args[0], **options)  # type: ignore[no-untyped-call]
                return called_back(self, args[0], connection.run(args), options)
            except Exception as error:
                return self._retried(connection, error, args, options)
        except NotReplicatedError as short:
            result = called_back(self, args[0], short.reply, options)
            raise short.about(result) from short.__cause__
        finally:
            if connection is not None:
                checkin(pool, connection)

    def _retried(
        self,
        connection: Any,
        first: Exception | None,
        words: tuple[Any, ...],
        options: dict[str, Any],
    ) -> Any:
        """Follow the retry policy of a connection after its first error."""
        if isinstance(first, ReadOnlyError | MasterDownError):
            # It is no longer a primary, and its name may resolve to another one by now.
            connection.disconnect()

        def again() -> Any:
            nonlocal first
            if first is not None:
                error, first = first, None
                raise error
            connection.send_command(*words)
            return self.parse_response(connection, words[0], **options)  # type: ignore[no-untyped-call]

        return connection.retry.call_with_retry(again, lambda _: connection.disconnect())
