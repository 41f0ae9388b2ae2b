"""Connect to a server by its URL, without retries."""

from __future__ import annotations

import getpass
import os
from typing import Any
from urllib.parse import urlsplit

from redis import ConnectionPool
from redis.backoff import NoBackoff
from redis.connection import Connection, parse_url
from redis.retry import Retry

from keyleash.errors import OperationError
from keyleash.store.server_check import CheckedRedis, Client

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


def connect(url: str, timeout_s: float | None = None) -> Client:
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


def default_actor() -> str:
    """Return the user's login name, or `uid-N` in a container whose user has none."""
    try:
        return getpass.getuser()
    except (OSError, KeyError):
        return f"uid-{os.getuid()}"
