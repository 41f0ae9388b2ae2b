"""A drop-in replacement for `redis.asyncio.Redis` that calls guards."""

from __future__ import annotations

import asyncio
import inspect
import time
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any, Self

import redis.asyncio
import redis.asyncio.client
from redis.asyncio.sentinel import Sentinel, SentinelConnectionPool
from redis.client import EMPTY_RESPONSE, NEVER_DECODE
from redis.exceptions import DataError, MasterDownError, ReadOnlyError, ResponseError
from redis.exceptions import TimeoutError as RedisTimeoutError

from keyleash.client._redis_py import (
    AsyncBufferedReply,
    BufferedReply,
    UnreplicatedReply,
    encode_commands,
    pack,
    require_reply,
)
from keyleash.client.blocking import call_patiently, may_block
from keyleash.client.coalesce import Coalescer, goes_alone
from keyleash.client.correlation import CorrelationSource
from keyleash.client.flow import (
    Ask,
    BatchCall,
    Flow,
    NothingYet,
    Pause,
    Plain,
    Queued,
    QueuedCommand,
    RateWait,
    adrive,
    longest_wait,
)
from keyleash.client.recovery import fetch_guard, recover
from keyleash.client.replication import Read, WaitConnection, call_with_replicas, commands_of
from keyleash.client.session import GuardedTransport, Session
from keyleash.client.tokens import AsyncTokenSource, aasked, token_from_env, url_from_env
from keyleash.client.unsupported import (
    UnsupportedInClient,
    UnsupportedInPipeline,
    require_no_cache,
    require_no_watches,
)
from keyleash.client.whoami import WhoAmI
from keyleash.errors import LeashError, NotReplicatedError
from keyleash.store.wire import BatchMode


class Pipeline(UnsupportedInPipeline, redis.asyncio.client.Pipeline):  # type: ignore[misc]
    """Made by `keyleash.asyncio.Redis.pipeline`; it queues commands like redis-py's."""

    # The parser of redis-py's pipeline handles WATCH, which is never sent here.
    parse_response = redis.asyncio.Redis.parse_response

    async def transaction(self, *args: Any, **options: Any) -> Any:
        """A transaction of the same client."""
        return await self._client.transaction(*args, **options)

    async def __aenter__(self) -> Self:
        return self

    async def execute(self, raise_on_error: bool = True) -> list[Any]:
        """Send the queued commands; return one result for each, in order."""
        commands: Any = self.command_stack
        try:
            if not commands:
                return []
            results = await self._results(commands)
            if raise_on_error:
                self.raise_first_error(commands, results)
            return results
        finally:
            await self.reset()  # type: ignore[no-untyped-call]

    async def _results(self, commands: list[Queued]) -> list[Any]:
        try:
            answers = await self._transport.run(self._flow(commands))
        except LeashError as denial:
            self._name_denied(denial, commands)
            raise
        except NotReplicatedError as short:
            raise short.about(await self._parsed(short.reply, commands)) from short.__cause__
        return await self._parsed(answers, commands)

    async def _parsed(self, answers: list[Any], commands: list[Queued]) -> list[Any]:
        return [await self._result(*answer) for answer in zip(answers, commands, strict=True)]

    async def _result(self, answer: BufferedReply | Exception, queued: Queued) -> Any:
        if isinstance(answer, Exception):
            return answer
        words, options = queued
        source: Any = AsyncBufferedReply(answer)
        try:
            response = await self.parse_response(source, words[0], **options)
        except ResponseError as error:
            return error
        return self._transport.session.final_response(words[0], response)


class Batch(Pipeline):
    """Made by `keyleash.asyncio.Redis.batch`: a block whose commands all run, or none.

    Attributes:
        results: The results of the last `execute`, or of leaving the block.
    """

    def __init__(self, client: Redis, transport: GuardedTransport) -> None:
        super().__init__(client, transport, transaction=True)
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
            self.results = await super().execute(raise_on_error=False)
        except NotReplicatedError as short:
            self.results = short.reply
            raise
        if raise_on_error:
            self.raise_first_error(commands, self.results)
        return self.results


