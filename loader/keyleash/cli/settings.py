"""Global options: the server, its URL, the token."""

from __future__ import annotations

import getpass
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import Any
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
from keyleash.store.records import Client
from keyleash.store.server_check import CheckedRedis, require_supported
from keyleash.store.wire import server_message
from keyleash.text import printable

DEFAULT_URL = "redis://127.0.0.1:6379"
URL_HELP = (
    "write redis://USER:PASSWORD@HOST:PORT/DB, rediss://… or unix://PATH;"
    " in a password, write / ? # @ and % as %2F %3F %23 %40 and %25"
)
TIMEOUT_S = 5.0
"""How long a connection, and each reply, is waited for by default."""
MAX_TIMEOUT_S = 86_400.0
NODE_TIMEOUT_S = 2.0
TIMEOUTS = ("socket_connect_timeout", "socket_timeout")
OURS = frozenset({"decode_responses", "encoding", "encoding_errors", "protocol", "retry_on_error"})
"""What a URL must not change: every reply is read as bytes, in RESP2."""

_HANDSHAKE = re.compile("SSL|TLS|EOF|reset by peer", re.IGNORECASE)
_CONNECTING = re.compile(r"\A(Error \S+ (while )?connecting to|Timeout connecting)")


def shown_url(url: str) -> str:
    """*url* without password and options, whatever it is."""
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        return "the given URL"
    if "@" in url and "@" not in parts.netloc:
        # An unescaped / # or ? ends the host: what seems to be one is part of a password.
        return "the given URL"
    user = f"{parts.username}@" if parts.username else ""
    host = f"[{parts.hostname}]" if ":" in (parts.hostname or "") else parts.hostname or ""
    return f"{parts.scheme}://{user}{host}{f':{port}' if port else ''}{parts.path}"


def has_password(url: str) -> bool:
    """Whether *url* has a password, or may have one that it does not write as it must."""
    try:
        return bool(parse_url(url).get("password")) or (
            "@" in url and "@" not in urlsplit(url).netloc
        )
    except ValueError:
        return "@" in url or "password" in url


def is_unanswered(error: Exception) -> bool:
    """Return whether a request may have been sent whose reply did not come."""
    kinds = type(error) in (redis_errors.ConnectionError, redis_errors.TimeoutError)
    return kinds and not _CONNECTING.search(server_message(error))


def reason_of(error: Exception) -> str:
    """Return what redis-py reports of a lost connection, such that it may be printed."""
    return printable(wire.reason_of(error))


def hint_of(error: Exception, url: str) -> str:
    """Return what to check where *url*, as it is shown, could not be used."""
    said = server_message(error)
    if url.startswith("rediss:") and (_HANDSHAKE.search(said) or not is_unanswered(error)):
        if "certificate" in said.lower():
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
    """The client for the operator's own commands, which gives replies as redis-py makes them."""
    return CheckedRedis(connection_pool=connection_pool(url, timeout_s))


def node_of(url: str) -> tuple[str, int]:
    """Host and port that *url* names; of a socket in the file system its path, and 0.

    Raises:
        OperationError (bad-url): no server can be named so.
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
    """A client for one server of several, with the options of *url*.

    It gives up soon: who looks at many servers must not be held up by one that is silent.

    Args:
        login: The URL whose user and password are used, if *url* has none.
        address: Host and port, if not those of *url*.
        timeout_s: For how long it waits, if not for `NODE_TIMEOUT_S`.
    """
    pool = connection_pool(url, NODE_TIMEOUT_S if timeout_s is None else timeout_s)
    options = {**pool.connection_kwargs}
    if not {"username", "password"} & options.keys():
        given = connection_pool(login).connection_kwargs
        options |= {name: given[name] for name in ("username", "password") if name in given}
    connection = pool.connection_class
    if address is not None and address[1]:
        if options.pop("path", None):
            connection = Connection
        options |= {"host": address[0], "port": address[1]}
    return CheckedRedis(connection_pool=ConnectionPool(connection_class=connection, **options))


def connection_pool(url: str, timeout_s: float | None = None) -> ConnectionPool:
    """A pool for *url* that connects when it is first used, and tries once.

    Args:
        timeout_s: How long a connection, and each reply, is waited for; by default as *url*
            says, or for `TIMEOUT_S`.

    Raises:
        OperationError (bad-url): no server can be named so.
    """
    try:
        options = _options(url, timeout_s)
        connection = options.pop("connection_class", Connection)
    except ValueError:
        shown = "the server URL" if "@" in url or "?" in url else f"`{url}`"
        raise OperationError("bad-url", f"{shown} does not name a server", help=URL_HELP) from None
    try:
        _require_times(options)
        # A pool makes its connections later, and would only then trip over the options.
        connection(**options)
    except (ValueError, TypeError):
        raise OperationError(
            "bad-url",
            "the server URL has an option that does not exist, or a wrong value",
            help="see redis-py for what may follow the `?`",
        ) from None
    return ConnectionPool(connection_class=connection, **options)


def _require_times(options: Mapping[str, Any]) -> None:
    if not all(0 < options[name] <= MAX_TIMEOUT_S for name in TIMEOUTS):
        raise ValueError("a time that no socket waits for")


def _options(url: str, timeout_s: float | None) -> dict[str, Any]:
    if "@" in url and "@" not in urlsplit(url).netloc:
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
"""Each change is recorded with it, and each listing shows it."""


@dataclass
class Settings:
    """One run of the program.

    Attributes:
        url: The server's, as given; it may hold a password, so only `shown_url` is printed.
        timeout_s: How long the server is waited for; None if nothing was given.
        json: Whether to print one JSON document in place of text.
        failed: The exit code of what fails for no reason that has a code of its own.
    """

    url: str = DEFAULT_URL
    given_actor: str | None = None
    timeout_s: float | None = None
    json: bool = False
    failed: int = 1

    @property
    def shown_url(self) -> str:
        """The server's URL without the password."""
        return shown_url(self.url)

    @property
    def actor(self) -> str:
        """Who is to be recorded.

        Raises:
            UsageError: what was given is no name.
        """
        if self.given_actor:
            _require_name(self.given_actor)
            return self.given_actor
        try:
            return getpass.getuser()
        except (OSError, KeyError):
            # A container's user need not have a name.
            return f"uid-{os.getuid()}"

    @contextmanager
    def changing(self, advice: str) -> Iterator[None]:
        """
        Wrap a change: if its reply does not come, report that it may have taken effect.

        Args:
            advice: How to find out whether it has.

        Raises:
            OperationError (unanswered): The connection was lost, or the time was up.
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
        """
        The operator's client, of a server that is one of those that keyleash supports.

        Raises:
            OperationError (unsupported-server): The server is too old.
            ClusterError: It is a node of a Redis Cluster.
            redis.RedisError: It does not answer.
        """
        client = operator_client(self.url, self.timeout_s)
        require_supported(client)
        return client

    @cached_property
    def keyspace(self) -> Keyspace:
        """Where the server's record says that control keys and data are."""
        return server_keyspace(self.client)


def _require_name(actor: str) -> None:
    if not actor.strip():
        raise UsageError("the actor is blank", help="set it to your name, for the audit log")
    size = len(actor.encode("utf-8", "surrogateescape"))
    if size > MAX_ACTOR_BYTES:
        raise UsageError(f"an actor has at most {MAX_ACTOR_BYTES} bytes, this one {size}")


pass_settings = click.make_pass_decorator(Settings)
