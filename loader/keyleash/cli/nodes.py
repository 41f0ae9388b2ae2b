"""Further servers of a deployment: their options and clients."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import click
from click.core import ParameterSource
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import NoPermissionError
from redis.exceptions import TimeoutError as RedisTimeoutError

from keyleash.cli.settings import Settings
from keyleash.cli.terminal import print_note
from keyleash.errors import OperationError, UsageError
from keyleash.fence import FenceNode
from keyleash.store.connect import connection_pool, has_password, node_client, node_of, shown_url
from keyleash.store.server_check import CheckedRedis, Client
from keyleash.text import counted
from keyleash.watch import Address

F = TypeVar("F", bound=Callable[..., Any])

CREDENTIALS = ("username", "password")


def urls_option(option: str, variable: str, help: str) -> Callable[[F], F]:
    """Add a repeatable option of server URLs; those with passwords come from *variable*."""
    return click.option(
        option,
        f"{option.removeprefix('--')}s",
        metavar="URL",
        multiple=True,
        envvar=variable,
        callback=_without_passwords,
        help=f"{help}  [env var: {variable}, separated by blanks]",
    )


def _without_passwords(
    context: click.Context, parameter: click.Parameter, urls: tuple[str, ...]
) -> tuple[str, ...]:
    given = context.get_parameter_source(parameter.name or "")
    if given is ParameterSource.COMMANDLINE and any(map(has_password, urls)):
        raise UsageError(
            "a password on the command line can be read by every user of this machine",
            help=f"set {parameter.envvar} to the URLs instead",
        )
    return urls


node_option = urls_option(
    "--node",
    "KEYLEASH_NODES",
    "A further server, such as a replica, which has ACL users of its own; repeatable. User and"
    " password default to those of --url.",
)


def node_connector(
    settings: Settings, urls: Sequence[str]
) -> tuple[list[Address], Callable[[Address], Client]]:
    """
    Return the addresses of *urls*, and a function that makes a client for any address.

    Raises:
        OperationError (bad-url): A URL names no server.
    """
    by_address = {Address(*node_of(url)): url for url in urls}
    default = next(iter(urls), settings.url)

    def connect(address: Address) -> Client:
        url = by_address.get(address, default)
        return node_client(url, settings.url, address, settings.timeout_s)

    return list(by_address), connect


def other_nodes(settings: Settings, urls: Sequence[str]) -> list[FenceNode]:
    """
    Return the servers besides that of `--url`.

    Raises:
        OperationError (bad-url): A URL names no server.
        OperationError (server-unreachable): A server does not answer; nothing was changed.
    """
    found = []
    # Errors of the first server are reported as for every command.
    login = settings.client.connection_pool.connection_kwargs if urls else {}
    for url in urls:
        pool = connection_pool(url, settings.timeout_s)
        options = pool.connection_kwargs
        if not any(options.get(name) for name in CREDENTIALS):
            options.update({name: login[name] for name in CREDENTIALS if name in login})
        node = FenceNode(shown_url(url), CheckedRedis(connection_pool=pool))
        try:
            node.client.ping()
        except (RedisConnectionError, RedisTimeoutError):
            raise OperationError(
                "server-unreachable",
                f"`{node.name}` does not answer; nothing was changed on any server",
                help="check --node or KEYLEASH_NODES, and that user and password are valid there",
            ) from None
        found.append(node)
    return found


def note_unlisted_replicas(client: Client, named: int) -> None:
    """Print a note if a server has more replicas than *named*: their users are not changed."""
    with contextlib.suppress(NoPermissionError):
        replicas = int(client.info("replication").get("connected_slaves", 0))
        if replicas > named:
            print_note(
                f"note: {counted(replicas, 'replica')} connected, {named} given by --node: users"
                " of others are unchanged, and after a failover their agents are denied;"
                " run `keyleash fence apply` with a --node for each"
            )
