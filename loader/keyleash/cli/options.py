"""Options, arguments and groups that commands share."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterable, Sequence
from copy import copy
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeVar

import click
from click.core import ParameterSource
from click.shell_completion import CompletionItem
from click.types import StringParamType
from redis import exceptions as redis_errors

from keyleash.cli.settings import pass_settings, settings_of
from keyleash.cli.terminal import STANDARD_INPUT
from keyleash.errors import KeyleashError, OperationError, PolicyError, Span, UsageError
from keyleash.policy.problems import did_you_mean
from keyleash.store.connect import NODE_TIMEOUT_S, connect, has_password
from keyleash.store.token import TOKEN_START
from keyleash.text import printable

F = TypeVar("F", bound=Callable[..., Any])
T = TypeVar("T")


def _set_json(context: click.Context, _parameter: click.Parameter, value: bool) -> None:
    if value:
        settings_of(context).json = True


def json_option(function: F, help: str = "Print one JSON document.") -> F:
    """Add `--json`, which is also accepted before the command."""
    return click.option(
        "--json", is_flag=True, is_eager=True, expose_value=False, callback=_set_json, help=help
    )(function)


def with_settings(function: Callable[..., Any]) -> Callable[..., Any]:
    """Add `--json` to a command, and pass it the settings."""
    return json_option(pass_settings(function))


def json_lines_option(function: F) -> F:
    """Add `--json` to a command that prints a list while it reads."""
    return json_option(function, "Print one JSON object a line.")


def example(line: str) -> str:
    """Return the epilog of a command's help."""
    return f"\b\nexample: {line}"


