"""Map each error to a code, an exit code, a message and a hint."""

from __future__ import annotations

import json
import os
import struct
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import click
from redis import exceptions as redis_errors

from keyleash.cli.settings import hint_of, is_unanswered, reason_of
from keyleash.cli.terminal import is_plain, print_json
from keyleash.commands.facts import NOT_NAMED
from keyleash.errors import (
    BudgetExhaustedError,
    ClusterError,
    KeyleashError,
    LeashError,
    PolicyError,
    Problem,
    ReplyCode,
    SuspendedError,
    WarningsError,
)
from keyleash.extras import missing_extra
from keyleash.store.denied import missing_right
from keyleash.store.server_check import IN_SCRIPT
from keyleash.store.wire import is_of_a_cluster, server_message
from keyleash.text import clock_time, printable, without_tokens

SENTENCES: dict[ReplyCode, tuple[str, str | None]] = {
    ReplyCode.SUSPENDED: (
        "the identity is suspended: {reason}",
        "resume it with `keyleash thaw NAME`",
    ),
    ReplyCode.POLICY_STALE: (
        "the guard belongs to a policy that is no longer active",
        "try again; if it persists, load the policy again",
    ),
    ReplyCode.TOKEN_UNKNOWN: (
        "the server does not know the token",
        "issue one with `keyleash token issue IDENTITY`",
    ),
    ReplyCode.TOKEN_EXPIRED: (
        "the token has expired",
        "issue a new one with `keyleash token issue IDENTITY`",
    ),
    ReplyCode.TOKEN_REVOKED: (
        "the token was revoked",
        "issue a new one with `keyleash token issue IDENTITY`",
    ),
    ReplyCode.COMMAND_REFUSED: (
        "the command `{command}` is not allowed: {reason}",
        "see `only` and `except` in the policy, and the reference of commands",
    ),
    ReplyCode.CLASS_NOT_GRANTED: (
        "no grant gives `{class}`, which `{command}` needs",
        "add `{class}` to `allow` of a grant, if the identity should have it",
    ),
    ReplyCode.KEY_NOT_GRANTED: (
        "no grant covers the key `{key}`",
        "use a key of the identity, or add a pattern to its grants",
    ),
    ReplyCode.KEY_DENIED: (
        "the key `{key}` is denied by a `deny` rule",
        "use another key, or change the `deny` rules of the identity",
    ),
    ReplyCode.CHANNEL_NOT_GRANTED: (
        "no grant covers the channel `{channel}`",
        "use a channel of the identity, or add a pattern to `channels` of a grant",
    ),
    ReplyCode.KEYS_MISMATCH: (
        "the keys that were declared are not those of the command",
        "call the guard through keyleash's client, of the same version",
    ),
    ReplyCode.ARGS_TOO_MANY: (
        "the command has too many arguments: {arguments}",
        "split it into several commands",
    ),
    ReplyCode.NOT_ACTIVE: (
        "the identity of the token is in no active policy",
        "see `keyleash status`; load a policy that has it with `keyleash load FILE`",
    ),
    ReplyCode.RATE_LIMITED: ("`{limit}` is exceeded", "try again in {retry_after_ms} ms"),
    ReplyCode.BUDGET_EXHAUSTED: ("`{limit}` is exhausted", "it resets at {resets_at}"),
    ReplyCode.AUDIT_FULL: (
        "at least {events} events are not exported yet",
        "export them with `keyleash audit export`; until then nothing more can be recorded",
    ),
    ReplyCode.COUNTER_CORRUPT: (
        "the counter of `{limit}` is corrupt",
        "find out what wrote to it, then reset it with `keyleash limits reset IDENTITY`",
    ),
    ReplyCode.WORK_TOO_LARGE: (
        "`{command}` is {work} units of work, and the limit is {limit}",
        "ask for less in one call (a range, COUNT or LIMIT), or raise `limits: {{work: …}}` in the"
        " policy",
    ),
    ReplyCode.VALUE_TOO_LARGE: (
        "the string `{key}` would have {bytes} bytes, and the limit is {limit}",
        "write shorter values, or raise `values: {{max_bytes: …}}` of a grant",
    ),
}


