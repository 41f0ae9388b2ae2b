"""Options, arguments and groups that commands share."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable
from typing import Any, TypeVar

import click
from click.core import ParameterSource

from keyleash.cli.errors import UsageError
from keyleash.cli.settings import Settings, has_password
from keyleash.store.wire import Transport

F = TypeVar("F", bound=Callable[..., Any])


def _set_json(context: click.Context, _parameter: click.Parameter, value: bool) -> None:
    if value:
        settings = context.find_object(Settings)
        assert settings is not None  # noqa: S101 - Program.main puts it there
        settings.json = True


def json_option(function: F, help: str = "Print one JSON document.") -> F:
    """Let `--json` stand on this command as well as before it."""
    return click.option(
        "--json", is_flag=True, is_eager=True, expose_value=False, callback=_set_json, help=help
    )(function)


def json_lines_option(function: F) -> F:
    """The same for a command that prints a list: it does so as it reads."""
    return json_option(function, "Print one JSON object a line.")


def example(line: str) -> str:
    """The epilog that shows how a command is used."""
    return f"\b\nexample: {line}"


transport_option = click.option(
    "--transport",
    type=click.Choice([item.value for item in Transport]),
    default=Transport.EVALSHA.value,
    show_default=True,
    help="Call guards as cached scripts (evalsha) or as functions (fcall), which survive restarts.",
)
allow_eviction_option = click.option(
    "--allow-eviction",
    is_flag=True,
    help="Load even if the server may evict keyleash's own keys.",
)
allow_unvalidated_restore_option = click.option(
    "--allow-unvalidated-restore",
    is_flag=True,
    help="Allow RESTORE even if the server does not validate payloads.",
)
allow_widening_option = click.option(
    "--allow-widening", is_flag=True, help="With --yes: allow changes that widen access."
)
allow_removal_option = click.option(
    "--allow-removal", is_flag=True, help="With --yes: allow the removal of identities."
)
full_option = click.option("--full", is_flag=True, help="Show every change of every identity.")
yes_option = click.option("--yes", "-y", is_flag=True, help="Do not ask for confirmation.")


def refuse_typed_password(parameter: str, url: str | None, variable: str) -> None:
    """
    Do nothing if the URL that is the value of *parameter* came from *variable*, or has no secret.

    Raises:
        UsageError: a password stands on the command line.
    """
    given = click.get_current_context().get_parameter_source(parameter)
    if url is not None and given is ParameterSource.COMMANDLINE and has_password(url):
        raise UsageError(
            "a password on the command line can be read by every user of this machine",
            help=f"set {variable} to the URL instead",
        )


def require_consent(question: str, yes: bool) -> bool:
    """Ask for confirmation, unless *yes*.

    Returns:
        Whether to proceed.

    Raises:
        UsageError: standard input is not a terminal.
    """
    if yes:
        return True
    if not sys.stdin.isatty():
        raise UsageError(
            "cannot ask for confirmation without a terminal", help="add `--yes` to proceed"
        )
    try:
        return click.confirm(question, err=True)
    except click.Abort:
        # The question has no end of line, and what is said next has one of its own.
        click.echo(err=True)
        raise


def require_number(
    _context: click.Context, _parameter: click.Parameter, value: float | None
) -> float | None:
    """Deny `nan`, which lies between no bounds and which no bound excludes."""
    if value is not None and math.isnan(value):
        raise click.BadParameter("it must be a number")
    return value


SENTENCE = 1000
"""Longer than any first sentence."""


class Group(click.Group):
    """A group whose help shows the whole first sentence of each command; click truncates it."""

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the list, wrapped."""
        rows = [
            (name, command.get_short_help_str(SENTENCE))
            for name in self.list_commands(ctx)
            if (command := self.get_command(ctx, name)) and not command.hidden
        ]
        with formatter.section("Commands"):
            formatter.write_dl(rows)
