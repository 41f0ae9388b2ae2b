"""Check that a server is supported, and report replies that cannot be parsed."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from copy import copy
from dataclasses import dataclass
from inspect import iscoroutinefunction
from typing import Any

import redis
import redis.client
from redis.exceptions import NoPermissionError, ResponseError

from keyleash.errors import ClusterError, OperationError, UnexpectedReplyError
from keyleash.store.wire import is_of_a_cluster, reading_reply

Client = Any
"""A redis-py client with `decode_responses` off, whose stubs mix sync and async types."""


class CallDeniedError(NoPermissionError):
    """The ACL of the server denies a call.

    Attributes:
        call: The words of the call; they may contain secrets.
    """

    def __init__(self, error: Exception, call: Sequence[Any]) -> None:
        super().__init__(*error.args)
        self.call = tuple(call)

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (NoPermissionError(*self.args), self.call)


def _with_call(error: ResponseError, call: Sequence[Any]) -> ResponseError:
    """Return *error*, with the call if the ACL denied it."""
    is_denied = isinstance(error, NoPermissionError) or IN_SCRIPT in str(error)
    return CallDeniedError(error, call) if is_denied else error


IN_SCRIPT = "ACL failure in script"
"""A server's message for a command of a script that the ACL denies."""


class _Checked:
    """Mixed in before redis-py's client and pipeline."""

    def parse_response(self, connection: Any, command_name: str | bytes, **options: Any) -> Any:
        """Parse a reply; one that cannot be parsed closes the connection."""
        above: Any = super()
        try:
            with reading_reply(_name(command_name)):
                return above.parse_response(connection, command_name, **options)
        except UnexpectedReplyError:
            # The rest of it must not be read as the next one.
            connection.disconnect()
            raise


class CheckedPipeline(_Checked, redis.client.Pipeline):
    """Made by `CheckedRedis.pipeline`."""

    def execute(self, raise_on_error: bool = True) -> list[Any]:
        """Execute like redis-py's, with the errors of its parsers converted."""
        with reading_reply("a pipeline"):
            return super().execute(raise_on_error)

    def raise_first_error(self, commands: Any, response: Sequence[Any]) -> None:
        """Raise the first error like redis-py's, with the call if the ACL denied it."""
        for (call, _), reply in zip(commands, response, strict=True):
            if isinstance(reply, ResponseError) and _with_call(reply, call) is not reply:
                raise _with_call(reply, call)
        super().raise_first_error(commands, response)  # type: ignore[no-untyped-call]


class CheckedRedis(_Checked, redis.Redis):
    """A `redis.Redis` that reports replies which cannot be parsed.

    Attributes:
        shown_url: The URL that it was made from, without password; empty if there was none.

    Raises:
        UnexpectedReplyError: a reply cannot be parsed; the connection is closed.
    """

    shown_url = ""

    def execute_command(self, *args: Any, **options: Any) -> Any:
        """Execute like redis-py's, with errors while connecting converted."""
        above: Any = super()
        with reading_reply(_name(args[0])):
            try:
                return above.execute_command(*args, **options)
            except ResponseError as error:
                raise _with_call(error, args) from None

    def pipeline(self, transaction: bool = True, shard_hint: Any = None) -> CheckedPipeline:
        """Return a pipeline of the same kind."""
        return CheckedPipeline(
            self.connection_pool, self.response_callbacks, transaction, shard_hint
        )


def _name(command: str | bytes) -> str:
    text = command if isinstance(command, str) else command.decode("latin-1")
    return text.upper()


OLDEST = 8
"""The first supported major version, of Redis and of Valkey."""

_HELP = f"use Redis {OLDEST} or later, or Valkey {OLDEST} or later"
_MAJOR = re.compile(r"(\d{1,9})(\.|$)")


def release_of(info: Mapping[str, Any]) -> tuple[str, str]:
    """Return product and version by the `server` section of INFO; an empty version if missing.

    Valkey also reports the version of the Redis that it is compatible with.
    """
    if "valkey_version" in info:
        return "valkey", str(info["valkey_version"])
    return "redis", str(info.get("redis_version", ""))


