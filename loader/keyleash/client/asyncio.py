"""A drop-in replacement for `redis.asyncio.Redis` that calls guards."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any, Self

import redis.asyncio
import redis.asyncio.client
from redis.asyncio.sentinel import Sentinel, SentinelConnectionPool
from redis.exceptions import MasterDownError, ReadOnlyError

from keyleash.client._redis_py import BufferedReply, UnreplicatedReply
from keyleash.client.calls import Call, RateWait
from keyleash.client.coalesce import Coalescer, goes_alone
from keyleash.client.correlation import CorrelationSource
from keyleash.client.pools import guarded_pool
from keyleash.client.session import Session
from keyleash.client.tokens import AsyncTokenSource, token_from_env, url_from_env
from keyleash.client.unsupported import require_no_cache
from keyleash.client.whoami import WhoAmI
from keyleash.errors import NotReplicatedError, RateLimitedError
from keyleash.store.wire import BatchMode


class Pipeline(redis.asyncio.client.Pipeline):
    """Made by `keyleash.asyncio.Redis.pipeline`; redis-py's, over guarded connections."""

    async def execute(self, raise_on_error: bool = True) -> list[Any]:
        """Send the queued commands; return one result for each, in order."""
        commands = self.command_stack
        try:
            results: list[Any] = await super().execute(raise_on_error)
        except NotReplicatedError as short:
            raise short.about(self._parsed(commands, short.reply)) from short.__cause__
        return results

    def _parsed(self, commands: Sequence[Any], replies: Sequence[Any]) -> list[Any]:
        """Return the results of commands that were done, as `execute` does."""
        return [
            reply if isinstance(reply, Exception) else _response(self, reply, words[0], options)
            for (words, options), reply in zip(commands, replies, strict=True)
        ]


class Batch(Pipeline):
    """Made by `keyleash.asyncio.Redis.batch`: a block whose commands all run, or none.

    Attributes:
        results: The results of the last `execute`, or of leaving the block.
    """

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.results: list[Any] = []

    async def __aenter__(self) -> Self:
        self.results = []
        return self

    async def __aexit__(self, exc_type: Any, exc_value: Any, traceback: Any) -> None:
        try:
            if exc_type is None and self.command_stack:
                await self.execute()
        finally:
            await self.reset()  # type: ignore[no-untyped-call]

    async def execute(self, raise_on_error: bool = True) -> list[Any]:
        """Send the queued commands; return one result for each, in order."""
        commands: Any = self.command_stack
        self.results = []
        try:
            self.results = results = await super().execute(raise_on_error=False)
        except NotReplicatedError as short:
            self.results = short.reply
            raise
        if raise_on_error:
            self.raise_first_error(commands, results)
        return results


def _response(client: Any, reply: Any, name: str | bytes, options: dict[str, Any]) -> Any:
    """Return what redis-py makes of a reply that was read."""
    # The sync client's parser does the same without I/O.
    parse: Any = redis.Redis.parse_response
    return parse(
        client, reply if isinstance(reply, BufferedReply) else BufferedReply(reply), name, **options
    )


