"""Options of further servers of a deployment."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import click
from click.core import ParameterSource

from keyleash.cli.terminal import print_note
from keyleash.errors import UsageError
from keyleash.store.connect import has_password
from keyleash.text import counted

F = TypeVar("F", bound=Callable[..., Any])


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


def note_unlisted_replicas(replicas: int, named: int) -> None:
    """Print a note if a server has more replicas than *named*: their users are not changed."""
    if replicas > named:
        print_note(
            f"note: {counted(replicas, 'replica')} connected, {named} given by --node: users"
            " of others are unchanged, and after a failover their agents are denied;"
            " run `keyleash fence apply` with a --node for each"
        )
