"""Clients of operators: made by the URL of a server, without retries, or of another client."""

from __future__ import annotations

import getpass
import os
import re
from collections.abc import Callable
from functools import partial
from typing import Any
from urllib.parse import urlsplit

import redis
import redis.asyncio as aio
from redis import ConnectionPool
from redis.backoff import NoBackoff
from redis.connection import Connection, SSLConnection, parse_url
from redis.exceptions import AuthenticationError, AuthorizationError, RedisError
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import TimeoutError as RedisTimeoutError
from redis.retry import Retry

from keyleash.errors import OperationError
from keyleash.store.server import Address
from keyleash.store.server_check import CheckedRedis, Client, is_cluster, operator_client
from keyleash.text import printable, without_tokens

DEFAULT_URL = "redis://127.0.0.1:6379"
URL_HELP = (
    "write redis://USER:PASSWORD@HOST:PORT/DB, rediss://… or unix://PATH;"
    " in a password, write / ? # @ and % as %2F %3F %23 %40 and %25"
)
TIMEOUT_S = 5.0
"""Default time to wait for a connection, and for each reply."""
MAX_TIMEOUT_S = 86_400.0
_BETWEEN_URLS = re.compile(r", *(?=(?:rediss?|unix)://)")
_UNITS_S = {"ms": 0.001, "s": 1, "m": 60, "h": 3600}
_TIMEOUT = re.compile(rf"([0-9]{{1,9}}(?:\.[0-9]+)?)({'|'.join(_UNITS_S)})?")
NODE_TIMEOUT_S = 2.0
"""The default where several servers are read, which one silent server must not delay."""
TIMEOUTS = ("socket_connect_timeout", "socket_timeout")
CREDENTIALS = ("username", "password")
OWN = frozenset({"decode_responses", "event_dispatcher", "himport_registry"})
"""Connection options that no other client gets."""
_OF_ONE_SERVER = OWN - {"decode_responses"} | {"db", "retry"}
"""Connection options that a client of a cluster sets itself."""
OURS = frozenset({"decode_responses", "encoding", "encoding_errors", "protocol", "retry_on_error"})
"""Options that a URL cannot set: every reply is read as bytes, in RESP2."""


def split_urls(urls: str) -> list[str]:
    """Return the URLs between commas; a comma before anything but a URL is part of one."""
    return _BETWEEN_URLS.split(urls)


def answering_url(urls: str, timeout_s: float | None = None) -> str:
    """Return the first URL of several whose server answers, all within the time for one reply.

    A server that denies the user answers. A replica without a cluster is chosen only if no other
    server answers; if none does, *urls* is returned.
    """
    several = split_urls(urls)
    pools = [connection_pool(url, (timeout_s or TIMEOUT_S) / len(several)) for url in several]
    replicas: list[str] = []
    for url, pool in zip(several, pools, strict=True) if several[1:] else ():
        try:
            info = CheckedRedis(connection_pool=pool).info()
        except (AuthenticationError, AuthorizationError):
            # They are ConnectionErrors, too.
            return url
        except (RedisConnectionError, RedisTimeoutError):
            continue
        except RedisError:
            return url
        finally:
            pool.disconnect()
        if info.get("role") != "slave" or is_cluster(info):
            return url
        replicas.append(url)
    return replicas[0] if replicas else urls


def shown_url(url: str) -> str:
    """Return *url* without password and options, also if it is malformed."""
    if len(urls := split_urls(url)) > 1:
        return ", ".join(map(shown_url, urls))
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        return "the given URL"
    if _has_unescaped_password(url):
        return "the given URL"
    user = f"{parts.username}@" if parts.username else ""
    host = f"[{parts.hostname}]" if ":" in (parts.hostname or "") else parts.hostname or ""
    return without_tokens(f"{parts.scheme}://{user}{host}{f':{port}' if port else ''}{parts.path}")


def has_password(url: str) -> bool:
    """Return whether *url* has a password, or may have one that is not escaped correctly."""
    if len(urls := split_urls(url)) > 1:
        return any(map(has_password, urls))
    try:
        return bool(parse_url(url).get("password")) or _has_unescaped_password(url)
    except ValueError:
        return "@" in url or "password" in url