def require_supported(client: Client, *, cluster: bool = False) -> bool:
    """Check product, version and mode of a server with one command, before anything else is sent.

    If the user may not run INFO, the check passes: the next command reports it.

    Args:
        client: A client of the server.
        cluster: Whether it may be a node of a cluster.

    Returns:
        Whether it is a node of a cluster.

    Raises:
        OperationError (unsupported-server): The server is older than the supported versions,
            reports no version, or is a Sentinel.
        ClusterError: It is a node of a cluster, and *cluster* is false.
        UnexpectedReplyError: The reply is none of Redis.
    """
    try:
        info = client.info("server")
    except ResponseError:
        return False
    # redis-py puts lines that are not `name:value` there.
    if not isinstance(info, dict) or not info or "__raw__" in info:
        raise UnexpectedReplyError("INFO")
    if is_cluster(info) and not cluster:
        raise ClusterError
    if "sentinel" in _modes(info):
        raise OperationError(
            "unsupported-server",
            "the server is a Sentinel, which has no data and runs no guards",
            help="use the URL of the primary; `keyleash gateway --sentinel` takes a Sentinel's",
        )
    if _MAJOR.match(release_of(info)[1]) is None:
        raise OperationError(
            "unsupported-server",
            "the server reports no version of Redis or Valkey that can be read",
            help=_HELP,
        )
    if sentence := too_old(info):
        raise OperationError("unsupported-server", sentence, help=_HELP)
    return is_cluster(info)


def too_old(info: Mapping[str, Any]) -> str:
    """Return a sentence if the section `server` of INFO is that of a server that is too old."""
    product, version = release_of(info)
    major = _MAJOR.match(version)
    if major is None or int(major[1]) >= OLDEST:
        return ""
    return f"the server is {product.capitalize()} {version}, which keyleash does not support"


def is_cluster(info: Mapping[str, Any]) -> bool:
    """Return whether the section `server` of INFO is that of a node of a cluster."""
    return "cluster" in _modes(info)


def _modes(info: Mapping[str, Any]) -> tuple[Any, Any]:
    return info.get("redis_mode"), info.get("server_mode")


def operator_client(client: Client, parameter: str = "client") -> Client:
    """Return a client whose replies are bytes, as the functions for operators read them.

    Args:
        client: A redis-py client. Its companion borrows its connections, does not decode, and
            raises ClusterError for the errors of a cluster. A client that has its own connection
            or is of a subclass is returned as it is, unless it decodes.
        parameter: The name of the argument in the caller.

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
        return CheckedRedis(connection_pool=_BytesPool(pool, client))  # type: ignore[arg-type]
    if type(client) is not redis.Redis or client.connection is not None:
        return client
    companion = copy(client)
    companion.__class__ = CheckedRedis
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


def pool_of(client: Client) -> Any:
    """Return the pool of a client, or the one that it borrows connections from."""
    pool = client.connection_pool
    return pool._pool if isinstance(pool, _BytesPool) else pool


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


PAYLOAD_SETTING = "sanitize-dump-payload"
PAYLOAD_ADVICE = f"set `{PAYLOAD_SETTING} yes`"


@dataclass(frozen=True, slots=True)
class PayloadRisk:
    """The reason why a server may store a corrupt payload.

    Attributes:
        setting: Its `sanitize-dump-payload`, any but `yes`; None if it cannot be read.
        reason: Why it cannot be read.
    """

    setting: str | None
    reason: str = ""

    @property
    def message(self) -> str:
        """The risk as a sentence."""
        if self.setting is None:
            return f"cannot tell whether the server validates payloads of RESTORE: {self.reason}"
        whose = " of users with `skip-sanitize-payload`" if self.setting == "clients" else ""
        return (
            f"with `{PAYLOAD_SETTING} {self.setting}` the server stores payloads of RESTORE{whose}"
            " without validation, and a corrupt one can crash it"
        )


def find_payload_risk(client: Client) -> PayloadRisk | None:
    """Read `sanitize-dump-payload`; None if the server validates every payload."""
    try:
        setting = client.config_get(PAYLOAD_SETTING).get(PAYLOAD_SETTING)
        if setting is None and "valkey_version" in client.info("server"):
            # Valkey had the setting from its start. Releases without it always validate.
            return None
    except ResponseError as error:
        return PayloadRisk(None, reason=str(error))
    if setting is None:
        return PayloadRisk(None, reason=f"it has no setting `{PAYLOAD_SETTING}`")
    return None if setting == "yes" else PayloadRisk(str(setting))
