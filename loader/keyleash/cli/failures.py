"""Map each error to a code, an exit code, a message and a hint."""

from __future__ import annotations

import errno
import json
import os
import re
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import click
from redis import exceptions as redis_errors

from keyleash.cli.terminal import is_plain, print_json_line
from keyleash.errors import KeyleashError, LeashError, PolicyError, Problem, WarningsError
from keyleash.errors.operations import FAILED
from keyleash.errors.sentences import Door, explain
from keyleash.extras import missing_extra
from keyleash.policy.problems import SHOWN_BLOCKS, SHOWN_IDENTITIES, fold, some
from keyleash.text import counted, printable, with_links, without_tokens

USAGE = 2
UNWRITTEN = "standard output could not be written"
_IDENTITY = re.compile("(identity |^|^warning: )`[^`]*`")


@dataclass(frozen=True)
class Failure:
    """An error message, and the exit code of the program."""

    code: str
    exit_code: int
    message: str
    help: str | None = None
    problems: tuple[Problem, ...] = ()
    warnings: tuple[Problem, ...] = ()
    details: Mapping[str, str] = field(default_factory=dict)


BUG = Failure(
    "bug",
    70,
    "this is a bug in keyleash; the traceback is above",
    "report it, with the command and the traceback",
)
"""The failure for an unexpected exception."""


def failure_of(error: Exception, server: str, operation: str = "") -> Failure | None:
    """Return the failure to report for *error*; None if it is unexpected, thus a bug.

    *server* is the server's URL without secrets, *operation* the command that ran, as
    `operator.roles` names it.
    """
    match error:
        case click.UsageError():
            return Failure("usage", USAGE, _plain(error.format_message()), _usage_help(error))
        case click.ClickException():
            return Failure("failed", error.exit_code, _plain(error.format_message()))
        case PolicyError():
            return Failure(error.code, error.exit_code, error.message, None, error.problems)
        case WarningsError():
            return Failure(
                error.code, error.exit_code, error.message, error.help, warnings=error.warnings
            )
        case LeashError():
            message, help_ = explain(error, Door.CLI)
            return Failure(str(error.code), FAILED, message, help_, details=error.details)
        case KeyleashError():
            where = f"{error.span}: " if error.span else ""
            message = printable(where + error.message)
            return Failure(error.code, error.exit_code, message, _with_options(error.help))
        case ImportError():
            missing = missing_extra(error)
            if missing is None:
                return None
            return Failure(missing.code, FAILED, missing.message, missing.help)
        case redis_errors.RedisError():
            return _server_failure(error, server, operation)
        case OSError():
            return _file_failure(error)
        case json.JSONDecodeError() | struct.error():
            help_ = "run `keyleash doctor`; find out what wrote to keyleash's keys"
            return Failure("unreadable", FAILED, "a record on the server is corrupt", help_)
        case UnicodeEncodeError(encoding="utf-8"):
            # Bytes that the shell passed; nothing was sent.
            return Failure("usage", USAGE, "an argument, or KEYLEASH_ACTOR, is not UTF-8 text")
    return None


_PARAMETER = re.compile(r"`([a-z_]+)=(?:True|\[?([A-Z]+)\]?)`")


def _with_options(help: str | None) -> str | None:
    """Return a help with options in place of parameters: `skip=[KEY]` becomes `--skip KEY`."""

    def option(found: re.Match[str]) -> str:
        return f"`--{found[1].replace('_', '-')}{' ' if found[2] else ''}{found[2] or ''}`"

    return help and _PARAMETER.sub(option, help)


def _server_failure(error: redis_errors.RedisError, server: str, operation: str) -> Failure:
    # Imported here: the start of the program does not need it.
    from keyleash.store.failures import server_failure  # noqa: PLC0415

    found = server_failure(error, server)
    help_ = None
    if found.code == "not-permitted":
        # Imported here: the operator API is heavy, and this is rare.
        from keyleash.operator.roles import help_of_roles  # noqa: PLC0415

        help_ = help_of_roles(operation)
    return Failure(found.code, found.exit_code, found.message, help_ or _with_options(found.help))