def _has_unescaped_password(url: str) -> bool:
    # An unescaped / # or ? in the password ends the host too early.
    return "@" in url and "@" not in urlsplit(url).netloc


def connect(url: str, timeout_s: float | None = None) -> Client:
    """Return an unguarded client of the server at *url*, of several the first that answers."""
    url = answering_url(url, timeout_s)
    return _client(connection_pool(split_urls(url)[0], timeout_s), shown_url(url))


def server_name(client: Client) -> str:
    """Return the URL of a client without its password; without a URL its host and port."""
    options = client.connection_pool.connection_kwargs
    address = options.get("path") or f"{options.get('host', 'localhost')}:{options.get('port')}"
    return getattr(client, "shown_url", "") or str(address)


def address_of(node: Client) -> Address:
    """Return the address of a client or URL.

    Raises:
        OperationError (bad-url): the URL does not name a server.
    """
    pool = connection_pool(node) if isinstance(node, str) else node.connection_pool
    options = pool.connection_kwargs
    if "path" in options:
        return Address(options["path"], 0)
    return Address(options.get("host", "localhost"), options.get("port", 6379))


def node_client(first: Client, node: Client, timeout_s: float | None = None) -> Client:
    """Return a client for one of several servers, which need not be connected yet.

    Args:
        first: The client of the first server. An address has its options; a URL without user and
            password has its user and password.
        node: A client, a URL, or an `Address`.
        timeout_s: Time to wait for each reply; by default that of the URL, or of *first*.

    Raises:
        OperationError (bad-url): the URL does not name a server.
    """
    first_options = first.connection_pool.connection_kwargs
    timeouts = {name: first_options[name] for name in TIMEOUTS if name in first_options}
    if timeout_s is not None:
        timeouts = dict.fromkeys(TIMEOUTS, timeout_s)
    if isinstance(node, str):
        pool = connection_pool(node, timeout_s)
        options = pool.connection_kwargs
        if timeout_s is None:
            options |= {name: timeouts[name] for name in timeouts.keys() - parse_url(node).keys()}
        if not any(options.get(name) for name in CREDENTIALS):
            options |= {name: first_options[name] for name in CREDENTIALS if name in first_options}
        return _client(pool, shown_url(node))
    if not isinstance(node, tuple):
        return operator_client(synchronous(node, "nodes"), "nodes")
    host, port = node
    connection = first.connection_pool.connection_class
    options = {name: value for name, value in first_options.items() if name not in OWN} | timeouts
    if port:
        connection = Connection if options.pop("path", None) else connection
        options |= {"host": host, "port": port}
    return _client(ConnectionPool(connection_class=connection, **options))


def cluster_options(pool: ConnectionPool) -> dict[str, Any]:
    """Return the options with which a client of the cluster of a pool's server is made."""
    pool_options = pool.connection_kwargs
    options = {name: pool_options[name] for name in pool_options.keys() - _OF_ONE_SERVER}
    is_encrypted = issubclass(pool.connection_class, SSLConnection)
    return options | {"ssl": True} if is_encrypted else options


def quick_client(client: Client) -> Client:
    """Return a client of the same server that waits at most `NODE_TIMEOUT_S`."""
    options = client.connection_pool.connection_kwargs
    if all(0 < (options.get(name) or 0) <= NODE_TIMEOUT_S for name in TIMEOUTS):
        return client
    timeout_s = min(options.get("socket_timeout") or NODE_TIMEOUT_S, NODE_TIMEOUT_S)
    return node_client(client, address_of(client), timeout_s)


def _client(pool: ConnectionPool, url: str = "") -> Client:
    client = CheckedRedis(connection_pool=pool)
    client.shown_url = url
    return client


