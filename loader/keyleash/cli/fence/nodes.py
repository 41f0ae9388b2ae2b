"""The servers whose users a command is about."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import click
from click.core import ParameterSource
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import NoPermissionError
from redis.exceptions import TimeoutError as RedisTimeoutError

from keyleash.cli.errors import UsageError
from keyleash.cli.failures import UNREACHABLE
from keyleash.cli.output import say
from keyleash.cli.server import connection_pool, has_password, shown_url
from keyleash.cli.settings import Settings
from keyleash.cli.text import counted
from keyleash.errors import KeyleashError
from keyleash.protocol.active import Client
from keyleash.protocol.checked import CheckedRedis

F = TypeVar("F", bound=Callable[..., Any])

CREDENTIALS = ("username", "password")


class NodeUnreachableError(KeyleashError):
    """One of several servers does not answer."""

    code = "server-unreachable"
    exit_code = UNREACHABLE


def node_option(function: F) -> F:
    """Let `--node` name further servers, any number of times."""
    return click.option(
        "--node",
        "nodes",
        metavar="URL",
        multiple=True,
        envvar="KEYLEASH_NODES",
        show_envvar=True,
        help="A further server, such as a replica: each keeps users of its own. Any number of"
        " times; in the variable with blanks between. User and password are those of --url,"
        " unless the variable has others.",
    )(function)


def other_clients(settings: Settings, urls: Sequence[str]) -> list[Client]:
    """Clients of the servers besides that of `--url`; see `named_clients` for the errors."""
    return [client for _, client in named_clients(settings, urls)[1:]] if urls else []


def named_clients(settings: Settings, urls: Sequence[str]) -> list[tuple[str, Client]]:
    """
    A client for each server, the one of `--url` first, and how it may be called.

    Raises:
        UsageError: One of *urls* has a password, and is seen in the process list.
        BadUrlError: One names no server.
        NodeUnreachableError: One of them does not answer; nothing was changed on any.
    """
    given = click.get_current_context().get_parameter_source("nodes")
    if given is ParameterSource.COMMANDLINE and any(map(has_password, urls)):
        raise UsageError(
            "a password on the command line can be read by every user of this machine",
            help="set KEYLEASH_NODES to the URLs instead",
        )
    # Of the first, every error is told as usual.
    settings.client.ping()
    found = [(settings.shown_url, settings.client)]
    for url in urls:
        found.append((shown_url(url), _client(settings, url)))
        _require_answer(*found[-1])
    return found


def say_unnamed(client: Client, named: int) -> None:
    """Say that users of replicas stay as they are, where a server has more of them than *named*."""
    with contextlib.suppress(NoPermissionError):
        replicas = int(client.info("replication").get("connected_slaves", 0))
        if replicas > named:
            say(
                f"note: {counted(replicas, 'replica')} connected, {named} named by --node: on the"
                " others users stay as they are, and after a failover their agents are refused;"
                " run `keyleash fence apply` with a --node for each"
            )


def _client(settings: Settings, url: str) -> Client:
    pool = connection_pool(url, settings.timeout_s)
    options = pool.connection_kwargs
    if not any(options.get(name) for name in CREDENTIALS):
        ours = settings.client.connection_pool.connection_kwargs
        options.update({name: ours[name] for name in CREDENTIALS if name in ours})
    return CheckedRedis(connection_pool=pool)


def _require_answer(name: str, client: Client) -> None:
    try:
        client.ping()
    except (RedisConnectionError, RedisTimeoutError):
        raise NodeUnreachableError(
            f"`{name}` does not answer; nothing was changed on any server",
            help="check --node or KEYLEASH_NODES, and that user and password are good there",
        ) from None
