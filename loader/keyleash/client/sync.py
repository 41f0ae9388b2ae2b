"""A drop-in replacement for `redis.Redis` that calls guards."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Self

import redis
import redis.client
from redis.exceptions import MasterDownError, ReadOnlyError
from redis.sentinel import Sentinel, SentinelConnectionPool

from keyleash.client._redis_py import BufferedReply, checkin, checkout
from keyleash.client.calls import Call
from keyleash.client.correlation import CorrelationSource
from keyleash.client.pools import guarded_pool
from keyleash.client.session import Session
from keyleash.client.tokens import TokenSource, token_from_env, url_from_env
from keyleash.client.unsupported import reject_coalesce, require_no_cache
from keyleash.client.whoami import WhoAmI
from keyleash.errors import NotReplicatedError
from keyleash.store.wire import BatchMode


class Pipeline(redis.client.Pipeline):
    """Made by `keyleash.Redis.pipeline`; redis-py's, over guarded connections."""

    def execute(self, raise_on_error: bool = True) -> list[Any]:
        """Send the queued commands; return one result for each, in order."""
        commands = self.command_stack
        try:
            return super().execute(raise_on_error)
        except NotReplicatedError as short:
            raise short.about(self._parsed(commands, short.reply)) from short.__cause__

    def _parsed(self, commands: Sequence[Any], replies: Sequence[Any]) -> list[Any]:
        """Return the results of commands that were done, as `execute` does."""
        parse: Any = redis.Redis.parse_response
        return [
            reply
            if isinstance(reply, Exception)
            else parse(self, BufferedReply(reply), words[0], **options)
            for (words, options), reply in zip(commands, replies, strict=True)
        ]


class Batch(Pipeline):
    """Made by `keyleash.Redis.batch`: a `with` block whose commands all run, or none.

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
            self.reset()

    def execute(self, raise_on_error: bool = True) -> list[Any]:
        """Send the queued commands; return one result for each, in order."""
        commands = self.command_stack
        self.results = []
        try:
            self.results = results = super().execute(raise_on_error=False)
        except NotReplicatedError as short:
            self.results = short.reply
            raise
        if raise_on_error:
            self.raise_first_error(commands, results)  # type: ignore[no-untyped-call]
        return results


class Redis(redis.Redis):
    """A drop-in `redis.Redis` for the holder of a token.

    Every command goes through the guard of the token's identity. A denial is raised
    as a `LeashError`; every other reply and error is as in redis-py. A command that was sent is
    never sent again, whatever the retry policy, since it may have run, unless its reply says that
    nothing ran.

    Args:
        token: The agent's token, which never appears in a repr, log or exception; or a callable
            that returns it, such as a `TokenFile`, which is called again, once per call, after
            TOKEN_EXPIRED or TOKEN_REVOKED; then the call is repeated. It must return tokens of
            one identity.
            With a pool of guarded connections, such as `keyleash.pool` returns, it is left out.
            Of another pool a copy is used.
        wait: Whether a rate-limited call sleeps and retries: True, or the number of seconds
            that one call may sleep in all.
        correlation: The correlation id of calls outside of `keyleash.correlation` blocks, or a
            callable that returns it, as for these blocks.

    Raises:
        TokenUnknownError: the token is malformed.
        ValueError: *wait* is negative.
        SecretInTextError: *correlation* contains a token.
        CommandRefusedError: a client-side cache is requested.
    """

    def __init__(
        self,
        *args: Any,
        token: TokenSource | None = None,
        wait: bool | float = False,
        correlation: CorrelationSource | None = None,
        single_connection_client: bool = False,
        **kwargs: Any,
    ) -> None:
        reject_coalesce(kwargs)
        require_no_cache(kwargs)
        plain = redis.Redis(*args, **kwargs)
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

    @classmethod
    def from_url(
        cls,
        url: str,
        *,
        token: TokenSource | None = None,
        wait: bool | float = False,
        correlation: CorrelationSource | None = None,
        **kwargs: Any,
    ) -> Self:
        """Like `redis.Redis.from_url`, for the holder of *token*."""
        reject_coalesce(kwargs)
        require_no_cache(kwargs)
        single_connection_client = kwargs.pop("single_connection_client", False)
        return cls(
            connection_pool=redis.ConnectionPool.from_url(url, **kwargs),
            single_connection_client=single_connection_client,
            token=token,
            wait=wait,
            correlation=correlation,
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
        connection_pool: redis.ConnectionPool,
        *,
        token: TokenSource | None = None,
        wait: bool | float = False,
        correlation: CorrelationSource | None = None,
    ) -> Self:
        """Like `redis.Redis.from_pool`, for the holder of *token*."""
        client = cls(
            connection_pool=connection_pool, token=token, wait=wait, correlation=correlation
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
        options = {**sentinel.connection_kwargs, **kwargs}
        pool = SentinelConnectionPool(service_name, sentinel, **options)
        return cls.from_pool(pool, token=token, wait=wait, correlation=correlation)

    def pipeline(self, transaction: bool = True, shard_hint: Any = None) -> Pipeline:
        """Return a pipeline like redis-py's, whose calls go through the guard.

        With *transaction* it is one batch: all commands are allowed, or none runs. Without, each
        command is checked on its own, up to 128 commands or 1 MiB in one call; a rate-limited
        command that waits may be overtaken by others of the same call. As in EXEC, the error of a
        command takes the place of its result; unlike EXEC, so does a wrong number of arguments.
        """
        return Pipeline(self.connection_pool, self.response_callbacks, transaction, shard_hint)

    def batch(self) -> Batch:
        """Queue commands in a `with` block; leaving it runs all of them, or none.

        The results are in `results` after the block. A denial is raised, with the number of its
        command in the details as `item`. An exception in the block discards the commands.
        """
        return Batch(self.connection_pool, self.response_callbacks, True, None)

    def whoami(self) -> WhoAmI:
        """Return the identity, the expiry and what is left of each limit, as its guard reports it.

        Nothing is charged, recorded or written.

        Raises:
            LeashError: As of every call: the token is over, or the identity is suspended.
        """
        connection: Any = self.connection or self.connection_pool.get_connection()
        try:
            with self.single_connection_lock:
                return self._session.whoami(connection.call(Call([], BatchMode.WHOAMI)))
        finally:
            if self.connection is None:
                self.connection_pool.release(connection)

    def client(self) -> Self:
        """Return a client with the same token and its own connection."""
        return type(self)(connection_pool=self.connection_pool, single_connection_client=True)

    def execute_command(self, *args: Any, **options: Any) -> Any:
        """Send a command through the guard; return its reply, or raise the typed denial."""
        pool = self.connection_pool
        connection = None if self.connection is not None else checkout(pool)
        try:
            if connection is None:
                return super().execute_command(*args, **options)  # type: ignore[no-untyped-call]
            try:
                connection.send_command(*args)
                return self.parse_response(connection, args[0], **options)  # type: ignore[no-untyped-call]
            except Exception as error:
                return self._retried(connection, error, args, options)
        except NotReplicatedError as short:
            parse: Any = self.parse_response
            reply = parse(BufferedReply(short.reply), args[0], **options)
            raise short.about(reply) from short.__cause__
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