def explain(error: LeashError) -> tuple[str, str | None]:
    """Return the message, code first, and the help for a denial; neither contains a token."""
    message, help_ = SENTENCES[error.code]
    if "reason" not in error.details:
        message = message.removesuffix(": {reason}")
    # A guard of another version may lack a detail. A container without its subcommand ends in a
    # blank.
    words = defaultdict(
        lambda: "?", {name: printable(value).rstrip() for name, value in error.details.items()}
    )
    if isinstance(error, SuspendedError) and error.until_ms is not None:
        help_ = f"it resumes at {clock_time(error.until_ms)}, or earlier with `keyleash thaw NAME`"
    if error.details.get("reason") == NOT_NAMED:
        help_ = "name it in `only` of a grant, if the identity should have it"
    if isinstance(error, BudgetExhaustedError):
        words["resets_at"] = clock_time(error.resets_at_ms)
    message = message.format_map(words)
    if error.code is ReplyCode.CLASS_NOT_GRANTED and "key" in words:
        message += f", on the key `{words['key']}`"
    return f"{error.code}: {message}", error.help or (help_ and help_.format_map(words))


FAILED = 1
USAGE = 2
UNREACHABLE = 69
NOT_PERMITTED = 77


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

# Before all others: the error of a loading server is a ConnectionError.
_BY_CLASS = {
    redis_errors.BusyLoadingError: Failure(
        "server-loading", UNREACHABLE, "the server is still loading its data", "try again"
    ),
    redis_errors.ReadOnlyError: Failure(
        "read-only", FAILED, "the server is a replica", "use its primary"
    ),
    redis_errors.OutOfMemoryError: Failure(
        "out-of-memory", FAILED, "the server is out of memory", "raise its `maxmemory`"
    ),
    redis_errors.MasterDownError: Failure(
        "primary-down",
        UNREACHABLE,
        "the server is a replica that has lost its primary, and does not serve reads",
        "use the primary, or let the replica serve: `replica-serve-stale-data yes`",
    ),
}
_BY_PREFIX = {
    "NOREPLICAS": Failure(
        "too-few-replicas",
        FAILED,
        "the server has fewer replicas than it requires for a write",
        "start the replicas, or lower `min-replicas-to-write` of the server",
    ),
    "MISCONF": Failure(
        "cannot-persist",
        FAILED,
        "the server denies writes, because it could not write to its disk",
        "free disk space; see `INFO persistence` and the server's log",
    ),
}


