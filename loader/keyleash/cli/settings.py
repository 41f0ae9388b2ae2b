"""The settings of a run: the server, the connection to it, and the actor."""

from __future__ import annotations

import getpass
import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property, update_wrapper
from typing import Any, TypeVar
from urllib.parse import urlsplit

import click
from redis import ConnectionPool
from redis import exceptions as redis_errors
from redis.backoff import NoBackoff
from redis.connection import Connection, parse_url
from redis.retry import Retry

from keyleash.errors import (
    OperationError,
    UsageError,
)
from keyleash.store import wire
from keyleash.store.keyspace import Keyspace
from keyleash.store.prefixes import server_keyspace
from keyleash.store.server_check import CheckedRedis, Client, require_supported
from keyleash.store.state import MAX_REASON_BYTES
from keyleash.store.store import Store
from keyleash.store.wire import server_message
from keyleash.text import printable

R = TypeVar("R")

PARTS = ("dry_run", "recorded")
"""Options that make another operation of a command."""
DEFAULT_URL = "redis://127.0.0.1:6379"
URL_HELP = (
    "write redis://USER:PASSWORD@HOST:PORT/DB, rediss://… or unix://PATH;"
    " in a password, write / ? # @ and % as %2F %3F %23 %40 and %25"
)
TIMEOUT_S = 5.0
"""Default time to wait for a connection, and for each reply."""
MAX_TIMEOUT_S = 86_400.0
NODE_TIMEOUT_S = 2.0
"""The default where several servers are read, which one silent server must not delay."""
TIMEOUTS = ("socket_connect_timeout", "socket_timeout")
OURS = frozenset({"decode_responses", "encoding", "encoding_errors", "protocol", "retry_on_error"})
"""Options that a URL cannot set: every reply is read as bytes, in RESP2."""

_HANDSHAKE = re.compile("SSL|TLS|EOF|reset by peer", re.IGNORECASE)
_CONNECTING = re.compile(r"\A(Error \S+ (while )?connecting to|Timeout connecting)")


def shown_url(url: str) -> str:
    """Return *url* without password and options, also if it is malformed."""
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        return "the given URL"
    if _has_unescaped_password(url):
        return "the given URL"
    user = f"{parts.username}@" if parts.username else ""
    host = f"[{parts.hostname}]" if ":" in (parts.hostname or "") else parts.hostname or ""
    return f"{parts.scheme}://{user}{host}{f':{port}' if port else ''}{parts.path}"


def has_password(url: str) -> bool:
    """Return whether *url* has a password, or may have one that is not escaped correctly."""
    try:
        return bool(parse_url(url).get("password")) or _has_unescaped_password(url)
    except ValueError:
        return "@" in url or "password" in url


def _has_unescaped_password(url: str) -> bool:
    # An unescaped / # or ? in the password ends the host too early.
    return "@" in url and "@" not in urlsplit(url).netloc


def is_unanswered(error: Exception) -> bool:
    """Return whether a request may have been sent, but no reply received."""
    is_lost = type(error) in (redis_errors.ConnectionError, redis_errors.TimeoutError)
    return is_lost and not _CONNECTING.search(server_message(error))


def reason_of(error: Exception) -> str:
    """Return the reason of a lost connection, printable."""
    return printable(wire.reason_of(error))


def hint_of(error: Exception, url: str) -> str:
    """Return what to check if *url*, as it is shown, could not be reached."""
    message = server_message(error)
    if url.startswith("rediss:") and (_HANDSHAKE.search(message) or not is_unanswered(error)):
        if "certificate" in message.lower():
            return "the URL's `ssl_ca_certs` names the file of the authority that signed it"
        return "check the scheme of the URL: without TLS it is `redis://`"
    if url.startswith("redis:") and is_unanswered(error):
        if isinstance(error, redis_errors.TimeoutError):
            return (
                "the server may be stopped or busy (`--timeout` waits longer),"
                " or expect TLS (`rediss://`)"
            )
        return "check the scheme of the URL: with TLS it is `rediss://`"
    return "check --url or KEYLEASH_URL; `keyleash serve` starts a development server"


def operator_client(url: str, timeout_s: float | None = None) -> Client:
    """Return an unguarded client of the server at *url*."""
    return CheckedRedis(connection_pool=connection_pool(url, timeout_s))


def node_of(url: str) -> tuple[str, int]:
    """Return host and port of *url*; for a Unix socket, its path and 0.

    Raises:
        OperationError (bad-url): *url* does not name a server.
    """
    options = connection_pool(url).connection_kwargs
    if "path" in options:
        return options["path"], 0
    return options.get("host", "localhost"), options.get("port", 6379)


def node_client(
    url: str,
    login: str,
    address: tuple[str, int] | None = None,
    timeout_s: float | None = None,
) -> Client:
    """Return a client for one of several servers, with the options of *url*.

    Args:
        url: The server.
        login: The URL whose user and password are used if *url* has none.
        address: Host and port, if not those of *url*.
        timeout_s: Time to wait for each reply; by default `NODE_TIMEOUT_S`.
    """
    pool = connection_pool(url, NODE_TIMEOUT_S if timeout_s is None else timeout_s)
    options = {**pool.connection_kwargs}
    credentials = {"username", "password"}
    if not credentials & options.keys():
        given = connection_pool(login).connection_kwargs
        options |= {name: given[name] for name in credentials & given.keys()}
    connection = pool.connection_class
    if address is not None and address[1]:
        if options.pop("path", None):
            connection = Connection
        options |= {"host": address[0], "port": address[1]}
    return CheckedRedis(connection_pool=ConnectionPool(connection_class=connection, **options))


