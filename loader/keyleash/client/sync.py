"""A drop-in replacement for `redis.Redis` that calls guards."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any, Self

import redis
import redis.client
from redis.client import EMPTY_RESPONSE, NEVER_DECODE
from redis.exceptions import DataError, MasterDownError, NoScriptError, ReadOnlyError, ResponseError
from redis.sentinel import Sentinel, SentinelConnectionPool

from keyleash.client._redis_py import InHand, found, give_back, packed, take
from keyleash.client.blocking import may_block, patient
from keyleash.client.flow import (
    BatchCall,
    Flow,
    NothingYet,
    Pause,
    Plain,
    Queued,
    QueuedCommand,
    Waiting,
    bound_of,
    drive,
    pipelined,
)
from keyleash.client.recovery import find_guard, healing
from keyleash.client.replication import Followed, Read, commands_of, replicated
from keyleash.client.session import Session
from keyleash.client.unsupported import Queueing, Unscoped, require_no_cache, require_no_watches
from keyleash.errors import LeashError, NotReplicatedError, PolicyStaleError

if TYPE_CHECKING:
    pass


class Pipeline(Queueing, redis.client.Pipeline):
    """Made by `keyleash.Redis.pipeline`; it queues as redis-py's does."""

    def __init__(self, client: Redis, transaction: bool, shard_hint: Any = None) -> None:
        super().__init__(client.connection_pool, client.response_callbacks, transaction, shard_hint)
        self._client = client
        self._atomic = transaction

    # A pipeline's own looks for WATCH, which never comes here.
    parse_response = redis.Redis.parse_response

    def pipeline(self, transaction: bool = True, shard_hint: Any = None) -> Pipeline:
        """Another pipeline of the same client."""
        return self._client.pipeline(transaction, shard_hint)

    def __enter__(self) -> Self:
        return self

    def execute(self, raise_on_error: bool = True) -> list[Any]:
        """Send what was queued; one result for each command, in order."""
        commands: list[Queued] = self.command_stack
        try:
            if not commands:
                return []
            results = self._results(commands, self._atomic or self.explicit_transaction)
            if raise_on_error:
                self.raise_first_error(commands, results)
            return results
        finally:
            self.reset()

    def _results(self, commands: list[Queued], atomic: bool) -> list[Any]:
        client = self._client
        flow = pipelined(commands, atomic, Waiting(client._wait_s), client.get_encoder)
        try:
            answers = client._run(flow)
        except LeashError as refused:
            self._name_refused(refused, commands)
            raise
        except NotReplicatedError as short:
            raise short.about(self._parsed(short.reply, commands)) from short.__cause__
        return self._parsed(answers, commands)

    def _parsed(self, answers: list[Any], commands: list[Queued]) -> list[Any]:
        return [self._result(*answer) for answer in zip(answers, commands, strict=True)]

    def _result(self, answer: InHand | Exception, queued: Queued) -> Any:
        if isinstance(answer, Exception):
            return answer
        words, options = queued
        try:
            response = self.parse_response(answer, words[0], **options)  # type: ignore[no-untyped-call]
        except ResponseError as error:
            return error
        return self._client._session.finished(words[0], response)


class Batch(Pipeline):
    """Made by `keyleash.Redis.batch`: a `with` block whose commands all run, or none.

    Attributes:
        results: What `execute` returned, or leaving the block would have.
    """

    def __init__(self, client: Redis) -> None:
        super().__init__(client, transaction=True)
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
        """Send what was queued; one result for each command, in order."""
        commands: list[Queued] = self.command_stack
        self.results = []
        try:
            self.results = super().execute(raise_on_error=False)
        except NotReplicatedError as short:
            self.results = short.reply
            raise
        if raise_on_error:
            self.raise_first_error(commands, self.results)
        return self.results