class Redis(redis.asyncio.Redis):
    """A drop-in `redis.asyncio.Redis` for the holder of a token.

    Every command goes through the guard of the token's identity. A denial is raised
    as a `LeashError`; every other reply and error is as in redis-py. A command that was sent is
    never sent again, whatever the retry policy, since it may have run, unless its reply says that
    nothing ran.

    Args:
        token: The agent's token, which never appears in a repr, log or exception; or a callable
            that returns it, such as a `TokenFile`, or a coroutine function. It is called at the
            first use, and again, once per call, after TOKEN_EXPIRED or TOKEN_REVOKED; then the
            call is repeated. It must return tokens of one identity.
            With a pool of guarded connections, such as `keyleash.asyncio.pool` returns, it is left
            out. Of another pool a copy is used.
        wait: Whether a rate-limited call sleeps and retries: True, or the number of seconds
            that one call may sleep in all.
        correlation: The correlation id of calls outside of `keyleash.correlation` blocks, or a
            callable that returns it, as for these blocks.
        coalesce: Whether commands that tasks issue in one event-loop iteration are sent in one
            batch, which checks each on its own. Commands with the same correlation id may share
            an audit event. Many commands use up to two connections. Commands of different tasks
            have no order.

    Raises:
        TokenUnknownError: the token is malformed.
        ValueError: *wait* is negative.
        SecretInTextError: *correlation* contains a token.
        CommandRefusedError: a client-side cache is requested.
    """

    def __init__(
        self,
        *,
        token: AsyncTokenSource | None = None,
        wait: bool | float = False,
        correlation: CorrelationSource | None = None,
        coalesce: bool = False,
        single_connection_client: bool = False,
        **kwargs: Any,
    ) -> None:
        require_no_cache(kwargs)
        plain = redis.asyncio.Redis(**kwargs)
        pool = guarded_pool(plain, token, wait, correlation)
        is_own = plain.auto_close_connection_pool or pool is not plain.connection_pool
        plain.auto_close_connection_pool = False
        super().__init__(
            connection_pool=pool,
            single_connection_client=single_connection_client,
            event_dispatcher=kwargs.get("event_dispatcher"),
        )
        self.auto_close_connection_pool = is_own
        self._session: Session = pool.connection_class.session
        # A parser of the user's own reads from a connection.
        has_own_parser = type(self).parse_response is not redis.asyncio.Redis.parse_response
        self._coalesce = coalesce and not has_own_parser
        self._coalescing: Coalescer | None = None

    @classmethod
    def from_url(  # type: ignore[override]
        cls,
        url: str,
        *,
        token: AsyncTokenSource | None = None,
        wait: bool | float = False,
        correlation: CorrelationSource | None = None,
        coalesce: bool = False,
        **kwargs: Any,
    ) -> Self:
        """Like `redis.asyncio.Redis.from_url`, for the holder of *token*."""
        require_no_cache(kwargs)
        single_connection_client = kwargs.pop("single_connection_client", False)
        return cls(
            connection_pool=redis.asyncio.ConnectionPool.from_url(url, **kwargs),
            single_connection_client=single_connection_client,
            token=token,
            wait=wait,
            correlation=correlation,
            coalesce=coalesce,
        )

    @classmethod
    def from_env(cls, **options: Any) -> Self:
        """Return a client of the server in `KEYLEASH_URL`.

        Its token is in `KEYLEASH_TOKEN`, or in the file that `KEYLEASH_TOKEN_FILE` names, which is
        read again when the token is over, see `TokenFile`.

        Args:
            options: Those of `from_url`, without the token.

        Raises:
            OperationError (bad-environment): A variable is missing, or both have a token.
            OperationError (bad-url): The URL does not name a server.
        """
        return cls.from_url(url_from_env(), token=token_from_env(), **options)

    @classmethod
    def from_pool(
        cls,
        connection_pool: redis.asyncio.ConnectionPool,
        *,
        token: AsyncTokenSource | None = None,
        wait: bool | float = False,
        correlation: CorrelationSource | None = None,
        coalesce: bool = False,
    ) -> Self:
        """Like `redis.asyncio.Redis.from_pool`, for the holder of *token*."""
        client = cls(
            connection_pool=connection_pool,
            token=token,
            wait=wait,
            correlation=correlation,
            coalesce=coalesce,
        )
        client.auto_close_connection_pool = True
        return client

    @classmethod
    def from_sentinel(
        cls,
        sentinel: Sentinel,
        service_name: str,
        *,
        token: AsyncTokenSource | None = None,
        wait: bool | float = False,
        correlation: CorrelationSource | None = None,
        coalesce: bool = False,
        **kwargs: Any,
    ) -> Self:
        """Return a client of the primary that Sentinels report, for the holder of *token*.

        Like `Sentinel.master_for`, which cannot pass on a token. After a failover the next
        connection is to the new primary.

        Args:
            sentinel: A `redis.asyncio.sentinel.Sentinel`.
            service_name: The name of the primary in the Sentinels.
            kwargs: Options of connections; they override those of *sentinel*.
        """
        options = {**sentinel.connection_kwargs, **kwargs}
        pool = SentinelConnectionPool(service_name, sentinel, **options)
        return cls.from_pool(
            pool, token=token, wait=wait, correlation=correlation, coalesce=coalesce
        )

    def client(self) -> Self:
        """Return a client with the same token and its own connection."""
        return type(self)(
            connection_pool=self.connection_pool,
            single_connection_client=True,
            coalesce=self._coalesce,
        )

    def pipeline(self, transaction: bool = True, shard_hint: Any = None) -> Pipeline:
        """Return a pipeline like redis-py's, whose calls go through the guard.

        With *transaction* it is one batch: all commands are allowed, or none runs. Without, each
        command is checked on its own, up to 128 commands or 1 MiB in one call; a rate-limited
        command that waits may be overtaken by others of the same call. As in EXEC, the error of a
        command takes the place of its result; unlike EXEC, so does a wrong number of arguments.
        """
        return Pipeline(self.connection_pool, self.response_callbacks, transaction, shard_hint)

    def batch(self) -> Batch:
        """Queue commands in an `async with` block; leaving it runs all of them, or none.

        The results are in `results` after the block. A denial is raised, with the number of its
        command in the details as `item`. An exception in the block discards the commands.
        """
        return Batch(self.connection_pool, self.response_callbacks, True, None)

    async def whoami(self) -> WhoAmI:
        """Return the identity, the expiry and what is left of each limit, as its guard reports it.

        Nothing is charged, recorded or written.

        Raises:
            LeashError: As of every call: the token is over, or the identity is suspended.
        """
        async with self._connected() as connection:
            return self._session.whoami(await connection.call(Call([], BatchMode.WHOAMI)))

    @asynccontextmanager
    async def _connected(self) -> AsyncIterator[Any]:
        """Check out a connection."""
        if self.single_connection_client:
            await self.initialize()
            async with self._single_conn_lock:
                yield self.connection
            return
        connection = await self.connection_pool.get_connection()
        try:
            yield connection
        finally:
            await self.connection_pool.release(connection)

    async def execute_command(self, *args: Any, **options: Any) -> Any:
        """Send a command through the guard; return its reply, or raise the typed denial."""
        if not self._coalesce or goes_alone(args[0]):
            return await self._alone(args, options)
        guarded: Any = self.connection_pool.connection_class
        waiting = RateWait(guarded.wait_s)
        while True:
            try:
                return await self._coalesced(args, options)
            except RateLimitedError as denial:
                pause = waiting.pause([denial])
            await guarded.sleep(pause.seconds)

    async def aclose(self, close_connection_pool: bool | None = None) -> None:
        """Close the client; commands that are not yet sent fail."""
        if self._coalescing is not None:
            self._coalescing.close()
        await super().aclose(close_connection_pool)

    async def _coalesced(self, words: tuple[Any, ...], options: dict[str, Any]) -> Any:
        loop = asyncio.get_running_loop()
        if self._coalescing is None or self._coalescing.loop is not loop:
            self._coalescing = Coalescer(
                self._session,
                self.connection_pool,
                self._connected,
                bool(self.single_connection_client),
                loop,
            )
        reply = await self._coalescing.join(words)
        if reply is None:
            return await self._coalescing.alone(self._alone(words, options))
        response = _response(self, reply, words[0], options)
        if hasattr(response, "__await__"):
            response = await response
        if isinstance(reply, UnreplicatedReply):
            raise reply.short.about(response)
        return response

    async def _alone(self, words: tuple[Any, ...], options: dict[str, Any]) -> Any:
        pool = self.connection_pool
        is_single = self.single_connection_client
        connection: Any = None if is_single else await pool.get_connection()
        try:
            if connection is None:
                return await super().execute_command(*words, **options)  # type: ignore[no-untyped-call]
            try:
                await connection.send_command(*words)
                return await self.parse_response(connection, words[0], **options)
            except Exception as error:
                return await self._retried(connection, error, words, options)
        except NotReplicatedError as short:
            raise short.about(_response(self, short.reply, words[0], options)) from short.__cause__
        finally:
            if connection is not None:
                await pool.release(connection)

    async def _retried(
        self,
        connection: Any,
        first: Exception | None,
        words: tuple[Any, ...],
        options: dict[str, Any],
    ) -> Any:
        """Follow the retry policy of a connection after its first error."""
        if isinstance(first, ReadOnlyError | MasterDownError):
            # It is no longer a primary, and its name may resolve to another one by now.
            await connection.disconnect(nowait=True)

        async def again() -> Any:
            nonlocal first
            if first is not None:
                error, first = first, None
                raise error
            await connection.send_command(*words)
            return await self.parse_response(connection, words[0], **options)

        return await connection.retry.call_with_retry(again, lambda _: connection.disconnect())