def connection_pool(url: str, timeout_s: float | None = None) -> ConnectionPool:
    """Return a pool for *url* that connects on first use, without retries.

    Args:
        url: The server.
        timeout_s: Time to wait for a connection, and for each reply; by default that of *url*,
            or `TIMEOUT_S`.

    Raises:
        OperationError (bad-url): *url* does not name a server, or has a wrong option.
    """
    try:
        options = _options(url, timeout_s)
        connection = options.pop("connection_class", Connection)
    except ValueError:
        shown = "the server URL" if "@" in url or "?" in url else f"`{url}`"
        raise OperationError("bad-url", f"{shown} does not name a server", help=URL_HELP) from None
    try:
        is_valid = all(0 < options[name] <= MAX_TIMEOUT_S for name in TIMEOUTS)
        # A pool would report wrong options only when it connects.
        connection(**options)
    except (ValueError, TypeError):
        is_valid = False
    if not is_valid:
        raise OperationError(
            "bad-url",
            "the server URL has an option that does not exist, or a wrong value",
            help="see redis-py for the options after the `?`",
        )
    return ConnectionPool(connection_class=connection, **options)


def _options(url: str, timeout_s: float | None) -> dict[str, Any]:
    if _has_unescaped_password(url):
        raise ValueError("an unescaped character in the password")
    given = {name: value for name, value in parse_url(url).items() if name not in OURS}
    given.get("host", "").encode("idna")
    if timeout_s is not None:
        given |= dict.fromkeys(TIMEOUTS, timeout_s)
    return {
        **dict.fromkeys(TIMEOUTS, TIMEOUT_S),
        **given,
        "protocol": 2,
        "decode_responses": False,
        "retry": Retry(NoBackoff(), 0),
    }


MAX_ACTOR_BYTES = 256


@dataclass
class Settings:
    """One run of the program.

    Attributes:
        url: The server's URL; it may contain a password, so only `shown_url` is printed.
        is_url_given: Whether it is from `--url` or KEYLEASH_URL, and not the default.
        given_actor: The value of `--actor`.
        timeout_s: The value of `--timeout`.
        json: Whether to print JSON in place of text.
        failed: The exit code of failures that have none of their own.
        operation: The command that runs, as `operator.roles.OPERATIONS` names it.
    """

    url: str = DEFAULT_URL
    is_url_given: bool = False
    given_actor: str | None = None
    timeout_s: float | None = None
    json: bool = False
    failed: int = 1
    operation: str = ""

    @property
    def shown_url(self) -> str:
        """The server's URL without the password."""
        return shown_url(self.url)

    @property
    def actor(self) -> str:
        """The name that is recorded in the audit log.

        Raises:
            UsageError: The given name is blank or too long.
        """
        if not self.given_actor:
            try:
                return getpass.getuser()
            except (OSError, KeyError):
                # A container's user need not have a name.
                return f"uid-{os.getuid()}"
        if not self.given_actor.strip():
            raise UsageError("the actor is blank", help="set it to your name, for the audit log")
        require_length("an actor", self.given_actor, MAX_ACTOR_BYTES)
        return self.given_actor

    @contextmanager
    def changing(self, advice: str) -> Iterator[None]:
        """Report a lost connection during a change: the change may have taken effect.

        Args:
            advice: How to find out whether it has.

        Raises:
            OperationError (unanswered): The connection was lost, or the request timed out.
        """
        try:
            yield
        except (redis_errors.ConnectionError, redis_errors.TimeoutError) as error:
            if not is_unanswered(error):
                raise
            raise OperationError(
                "unanswered",
                "the server did not answer, and the change may or may not have taken effect:"
                f" {reason_of(error)}",
                help=f"{advice}; `--timeout` waits longer",
            ) from error

    @cached_property
    def client(self) -> Client:
        """The operator's client, connected to a supported server.

        Raises:
            OperationError (unsupported-server): The server is too old.
            ClusterError: The server is a node of a Redis Cluster.
            redis.RedisError: The server does not answer.
        """
        client = operator_client(self.url, self.timeout_s)
        require_supported(client)
        return client

    @cached_property
    def store(self) -> Store:
        """The server's store, with the prefixes in force and the operator's name."""
        return Store.open(self.client, actor=self.actor)

    @cached_property
    def keyspace(self) -> Keyspace:
        """The names of the server's control keys."""
        return server_keyspace(self.client)


def require_length(label: str, text: str, most: int) -> None:
    """Require that *text* has at most *most* bytes.

    Raises:
        UsageError: It is longer; the message begins with *label*.
    """
    size = len(text.encode("utf-8", "surrogateescape"))
    if size > most:
        raise UsageError(f"{label} has at most {most} bytes, this one {size}")


def require_reason(reason: str, help: str) -> None:
    """Require a reason that is not blank and not too long.

    Raises:
        UsageError: It is, with *help* if it is blank.
    """
    if not reason.strip():
        raise UsageError("the reason is empty", help=help)
    require_length("a reason", reason, MAX_REASON_BYTES)


def pass_settings(function: Callable[..., R]) -> Callable[..., R]:
    """Pass the settings to a command, and note in them which command it is."""

    @click.pass_context
    def call(context: click.Context, /, *args: Any, **options: Any) -> R:
        settings = context.find_object(Settings)
        assert settings is not None  # noqa: S101 - Program.main puts it there
        words = context.command_path.split()[1:]
        words += [f"--{name.replace('_', '-')}" for name in PARTS if options.get(name)]
        settings.operation = " ".join(words)
        return context.invoke(function, settings, *args, **options)

    return update_wrapper(call, function)
