"""Options, arguments and groups that commands share."""

from __future__ import annotations

import math
import os
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click
from click.core import ParameterSource
from click.shell_completion import CompletionItem
from click.types import StringParamType
from redis import exceptions as redis_errors

from keyleash.cli.documents import read_input
from keyleash.cli.errors import UsageError
from keyleash.cli.settings import Settings, has_password, node_client
from keyleash.doctor.examine import require_codes
from keyleash.errors import KeyleashError, PolicyError, Span
from keyleash.policy.problems import quote
from keyleash.policy.quantities import parse_duration
from keyleash.store.identities import known_identities
from keyleash.store.prefixes import server_keyspace
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
    help="How guards are called: as cached scripts, or as functions, which the server keeps.",
)
allow_eviction_option = click.option(
    "--allow-eviction",
    is_flag=True,
    help="Load even where the server may evict keyleash's own keys.",
)
allow_unvalidated_restore_option = click.option(
    "--allow-unvalidated-restore",
    is_flag=True,
    help="Allow RESTORE even where the server does not validate its payloads.",
)
allow_widening_option = click.option(
    "--allow-widening", is_flag=True, help="With --yes: also where it widens access."
)
allow_removal_option = click.option(
    "--allow-removal", is_flag=True, help="With --yes: also where it removes identities."
)
full_option = click.option(
    "--full", is_flag=True, help="Show every change of every identity, also of many."
)
yes_option = click.option("--yes", "-y", is_flag=True, help="Do not ask.")


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
    """Ask a person, unless told not to.

    Returns:
        Whether to go on.

    Raises:
        UsageError: there is nobody to ask.
    """
    if yes:
        return True
    if not sys.stdin.isatty():
        raise UsageError("there is no terminal to ask on", help="add `--yes` to go ahead")
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


def duration_s(
    _context: click.Context, _parameter: click.Parameter, value: str | None
) -> int | None:
    """Read an option as a duration of the policy language, `30s` or `1h30m`, in seconds."""
    if value is None:
        return None
    try:
        return parse_duration(value, Span("", 1, 1), because="nothing here lasts longer")
    except PolicyError as error:
        problem = error.problems[0]
        raise click.BadParameter(f"{problem.message}; {problem.help}") from None


SENTENCE = 1000
"""More characters than any has."""


class Group(click.Group):
    """A group whose help tells of each command in a whole sentence; click cuts it off."""

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the list, wrapped."""
        rows = [
            (name, command.get_short_help_str(SENTENCE))
            for name in self.list_commands(ctx)
            if (command := self.get_command(ctx, name)) and not command.hidden
        ]
        with formatter.section("Commands"):
            formatter.write_dl(rows)


class IdentityName(StringParamType):
    """Any text. Whether there is such an identity, each command finds out for itself."""

    def shell_complete(
        self, ctx: click.Context, param: click.Parameter, incomplete: str
    ) -> list[CompletionItem]:
        """
        The identities that the server knows and that begin like that.

        Whoever presses Tab has nowhere to read an error: without a server there are none.
        """
        url = str(ctx.find_root().params.get("url") or "")
        try:
            client = node_client(url, url)
            names = known_identities(client, server_keyspace(client))
        except (redis_errors.RedisError, OSError, KeyleashError):
            return []
        return [CompletionItem(name) for name in names if name.startswith(incomplete)]


IDENTITY = IdentityName()


VARIABLE = "KEYLEASH_CONFIG"
CONFIG_FILE = "keyleash.toml"


def accepted_findings() -> tuple[str, ...]:
    """
    Return the codes under `doctor.accept` of the configuration file.

    The file is the one that KEYLEASH_CONFIG names, or `keyleash.toml` in the working directory
    if there is one.

    Raises:
        OperationError (file): The file cannot be read.
        UsageError: It is not TOML, or has another setting.
        OperationError (unknown-code): It accepts a finding that does not exist.
    """
    # It brings all checks along, which `--help` does not need.

    named = os.environ.get(VARIABLE)
    file = named or CONFIG_FILE
    if not named and not Path(file).exists():
        return ()
    try:
        document = tomllib.loads(read_input(file).decode("utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise _bad(file, f"is not TOML: {error}") from None
    doctor: Any = document.pop("doctor", {})
    codes = doctor.pop("accept", []) if isinstance(doctor, dict) else None
    if document or doctor or not isinstance(codes, list):
        raise _bad(file, "may have the list `accept` under `doctor`, and no other setting")
    if not all(isinstance(code, str) for code in codes):
        raise _bad(file, "has something else than texts in `accept`")
    require_codes(codes, file)
    return tuple(codes)


def _bad(file: str, problem: str) -> UsageError:
    return UsageError(
        f"the configuration file {quote(file)} {problem}",
        help='write `[doctor]`, and below it `accept = ["vulnerable-version"]`',
    )