class Redis(UnsupportedInClient, redis.asyncio.Redis):  # type: ignore[misc]
    """A drop-in `redis.asyncio.Redis` for the holder of a token.

    Every command goes through the guard of the token's identity. A denial is raised
    as a `LeashError`; every other reply and error is as in redis-py. A command that was sent is
    never sent again, whatever the retry policy, since it may have run: only connecting is
    retried.

    Args:
        token: The agent's token, which never appears in a repr, log or exception; or a callable
            that returns it, such as a `TokenFile`, or a coroutine function. It is called at the
            first use, and again, once per call, after TOKEN_EXPIRED or TOKEN_REVOKED; then the
            call is repeated. It must return tokens of one identity.
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

    _clock: Callable[[], float] = staticmethod(time.monotonic)
    _sleep: Callable[[float], Awaitable[None]] = staticmethod(asyncio.sleep)

    def __init__(
        self,
        *,
        token: AsyncTokenSource,
        wait: bool | float = False,
        correlation: CorrelationSource | None = None,
        coalesce: bool = False,
        **kwargs: Any,
    ) -> None:
        require_no_cache(kwargs)
        self._session = Session(token, is_async=True, correlation=correlation)
        self._wait_s = longest_wait(wait)
        self._coalesce = coalesce
        self._coalescing: Coalescer | None = None
        super().__init__(**kwargs)

    @classmethod
    def from_url(  # type: ignore[override]
        cls,
        url: str,
        *,
        token: AsyncTokenSource,
        wait: bool | float = False,
        correlation: CorrelationSource | None = None,
        coalesce: bool = False,
        **kwargs: Any,
    ) -> Self:
        """Like `redis.asyncio.Redis.from_url`, for the holder of *token*."""
        require_no_cache(kwargs)
        single_connection_client = kwargs.pop("single_connection_client", False)
        client = cls(
            connection_pool=redis.asyncio.ConnectionPool.from_url(url, **kwargs),
            single_connection_client=single_connection_client,
            token=token,
            wait=wait,
            correlation=correlation,
            coalesce=coalesce,
        )
        client.auto_close_connection_pool = True
        return client

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
    def from_pool(  # type: ignore[override]
        cls,
        connection_pool: redis.asyncio.ConnectionPool,
        *,
        token: AsyncTokenSource,
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
        token: AsyncTokenSource,
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
            token=self._session.token,
            wait=self._wait_s,
            correlation=self._session.correlation,
            coalesce=self._coalesce,
        )

    def pipeline(self, transaction: bool = True, shard_hint: Any = None) -> Pipeline:
        """Return a pipeline like redis-py's, whose calls go through the guard.

        With *transaction* it is one batch: all commands are allowed, or none runs. Without, each
        command is checked on its own, up to 128 commands or 1 MiB in one call; a rate-limited
        command that waits may be overtaken by others of the same call. As in EXEC, the error of a
        command takes the place of its result; unlike EXEC, so does a wrong number of arguments.
        """
        return Pipeline(self, self._transport(), transaction, shard_hint)

    def batch(self) -> Batch:
        """Queue commands in an `async with` block; leaving it runs all of them, or none.

        The results are in `results` after the block. A denial is raised, with the number of its
        command in the details as `item`. An exception in the block discards the commands.
        """
        return Batch(self, self._transport())

    async def transaction(
        self,
        func: Callable[[Any], Any],
        *watches: Any,
        shard_hint: Any = None,
        value_from_callable: bool = False,
        watch_delay: float | None = None,
    ) -> Any:
        """Like redis-py's, without *watches*: WATCH cannot go through a guard."""
        require_no_watches(watches)
        async with self.pipeline(True, shard_hint) as pipe:
            value = func(pipe)
            if inspect.isawaitable(value):
                value = await value
            results = await pipe.execute()
            return value if value_from_callable else results

    async def whoami(self) -> WhoAmI:
        """Return the identity, the expiry and what is left of each limit, as its guard reports it.

        Nothing is charged, recorded or written.

        Raises:
            LeashError: As of every call: the token is over, or the identity is suspended.
        """
        call = BatchCall(BatchMode.WHOAMI, [])
        reply: WhoAmI = await self._connected("batch_digest", self._call_whoami, call)
        return reply

    async def execute_command(self, *args: Any, **options: Any) -> Any:
        """Send a command through the guard; return its reply, or raise the typed denial."""
        if self._wait_s or may_block(args[0]):
            return await self._run(
                call_patiently(args, options, RateWait(self._wait_s), self._clock)
            )
        return await self._one(args, options)

    async def aclose(self, close_connection_pool: bool | None = None) -> None:
        """Close the client; commands that are not yet sent fail."""
        if self._coalescing is not None:
            self._coalescing.close()
        await super().aclose(close_connection_pool)

    async def _one(self, words: tuple[Any, ...], options: dict[str, Any]) -> Any:
        """Send one command, possibly coalesced with others."""
        if not self._coalesce or goes_alone(words[0]):
            return await self._connected("digest", self._call, words, options)
        loop = asyncio.get_running_loop()
        if self._coalescing is None or self._coalescing.loop is not loop:
            self._coalescing = Coalescer(
                self._transport(), self.connection_pool, bool(self.single_connection_client), loop
            )
        reply = await self._coalescing.join(words, options)
        if reply is None:
            return await self._coalescing.alone(words, options)
        response = self._parsed(reply, words[0], options)
        if hasattr(response, "__await__"):
            response = await response
        response = self._session.final_response(words[0], response)
        if isinstance(reply, UnreplicatedReply):
            raise reply.short.about(response)
        return response

    def _parsed(self, reply: BufferedReply, name: str | bytes, options: dict[str, Any]) -> Any:
        """Return the response that redis-py makes of a buffered reply, or an awaitable of it."""
        if type(self).parse_response is redis.asyncio.Redis.parse_response:
            # The sync client's parser does the same without the cost of a coroutine.
            parse: Any = redis.Redis.parse_response
            return parse(self, reply, name, **options)
        source: Any = AsyncBufferedReply(reply)
        return self.parse_response(source, name, **options)

    def _transport(self) -> GuardedTransport:
        return GuardedTransport(
            self._session, self._wait_s, self._run, self._connected, self._call, self._encoder
        )

    async def _run(self, flow: Flow) -> Any:
        return await adrive(flow, self._perform)

    async def _perform(self, action: Pause | QueuedCommand | BatchCall) -> Any:
        match action:
            case Pause(seconds):
                return await self._sleep(seconds)
            case QueuedCommand(words, options, poll=True):
                return await self._connected("digest", self._poll, words, options)
            case QueuedCommand(words, options):
                return await self._one(words, options)
            case BatchCall():
                return await self._connected("batch_digest", self._call_batch, action)

    async def _connected(self, kind: str, call: Callable[..., Any], *args: Any) -> Any:
        """Make a call on a connection; recover if the reply says that nothing ran.

        Args:
            kind: The field of the guard record that names the script.
        """
        session = self._session
        pool = self.connection_pool
        if self.single_connection_client:
            await self.initialize()
        connection = self.connection or await pool.get_connection()
        if self.single_connection_client:
            await self._single_conn_lock.acquire()
        try:
            if session.guard is None:
                await adrive(fetch_guard(session), partial(self._on, connection, call, args))
            called = session.guard
            try:
                return await self._make(connection, call, args)
            except session.recoverable as error:
                flow = recover(session, called, error, kind)
            return await adrive(flow, partial(self._on, connection, call, args))
        except (ReadOnlyError, MasterDownError):
            # The server is no longer a primary, and its name may resolve to another one by now.
            await connection.disconnect(nowait=True)
            raise
        except (ResponseError, DataError, NothingYet, NotReplicatedError):
            # The reply was read, or the request was never sent: the connection is clean.
            raise
        except BaseException:
            # A late reply must not be read as that of the next command.
            await connection.disconnect(nowait=True)
            raise
        finally:
            try:
                if self.single_connection_client and connection.should_reconnect():
                    await connection.disconnect()
                    await connection.connect()
            finally:
                if self.single_connection_client:
                    self._single_conn_lock.release()
                if not self.connection:
                    await pool.release(connection)

    async def _make(self, connection: Any, call: Callable[..., Any], args: tuple[Any, ...]) -> Any:
        """Make a call, and wait for replicas if its identity's policy says so."""
        guard = self._session.guard
        if guard is None or not guard.wait_replicas:
            return await call(connection, *args)
        guard = self._session.guard_awaiting_replicas(commands_of(args[0]))
        if guard is None:
            return await call(connection, *args)
        wait_connection = WaitConnection(connection, guard)
        has_written = partial(self._session.has_written, args[0])
        follow = partial(self._follow, wait_connection, call, args)
        return await adrive(call_with_replicas(wait_connection, guard, has_written), follow)

    @staticmethod
    async def _follow(
        wait_connection: Any, call: Callable[..., Any], args: tuple[Any, ...], action: Any
    ) -> Any:
        """Make a call with WAIT behind it, or read the reply to WAIT."""
        if action is Read.REPLY:
            reply = await wait_connection.read_wait_reply()
            if reply is None:
                # After a given timeout redis-py leaves the connection open, and the next user would
                # read the reply when it comes.
                await wait_connection.disconnect(nowait=True)
                raise RedisTimeoutError("Timeout reading the reply to WAIT")
            return reply
        return await call(wait_connection, *args)

    async def _on(
        self, connection: Any, call: Callable[..., Any], args: tuple[Any, ...], action: Any
    ) -> Any:
        """Carry out an action of `recover`."""
        if isinstance(action, Plain):
            await connection.send_packed_command(pack(action.words))
            return await connection.read_response(disable_decoding=True)
        if isinstance(action, Pause):
            return await self._sleep(action.seconds)
        if action is Ask.TOKEN:
            return self._session.accept_token(await aasked(self._session.token))
        return await self._make(connection, call, args)

    # No function that reads a reply has the request, which contains the token, in a local
    # variable: error reports may show local variables.

    def _packed(self, connection: Any, words: tuple[Any, ...]) -> list[bytes]:
        encoder = connection.encoder
        (words,) = encode_commands([words], encoder)
        return pack(self._session.request(words, connection.get_protocol()), encoder)

    async def _call(self, connection: Any, words: tuple[Any, ...], options: dict[str, Any]) -> Any:
        await connection.send_packed_command(self._packed(connection, words))
        return await self._read(connection, words, options)

    async def _poll(self, connection: Any, words: tuple[Any, ...], options: dict[str, Any]) -> Any:
        await connection.send_packed_command(self._packed(connection, words))
        try:
            reply = await connection.read_response(disable_decoding=NEVER_DECODE in options)
        except ResponseError as error:
            reply = error
        return await self._read(AsyncBufferedReply(require_reply(reply)), words, options)

    async def _read(self, source: Any, words: tuple[Any, ...], options: dict[str, Any]) -> Any:
        # redis-py turns some errors into an empty reply; a denial must never become one.
        if EMPTY_RESPONSE in options:
            read = {name: value for name, value in options.items() if name != EMPTY_RESPONSE}
        else:
            read = options
        try:
            response = await self.parse_response(source, words[0], **read)
        except ResponseError as error:
            return self._session.fallback(error, options)
        return self._session.final_response(words[0], response)

    async def _call_batch(self, connection: Any, batch: BatchCall) -> list[Any]:
        reply = await self._batch_reply(connection, batch, batch.undecoded)
        return self._session.batch_replies(
            len(batch.commands), reply, self._encoder() if batch.undecoded else None
        )

    async def _call_whoami(self, connection: Any, batch: BatchCall) -> WhoAmI:
        return self._session.whoami(await self._batch_reply(connection, batch, True))

    async def _batch_reply(self, connection: Any, batch: BatchCall, undecoded: bool) -> Any:
        words = encode_commands(batch.words, connection.encoder)
        await connection.send_packed_command(
            pack(
                self._session.batch_request(batch.mode, words, connection.get_protocol()),
                connection.encoder,
            )
        )
        try:
            return await connection.read_response(disable_decoding=undecoded)
        except ResponseError as error:
            raise self._session.call_error(error) from None

    def _encoder(self) -> Any:
        return self.get_encoder()  # type: ignore[no-untyped-call]