def failure_of(error: Exception, server: str, operation: str = "") -> Failure | None:
    """Return the failure to report for *error*; None if it is unexpected, thus a bug.

    Args:
        error: Any exception.
        server: The server's URL without secrets.
        operation: The command that ran, as `operator.roles.OPERATIONS` names it.
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
            message, help_ = explain(error)
            return Failure(str(error.code), FAILED, message, help_, details=error.details)
        case KeyleashError():
            where = f"{error.span}: " if error.span else ""
            message = printable(where + error.message)
            return Failure(error.code, error.exit_code, message, error.help)
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
            return Failure(
                "unreadable",
                FAILED,
                "a record on the server is corrupt",
                "run `keyleash doctor`; find out what wrote to keyleash's keys",
            )
        case UnicodeEncodeError(encoding="utf-8"):
            # Bytes that the shell passed; nothing was sent.
            return Failure("usage", USAGE, "an argument, or KEYLEASH_ACTOR, is not UTF-8 text")
    return None


def _server_failure(error: redis_errors.RedisError, server: str, operation: str) -> Failure:
    message = printable(server_message(error)).rstrip(".")
    for cls, failure in _BY_CLASS.items():
        if isinstance(error, cls):
            return failure
    for prefix, failure in _BY_PREFIX.items():
        if message.startswith(prefix):
            return failure
    match error:
        case (
            redis_errors.AuthenticationError()
            | redis_errors.AuthenticationWrongNumberOfArgsError()
            | redis_errors.AuthorizationError()
        ):
            return Failure(
                "not-authenticated",
                NOT_PERMITTED,
                _authentication_message(message),
                "set KEYLEASH_URL to redis://USER:PASSWORD@HOST:PORT/DB",
            )
        case redis_errors.ConnectionError() | redis_errors.TimeoutError():
            verb = "read from" if is_unanswered(error) else "reach"
            return Failure(
                "server-unreachable",
                UNREACHABLE,
                f"cannot {verb} `{server}`: {reason_of(error)}",
                hint_of(error, server),
            )
        case redis_errors.InvalidResponse():
            return Failure(
                "no-redis",
                UNREACHABLE,
                f"the server at `{server}` is not Redis",
                "check --url, and its scheme",
            )
    if is_of_a_cluster(error):
        cluster = ClusterError()
        return Failure(cluster.code, cluster.exit_code, cluster.message, cluster.help)
    if isinstance(error, redis_errors.NoPermissionError) or IN_SCRIPT in message:
        return Failure(
            "not-permitted",
            NOT_PERMITTED,
            f"the server does not permit this to the user of the URL{_missing(error, message)}",
            _help_of_roles(operation),
        )
    return Failure("server-error", FAILED, f"the server replied: {message}")


def _missing(error: Exception, message: str) -> str:
    right = missing_right(error)
    return f", which lacks {right}" if right else f": {message}"


def _help_of_roles(operation: str) -> str:
    # Imported here: the operator API is heavy, and this is rare.
    from keyleash.operator.roles import roles_with  # noqa: PLC0415

    if roles := roles_with(operation):
        shown = " or ".join(f"`{name}`" for name in roles)
        return (
            f"the role {shown} has this right; `keyleash acl {roles[0]}` prints the rules of its"
            " user"
        )
    return (
        "use a user with that right; `ACL LOG` on the server shows what was denied, and"
        " `keyleash fence plan` lists the commands that a fence omits"
    )


def _authentication_message(message: str) -> str:
    if "without any password configured" in message:
        return "the URL has a password, but the server's default user has none"
    if "uthentication required" in message:
        return "the server requires a user and a password, and the URL has none"
    return f"the server does not accept the user and password of the URL: {message}"


def _file_failure(error: OSError) -> Failure:
    reason = (error.strerror or str(error) or type(error).__name__).lower()
    if isinstance(error, FileExistsError) and Path(os.fsdecode(error.filename or "")).is_symlink():
        # Only the creation of a directory raises this.
        reason = "it is a symbolic link that does not lead to a directory"
    if error.filename is None:
        return Failure("system", FAILED, reason)
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
        option = error.option_name
        if any(option in parameter.opts for parameter in root.command.params):
            return f"write it before the command: `{root.command_path} {option} …`"
    return f"see `{error.ctx.command_path} --help`"


def report(failure: Failure, *, as_json: bool) -> None:
    """Print *failure*: as text on standard error, or as JSON on standard output."""
    if as_json:
        problems = [item.to_dict() for item in (*failure.problems, *failure.warnings)]
        document = {
            "code": failure.code,
            "message": without_tokens(failure.message),
            "help": failure.help and without_tokens(failure.help),
            "details": {name: without_tokens(text) for name, text in failure.details.items()},
            "problems": problems,
        }
        print_json({"error": document})
    elif failure.problems:
        for problem in failure.problems:
            _print(
                printable(f"{problem.span}: {problem.message}"),
                printable(problem.help),
                indent="  ",
            )
        _print(failure.message)
    else:
        warn(failure.warnings)
        _print(failure.message, failure.help, label="error:")


def warn(warnings: Sequence[Problem]) -> None:
    """Print warnings on standard error, each with its place and its code."""
    for warning in warnings:
        message = printable(f"{warning.span}: warning: {warning.message} [{warning.code}]")
        _print(message, printable(warning.help), indent="  ")


def _print(message: str, help_: str | None = None, *, indent: str = "", label: str = "") -> None:
    colour = False if is_plain() else None
    styled = click.style(label, fg="red", bold=True) + " " if label else ""
    click.echo(styled + _shown(message), err=True, color=colour)
    if help_:
        click.echo(f"{indent}help: {_shown(help_)}", err=True, color=colour)


def _shown(text: str) -> str:
    """Return *text* without tokens and control characters."""
    return without_tokens("\n".join(map(printable, text.split("\n"))))
