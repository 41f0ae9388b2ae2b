"""The guarded client: redis-py's own, but for how a command is sent and a refusal read."""

from __future__ import annotations

from typing import Any, NoReturn

import redis
from redis.client import EMPTY_RESPONSE
from redis.exceptions import DataError, NoPermissionError, NoScriptError, ResponseError

from keyleash.client.session import Session
from keyleash.errors import PolicyStaleError
from keyleash.protocol.reply import refusal


class Redis(redis.Redis):
    """A drop-in `redis.Redis` for the holder of a token.

    Every command goes through the guard of the token's identity. What the guard refuses
    is raised as a `LeashError`; every other reply and error is what redis-py would give.
    A command that was sent is never sent again, whatever the retry policy: it may have
    run. Only connecting is retried.

    Args:
        token: The agent's token. It is in no repr, log or exception.

    Raises:
        TokenUnknownError: the token has not the shape of one.
    """

    def __init__(self, *args: Any, token: str, **kwargs: Any) -> None:
        self._session = Session(token)
        super().__init__(*args, **kwargs)

    @classmethod
    def from_url(cls, url: str, *, token: str, **kwargs: Any) -> Redis:  # type: ignore[override]
        """Like `redis.Redis.from_url`, for the holder of *token*."""
        single_connection_client = kwargs.pop("single_connection_client", False)
        client = cls(
            connection_pool=redis.ConnectionPool.from_url(url, **kwargs),
            single_connection_client=single_connection_client,
            token=token,
        )
        client.auto_close_connection_pool = True
        return client

    @classmethod
    def from_pool(cls, connection_pool: redis.ConnectionPool, *, token: str) -> Redis:  # type: ignore[override]
        """Like `redis.Redis.from_pool`, for the holder of *token*."""
        client = cls(connection_pool=connection_pool, token=token)
        client.auto_close_connection_pool = True
        return client

    def client(self) -> Redis:
        """A client with the same token and a connection of its own."""
        return type(self)(
            connection_pool=self.connection_pool,
            single_connection_client=True,
            token=self._session._token,
        )

    def pipeline(self, *_: Any, **__: Any) -> NoReturn:
        """Refuse: redis-py's pipelines would send commands past the guard."""
        raise _unguarded("a pipeline", "call the commands one by one")

    def transaction(self, *_: Any, **__: Any) -> NoReturn:
        """Refuse: WATCH and MULTI cannot go through a guard."""
        raise _unguarded("a transaction", "call the commands one by one; each is atomic")

    def pubsub(self, **_: Any) -> NoReturn:
        """Refuse: subscriptions bypass the guard."""
        raise _unguarded("publish/subscribe", "use a client of its own, with a user for channels")

    def monitor(self) -> NoReturn:
        """Refuse: MONITOR shows everybody's commands."""
        raise _unguarded("MONITOR", "use an operator's client")

    def execute_command(self, *args: Any, **options: Any) -> Any:
        """Send a command through the guard; its reply, or the typed refusal."""
        return self._execute_command(*args, **options)

    def json(self, *_: Any, **__: Any) -> NoReturn:
        """Refuse: guards know no module's commands, and `json().pipeline()` bypasses them."""
        raise _unguarded("RedisJSON", "use a client of its own, with a user for it")

    def ts(self) -> NoReturn:
        """Refuse: guards know no module's commands, and `ts().pipeline()` bypasses them."""
        raise _unguarded("RedisTimeSeries", "use a client of its own, with a user for it")

    def ft(self, *_: Any, **__: Any) -> NoReturn:
        """Refuse: guards know no module's commands, and `ft().pipeline()` bypasses them."""
        raise _unguarded("RediSearch", "use a client of its own, with a user for it")

    def _execute_command(self, *args: Any, **options: Any) -> Any:
        pool = self.connection_pool
        connection = self.connection or pool.get_connection()
        if self._single_connection_client:
            self.single_connection_lock.acquire()
        try:
            return self._guarded(connection, args, options)
        except (ResponseError, DataError):
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
                    pool.release(connection)

    def _guarded(self, connection: Any, command: tuple[Any, ...], options: dict[str, Any]) -> Any:
        """Send one command through the guard; heal if the answer says that nothing ran.

        Once by the record, for a guard that is no longer the active one, and once by the
        source, for a script that the server lost: a restart after a load needs both.
        """
        if self._session.guard is None:
            self._find_guard(connection)
        sought = loaded = False
        while True:
            called = self._session.guard
            try:
                return self._call(connection, command, options)
            except (PolicyStaleError, NoScriptError) as error:
                if not sought:
                    sought = True
                    self._find_guard(connection)
                    if isinstance(error, PolicyStaleError) or self._session.guard != called:
                        continue
                if loaded or isinstance(error, PolicyStaleError):
                    raise
                loaded = True
                self._load_source(connection, error)

    def _call(self, connection: Any, command: tuple[Any, ...], options: dict[str, Any]) -> Any:
        connection.send_command(*self._session.request(command, connection.get_protocol()))
        # redis-py lets some helpers take an error for an empty reply; a refusal never is one.
        read = {name: value for name, value in options.items() if name != EMPTY_RESPONSE}
        try:
            response = self.parse_response(connection, command[0], **read)  # type: ignore[no-untyped-call]
        except ResponseError as error:
            refused = refusal(str(error))
            if refused is not None:
                raise refused from None
            if EMPTY_RESPONSE in options and not isinstance(error, NoScriptError):
                return options[EMPTY_RESPONSE]
            raise
        return self._session.finished(command[0], response)

    def _find_guard(self, connection: Any) -> None:
        self._session.accept_record(self._plain(connection, *self._session.record_request()))

    def _load_source(self, connection: Any, lost: NoScriptError) -> None:
        try:
            raw = self._plain(connection, *self._session.source_request())
            script = self._session.accept_source(raw, lost)
            self._plain(connection, "SCRIPT", "LOAD", script)
        except NoPermissionError:
            # Neither the source nor SCRIPT LOAD is for an agent with a user of its own.
            raise lost from None

    @staticmethod
    def _plain(connection: Any, *command: str) -> Any:
        """Run one of keyleash's own commands, past the guard, without decoding."""
        # Packed, since redis-py's client-side cache would want to keep what HGETALL gives.
        connection.send_packed_command(connection.pack_command(*command))
        return connection.read_response(disable_decoding=True)


def _unguarded(what: str, instead: str) -> NotImplementedError:
    return NotImplementedError(f"{what} does not go through the guard; {instead}")