def _file_failure(error: OSError) -> Failure:
    reason = (error.strerror or str(error) or type(error).__name__).lower()
    if isinstance(error, FileExistsError) and Path(os.fsdecode(error.filename or "")).is_symlink():
        # Only the creation of a directory raises this.
        reason = "it is a symbolic link that does not lead to a directory"
    if error.filename is None:
        # The errors of files that are written have their names.
        is_output = error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO)
        return Failure("system", FAILED, f"{UNWRITTEN}: {reason}" if is_output else reason)
    name = printable(os.fsdecode(error.filename))
    return Failure("file", FAILED, f"cannot use `{name}`: {reason}")


def _plain(message: str) -> str:
    """Return a message of click in our form: lower case, backticks, no final period."""
    text = " ".join(message.split()).rstrip(".").replace("'", "`")
    return text[:1].lower() + text[1:] if text[1:2].islower() else text


def _usage_help(error: click.UsageError) -> str | None:
    if error.ctx is None:
        return None
    root = error.ctx.find_root()
    if isinstance(error, click.NoSuchOption) and root is not error.ctx:
        path = error.ctx.command_path
        takes_command = any(parameter.name == "words" for parameter in error.ctx.command.params)
        if takes_command and error.ctx.allow_interspersed_args:
            return f"put `--` before the command: `{path} … -- COMMAND`; see `{path} --help`"
    return f"see `{error.ctx.command_path} --help`"


def report(failure: Failure, *, as_json: bool) -> None:
    """Print *failure* on standard error, or as JSON on standard output unless that fails."""
    if as_json:
        problems = [item.to_dict() for item in (*failure.problems, *failure.warnings)]
        document = {
            "code": failure.code,
            "message": without_tokens(failure.message),
            "help": failure.help and without_tokens(failure.help),
            "details": {name: without_tokens(text) for name, text in failure.details.items()},
            "problems": problems,
        }
        try:
            print_json_line({"error": document})
        except OSError:
            report(failure, as_json=False)
    elif failure.problems:
        _print_problems(failure.problems)
        _print(failure.message)
    else:
        warn(failure.warnings)
        _print(failure.message, failure.help, label="error:")


def warn(warnings: Sequence[Problem]) -> None:
    """Print warnings on standard error, with their places and codes."""
    _print_problems(
        [replace(item, message=f"warning: {item.message} [{item.code}]") for item in warnings]
    )


def _print_problems(problems: Sequence[Problem]) -> None:
    """Print problems, those that differ in the identity as one, and the first of many."""
    kinds = [*fold(problems, lambda item: (_IDENTITY.sub("", item.message), item.help))]
    for first, *others in kinds[:SHOWN_BLOCKS]:
        _print(printable(f"{first.span}: {first.message}"), printable(first.help), indent="  ")
        if others:
            lines = some([str(item.span.line) for item in others], SHOWN_IDENTITIES)
            _print(f"  the same at {counted(len(others), 'other place')}, in lines {lines}")
    if left := sum(map(len, kinds[SHOWN_BLOCKS:])):
        _print(f"and {counted(left, 'more problem')}: `--json` lists all")


def _print(message: str, help_: str | None = None, *, indent: str = "", label: str = "") -> None:
    colour = False if is_plain() else None
    styled = click.style(label, fg="red", bold=True) + " " if label else ""
    click.echo(styled + _shown(message), err=True, color=colour)
    if help_:
        click.echo(f"{indent}help: {_shown(help_)}", err=True, color=colour)


def _shown(text: str) -> str:
    """Return *text* without tokens and control characters."""
    return without_tokens(with_links("\n".join(map(printable, text.split("\n")))))