def connection_pool(url: str, timeout_s: float | None = None) -> ConnectionPool:
    """Return a pool for *url* that connects on first use, without retries.

    Args:
        timeout_s: Time to wait for a connection, and for each reply; by default that of *url*,
            or `TIMEOUT_S`.

    Raises:
        OperationError (bad-url): *url* does not name a server, or has a wrong option.
    """
    try:
        options = _options(url, timeout_s)
        connection = options.pop("connection_class", Connection)
    except ValueError:
        shown = "the server URL" if "@" in url or "?" in url else f"`{without_tokens(url)}`"
        raise OperationError("bad-url", f"{shown} does not name a server", help=URL_HELP) from None
    for name in ("ssl_ca_certs", "ssl_ca_path", "ssl_certfile", "ssl_keyfile"):
        if (path := options.get(name)) is not None and not os.path.exists(path):
            raise OperationError(
                "bad-url",
                f"there is no `{printable(path)}`, which the server URL names as `{name}`",
                help="a path is from the current directory, or begins with `/`",
            )
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
    url_options = {name: value for name, value in parse_url(url).items() if name not in OURS}
    if b"," in url_options.get("host", "").encode("idna"):
        raise ValueError("no host has a comma, and no scheme follows it")
    if timeout_s is not None:
        url_options |= dict.fromkeys(TIMEOUTS, timeout_s)
    return {
        **dict.fromkeys(TIMEOUTS, TIMEOUT_S),
        **url_options,
        "protocol": 2,
        "decode_responses": False,
        "retry": Retry(NoBackoff(), 0),
    }


def parse_timeout(text: str) -> float:
    """Return a time in seconds: of a number of them, or one with a unit such as `500ms` or `1m`.

    Raises:
        ValueError: it is not a time over 0 and at most `MAX_TIMEOUT_S`.
    """
    match = _TIMEOUT.fullmatch(text)
    seconds = float(match[1]) * _UNITS_S[match[2] or "s"] if match else 0
    if not 0 < seconds <= MAX_TIMEOUT_S:
        raise ValueError(
            f"`{printable(text)}` is not a time over 0 and at most {MAX_TIMEOUT_S:.0f} seconds"
        )
    return seconds


def default_actor() -> str:
    """Return the user's login name, or `uid-N` in a container whose user has none."""
    try:
        return getpass.getuser()
    except (OSError, KeyError):
        return f"uid-{os.getuid()}"


AnyClient = redis.Redis | aio.Redis
"""A client of redis-py."""

_OF_A_POOL = ("event_dispatcher", "himport_registry", "maint_notifications", "orig_")
"""The beginnings of connection options that belong to one pool, and are made again for another."""
_OF_REPLIES = ("decode_responses", "encoding", "legacy_responses", "protocol")
"""Those of options that clients of operators set by themselves."""


def synchronous(client: AnyClient, parameter: str = "client") -> Client:
    """Return *client*, or a sync client with the connection options of an asyncio client.

    Args:
        parameter: The name of the argument in the caller.

    Raises:
        TypeError: it is no redis-py client, a pipeline, or the client of an agent.
    """
    kind = type(client)
    if isinstance(client, redis.client.Pipeline | aio.client.Pipeline):
        raise TypeError(f"`{parameter}` must be a client, not a pipeline")
    # Of an agent; its class is above this package.
    if hasattr(client, "whoami"):
        raise TypeError(
            f"`{parameter}` must be a client of redis-py, not a `{kind.__module__}.Redis`"
        )
    if isinstance(client, redis.Redis):
        return client
    if not isinstance(client, aio.Redis):
        raise TypeError(f"`{parameter}` must be a redis-py client, not {kind.__name__}")
    pool = client.connection_pool
    kinds = {
        aio.UnixDomainSocketConnection: redis.UnixDomainSocketConnection,
        aio.SSLConnection: redis.SSLConnection,
    }
    connection = kinds.get(pool.connection_class, redis.Connection)
    dropped = (*_OF_A_POOL, *_OF_REPLIES, "parser_class", "retry")
    return _made(connection, _options_of(pool, *dropped))


def recipe_of(client: Client) -> Callable[[], Client]:
    """Return a function that can be pickled, and makes a client like *client*."""
    pool = client.connection_pool
    options = _options_of(pool, *_OF_A_POOL, *_OF_REPLIES)
    return partial(_made, pool.connection_class, options, getattr(client, "shown_url", ""))


def _options_of(pool: Any, *dropped: str) -> dict[str, Any]:
    options = pool.connection_kwargs.items()
    return {name: value for name, value in options if not name.startswith(dropped)}


def _made(kind: Any, options: dict[str, Any], url: str = "") -> Client:
    return _client(ConnectionPool(connection_class=kind, **{**options, "protocol": 2}), url)