allow_eviction_option = click.option(
    "--allow-eviction", is_flag=True, help="Load even if the server may evict keyleash's own keys."
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
all_option = click.option("--all", "every", is_flag=True, help="Show all, not one screen.")
full_option = click.option("--full", is_flag=True, help="Show every change, not a summary of many.")
yes_option = click.option("--yes", "-y", is_flag=True, help="Do not ask for confirmation.")


def refuse_typed_password(parameter: str, urls: str | Sequence[str] | None, variable: str) -> None:
    """Require that a URL with a password comes from the environment *variable*, as do several."""
    given = click.get_current_context().get_parameter_source(parameter)
    several = [urls] if isinstance(urls, str) else urls or ()
    if given is ParameterSource.COMMANDLINE and any(map(has_password, several)):
        raise UsageError(
            "a password on the command line can be read by every user of this machine",
            help=f"set {variable} to the URL{'' if isinstance(urls, str) else 's'} instead",
        )


def require_consent(question: str, yes: bool, effect: str = "nothing was changed") -> None:
    """Ask for confirmation, unless *yes*; *effect* is what follows if the user declines."""
    if yes:
        return
    if not sys.stdin.isatty():
        raise UsageError(
            "cannot ask for confirmation without a terminal", help="add `--yes` to proceed"
        )
    try:
        if not click.confirm(question, err=True):
            raise OperationError("declined", effect)
    except click.Abort:
        # The question does not end its line.
        click.echo(err=True)
        raise


def all_of(*decorators: Callable[[Any], Any]) -> Callable[[F], F]:
    """Return a decorator that applies several, the first of which is the outermost."""

    def decorate(function: Any) -> Any:
        for decorator in reversed(decorators):
            function = decorator(function)
        return function

    return decorate


def reading(read: Callable[[Any], T]) -> Callable[[click.Context, click.Parameter, Any], T | None]:
    """Return the callback of a parameter that *read* reads if it is given.

    A PolicyError or ValueError of *read* is reported as an error of the parameter.
    """

    def callback(_context: click.Context, _parameter: click.Parameter, value: Any) -> T | None:
        try:
            return None if value is None else read(value)
        except PolicyError as error:
            problem = error.problems[0]
            raise click.BadParameter(f"{problem.message}; {problem.help}") from None
        except ValueError as error:
            raise click.BadParameter(str(error)) from None

    return callback


SERVER_OPTIONS = ("url", "given_actor", "timeout_s")
"""Options of the program that commands accept as well, without listing them."""
OTHER_NAMES = {
    "apply": "load", "create": "issue", "diff": "plan", "logs": "audit log", "unfreeze": "thaw",
    "validate": "check",
}  # fmt: skip
"""Commands by the names that other programs give them."""


class Group(click.Group):
    """A group that suggests commands, and whose help shows their whole first sentences."""

    def resolve_command(self, ctx: click.Context, args: list[str]) -> Any:
        """Return the command of *args*, or raise an error that suggests a command or option."""
        name = args[0]
        if not (ctx.resilient_parsing or name[:1] == "-" or self.get_command(ctx, name)):
            options = (option for item in self.get_params(ctx) for option in item.opts)
            similar = did_you_mean(name, [*self.list_commands(ctx), *options], "")
            other = OTHER_NAMES.get(name, "")
            if other.partition(" ")[0] in self.list_commands(ctx):
                similar = f"did you mean `{other}`?"
            raise click.UsageError(f"No such command `{name}`; {similar}".rstrip("; "), ctx)
        found = super().resolve_command(ctx, args)
        params = found[1].params if found[1] else []
        known = {item.name for item in params}
        for option in ctx.find_root().command.params:
            if option.name in SERVER_OPTIONS and option.name not in known:
                late: Any = copy(option)
                late.default, late.envvar, late.hidden = None, None, True
                params.append(late)
        return found

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the list, wrapped."""
        rows = [
            (name, command.get_short_help_str(limit=1000))
            for name in self.list_commands(ctx)
            if (command := self.get_command(ctx, name)) and not command.hidden
        ]
        with formatter.section("Commands"):
            formatter.write_dl(rows)


class FileName(StringParamType):
    """A file (`file`) or directory (`dir`); commands check that it exists."""

    def __init__(self, kind: str) -> None:
        self._kind = kind

    def shell_complete(
        self, ctx: click.Context, param: click.Parameter, incomplete: str
    ) -> list[CompletionItem]:
        """Leave completion to the shell."""
        return [CompletionItem(incomplete, type=self._kind)]


FILE = FileName("file")
DIRECTORY = FileName("dir")


def read_duration(value: str) -> timedelta:
    """Parse a duration such as `30s` or `1h30m`."""
    from keyleash.policy.quantities import parse_duration  # noqa: PLC0415 - few commands

    seconds = parse_duration(value, Span("", 1, 1), because="that is the maximum")
    return timedelta(seconds=seconds)


def _moment(value: str) -> str:
    """Check that a time is `10m` ago or ISO 8601, in UTC by default."""
    from keyleash.policy.quantities import parse_moment  # noqa: PLC0415 - few commands

    parse_moment(value, 0)
    return value


as_duration = reading(read_duration)
moment = reading(_moment)


class Name(StringParamType):
    """A name, or several with commas. Commands check that it exists.

    *names* are all, or a function that reads them from the server.
    """

    def __init__(self, names: Iterable[str] | Callable[[Any], Iterable[str]]) -> None:
        self._names = names

    def shell_complete(
        self, ctx: click.Context, param: click.Parameter, incomplete: str
    ) -> list[CompletionItem]:
        """Return the names that begin with *incomplete*; none if the server fails."""
        begin, comma, incomplete = incomplete.rpartition(",")
        names = self._names
        if callable(names):
            from keyleash.store.store import Store  # noqa: PLC0415 - for completion alone

            try:
                client = connect(settings_of(ctx).url, NODE_TIMEOUT_S)
                names = list(names(Store(client)))
            except (redis_errors.RedisError, OSError, KeyleashError):
                return []
        return [
            CompletionItem(f"{begin}{comma}{name}") for name in names if name.startswith(incomplete)
        ]


def _identities(store: Any) -> list[str]:
    from keyleash.store.identities import known_identities  # noqa: PLC0415 - for completion alone

    return known_identities(store)


def _token_ids(store: Any) -> list[str]:
    from keyleash.store.token_entries import read_token_entries  # noqa: PLC0415 - as above

    entries = read_token_entries(store, _identities(store))
    return [token_id.decode() for of_identity in entries for token_id in of_identity]


IDENTITY = Name(_identities)
TOKEN_ID = Name(_token_ids)
IDENTITY_OR_TOKEN_ID = Name(lambda store: [*_identities(store), *_token_ids(store)])


TOKEN_VARIABLES = ("KEYLEASH_TOKEN", "KEYLEASH_TOKEN_FILE")


def _token_option(help: str) -> Callable[[F], F]:
    default = f"[default: {TOKEN_VARIABLES[0]}, or the file that {TOKEN_VARIABLES[1]} names]"
    help = f"{help}.  {default}"
    return click.option("--token", "token_file", metavar="FILE", type=FILE, help=help)


token_option = _token_option("A file with the token on its first line; `-` is standard input")
token_file_option = _token_option("A file with the token on its first line")
"""For a command whose standard input is for something else."""


def refuse_typed_token(word: str) -> None:
    """Reject a word of the command line that is a token."""
    if word.startswith(TOKEN_START):
        raise UsageError(
            "a token on the command line can be read by every user of this machine",
            help=f"{_TOKEN_HELP}; revoke this token, it has been exposed",
        )


def require_token(file: str | None) -> str:
    """Return the token on the first line of *file*, or that of the environment if None."""
    if file is None:
        from keyleash.client.tokens import token_from_env  # noqa: PLC0415 - few commands

        if not any(os.environ.get(name, "").strip() for name in TOKEN_VARIABLES):
            raise UsageError("there is no token", help=_TOKEN_HELP)
        source = token_from_env()
        return source if isinstance(source, str) else source()
    refuse_typed_token(file)
    token = _first_line(file).strip()
    if not token:
        raise UsageError("the first line of the input of `--token` has no token", help=_TOKEN_HELP)
    return token


_TOKEN_HELP = f"set {' or '.join(TOKEN_VARIABLES)}, or pass `--token FILE`"


def _first_line(file: str) -> str:
    if file == STANDARD_INPUT:
        return sys.stdin.readline()
    try:
        with Path(file).open(encoding="utf-8", errors="replace") as opened:
            return opened.readline()
    except (OSError, ValueError) as error:
        # Without the name, which may be a secret that was passed by mistake.
        reason = (getattr(error, "strerror", None) or "no such file or directory").lower()
        raise OperationError("file", f"cannot read the file of `--token`: {reason}") from None


def pairs(values: tuple[str, ...]) -> dict[str, str]:
    """Read options such as `job_id=42`."""
    found: dict[str, str] = {}
    for value in values:
        name, equals, text = value.partition("=")
        if not equals or not name:
            raise ValueError(f"`{printable(value)}` is not a name, `=` and a value")
        if name in found:
            raise ValueError(f"`{printable(name)}` is given twice")
        found[name] = text
    return found