class Redis(Unscoped, redis.Redis):
    """A drop-in `redis.Redis` for the holder of a token.

    Every command goes through the guard of the token's identity. What the guard refuses
    is raised as a `LeashError`; every other reply and error is what redis-py would give.
    A command that was sent is never sent again, whatever the retry policy: it may have
    run. Only connecting is retried.

    Args:
        token: The agent's token. It is in no repr, log or exception.
        wait: Whether a call that a rate refuses sleeps and tries again: True, or how many
            seconds one call may sleep in all.

    Raises:
        TokenUnknownError: the token has not the shape of one.
        ValueError: *wait* is negative.
        CommandRefusedError: a client-side cache is asked for.
    """

    _clock: Callable[[], float] = staticmethod(time.monotonic)
    _sleep: Callable[[float], None] = staticmethod(time.sleep)

    def __init__(self, *args: Any, token: str, wait: bool | float = False, **kwargs: Any) -> None:
        require_no_cache(kwargs)
        self._session = Session(token)
        self._wait_s = bound_of(wait)
        super().__init__(*args, **kwargs)

    @classmethod
    def from_url(  # type: ignore[override]
        cls, url: str, *, token: str, wait: bool | float = False, **kwargs: Any
    ) -> Redis:
        """Like `redis.Redis.from_url`, for the holder of *token*."""
        require_no_cache(kwargs)
        single_connection_client = kwargs.pop("single_connection_client", False)
        client = cls(
            connection_pool=redis.ConnectionPool.from_url(url, **kwargs),
            single_connection_client=single_connection_client,
            token=token,
            wait=wait,
        )
        client.auto_close_connection_pool = True
        return client

    @classmethod
    def from_pool(  # type: ignore[override]
        cls, connection_pool: redis.ConnectionPool, *, token: str, wait: bool | float = False
    ) -> Redis:
        """Like `redis.Redis.from_pool`, for the holder of *token*."""
        client = cls(connection_pool=connection_pool, token=token, wait=wait)
        client.auto_close_connection_pool = True
        return client

    @classmethod
    def from_sentinel(
        cls,
        sentinel: Sentinel,
        service_name: str,
        *,
        token: str,
        wait: bool | float = False,
        **kwargs: Any,
    ) -> Redis:
        """The client for what a Sentinel says is the primary, for the holder of *token*.

        Like `Sentinel.master_for`, whose *redis_class* could not be told a token. After a failover
        the next connection is to the new primary.

        Args:
            sentinel: A `redis.sentinel.Sentinel`.
            service_name: What the Sentinels call the primary.
            kwargs: Of connections, over those that *sentinel* has.
        """
        options = {**sentinel.connection_kwargs, **kwargs}
        pool = SentinelConnectionPool(service_name, sentinel, **options)
        return cls.from_pool(pool, token=token, wait=wait)

    def client(self) -> Redis:
        """A client with the same token and a connection of its own."""
        return type(self)(
            connection_pool=self.connection_pool,
            single_connection_client=True,
            token=self._session._token,
            wait=self._wait_s,
        )

    def pipeline(self, transaction: bool = True, shard_hint: Any = None) -> Pipeline:
        """Like redis-py's, but each call of it is one of a guard.

        With *transaction*, one batch: all commands are allowed, or none runs. Without, each
        command is judged on its own, up to 128 or 1 MiB of them in one call; one that waits
        for a rate may be overtaken by those of the same call that no rate refuses. An error of
        a command's own stands in its place, as in EXEC, and so does a wrong number of
        arguments, for which EXEC would not run at all.
        """
        return Pipeline(self, transaction, shard_hint)

    def batch(self) -> Batch:
        """Queue commands in a `with` block; leaving it runs all of them, or none.

        The results are in `results` after the block. A refusal is raised, with the
        command's number in its details as `item`. An exception in the block discards it.
        """
        return Batch(self)

    def transaction(
        self,
        func: Callable[[Any], Any],
        *watches: Any,
        shard_hint: Any = None,
        value_from_callable: bool = False,
        watch_delay: float | None = None,
    ) -> Any:
        """Like redis-py's, without *watches*: WATCH cannot go through a guard."""
        require_no_watches(watches)
        with self.pipeline(True, shard_hint) as pipe:
            value = func(pipe)
            results = pipe.execute()
            return value if value_from_callable else results

    def execute_command(self, *args: Any, **options: Any) -> Any:
        """Send a command through the guard; its reply, or the typed refusal."""
        if self._wait_s or may_block(args[0]):
            return self._run(patient(args, options, Waiting(self._wait_s), self._clock))
        return self._connected("digest", self._call, args, options)

    def _run(self, flow: Flow) -> Any:
        return drive(flow, self._perform)

    def _perform(self, asked: Pause | QueuedCommand | BatchCall) -> Any:
        match asked:
            case Pause(seconds):
                return self._sleep(seconds)
            case QueuedCommand(words, options, poll):
                return self._connected("digest", self._poll if poll else self._call, words, options)
            case BatchCall():
                return self._connected("batch_digest", self._call_batch, asked)

    def _connected(self, kind: str, call: Callable[..., Any], *args: Any) -> Any:
        """Make a call on a connection, and again if the answer says that nothing ran.

        Args:
            kind: The field of the guard record that names the script.
        """
        session = self._session
        pool = self.connection_pool
        connection = self.connection or take(pool)
        if self._single_connection_client:
            self.single_connection_lock.acquire()
        try:
            if session.guard is None:
                drive(find_guard(session), partial(self._on, connection, call, args))
            called = session.guard
            try:
                return self._make(connection, call, args)
            except (PolicyStaleError, NoScriptError) as error:
                flow = healing(session, called, error, kind)
            return drive(flow, partial(self._on, connection, call, args))
        except (ReadOnlyError, MasterDownError):
            # What was a primary is none any more, and its name may lead to another one by now.
            connection.disconnect()
            raise
        except (ResponseError, DataError, NothingYet, NotReplicatedError):
            # A reply that was read, or a request that was never sent.
            raise
        except BaseException:
            # A reply may be on its way, and must not be taken for that of the next command:
            # under RESP3 redis-py's pool does not look.
            connection.disconnect()
            raise
        finally:
            try:
                if connection.should_reconnect():
                    connection.disconnect()
                    connection.connect()
            finally:
                if self._single_connection_client:
                    self.single_connection_lock.release()
                if not self.connection:
                    give_back(pool, connection)

    def _make(self, connection: Any, call: Callable[..., Any], args: tuple[Any, ...]) -> Any:
        """Make a call, and wait for replicas if its identity wants that."""
        guard = self._session.guard
        if guard is None or not guard.wait_replicas:
            return call(connection, *args)
        guard = self._session.waits_for(commands_of(args[0]))
        if guard is None:
            return call(connection, *args)
        followed = Followed(connection, guard)
        stands = partial(self._session.stands, args[0])
        follow = partial(self._follow, followed, call, args)
        return drive(replicated(followed, guard, stands), follow)

    @staticmethod
    def _follow(followed: Any, call: Callable[..., Any], args: tuple[Any, ...], asked: Any) -> Any:
        """Make a call that WAIT follows, or read what that was answered."""
        return followed.read_waited() if asked is Read.REPLY else call(followed, *args)

    def _on(
        self, connection: Any, call: Callable[..., Any], args: tuple[Any, ...], asked: Any
    ) -> Any:
        """Do what the healing of a call asks for."""
        if isinstance(asked, Plain):
            connection.send_packed_command(packed(asked.words))
            return connection.read_response(disable_decoding=True)
        if isinstance(asked, Pause):
            return self._sleep(asked.seconds)
        return self._make(connection, call, args)

    # No function that reads a reply holds the request, which has the token in it: reports of
    # errors show what functions hold.

    def _call(self, connection: Any, words: tuple[Any, ...], options: dict[str, Any]) -> Any:
        connection.send_packed_command(
            packed(self._session.request(words, connection.get_protocol()))
        )
        return self._read(connection, words, options)

    def _poll(self, connection: Any, words: tuple[Any, ...], options: dict[str, Any]) -> Any:
        connection.send_packed_command(
            packed(self._session.request(words, connection.get_protocol()))
        )
        try:
            reply = connection.read_response(disable_decoding=NEVER_DECODE in options)
        except ResponseError as error:
            reply = error
        return self._read(found(reply), words, options)

    def _read(self, source: Any, words: tuple[Any, ...], options: dict[str, Any]) -> Any:
        # redis-py lets some helpers take an error for an empty reply; a refusal never is one.
        if EMPTY_RESPONSE in options:
            read = {name: value for name, value in options.items() if name != EMPTY_RESPONSE}
        else:
            read = options
        try:
            response = self.parse_response(source, words[0], **read)  # type: ignore[no-untyped-call]
        except ResponseError as error:
            return self._session.instead(error, options)
        return self._session.finished(words[0], response)

    def _call_batch(self, connection: Any, batch: BatchCall) -> list[Any]:
        connection.send_packed_command(
            packed(self._session.batch_request(batch.mode, batch.words, connection.get_protocol()))
        )
        try:
            reply = connection.read_response(disable_decoding=batch.undecoded)
        except ResponseError as error:
            raise self._session.outcome(error) from None
        return self._session.answers(
            len(batch.commands), reply, self.get_encoder() if batch.undecoded else None
        )
