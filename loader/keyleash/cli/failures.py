"""Map each error to a code, an exit code, a message and a hint."""

from __future__ import annotations

import json
import os
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

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
from keyleash.store.token import without_tokens
from keyleash.store.wire import is_of_a_cluster, server_message
from keyleash.text import clock_time, json_bytes, printable

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
        "see docs/reference/commands.md, and `only` and `except` in the policy",
    ),
    ReplyCode.CLASS_NOT_GRANTED: (
        "no grant gives `{class}`, which `{command}` needs",
        "add `{class}` to `allow` of a grant, if the identity should have it",
    ),
    ReplyCode.KEY_NOT_GRANTED: (
        "no grant covers the key `{key}`",
        "use a key of the identity, or add a pattern to its grants",
    ),
    ReplyCode.KEY_DENIED: ("the key `{key}` is denied by a `deny` rule", None),
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
    """The sentence, code first, and the help for *error*; neither ever holds a token."""
    sentence, help_ = SENTENCES[error.code]
    if "reason" not in error.details:
        sentence = sentence.removesuffix(": {reason}")
    # A container without its sub-command ends in a blank.
    words = _Words({name: printable(value).rstrip() for name, value in error.details.items()})
    if isinstance(error, SuspendedError) and error.until_ms is not None:
        help_ = f"it resumes at {clock_time(error.until_ms)}, or earlier with `keyleash thaw NAME`"
    if error.details.get("reason") == NOT_NAMED:
        section = "restore" if words["command"] == "RESTORE" else "servers-and-modules"
        help_ = f"see docs/reference/policy.md#{section}"
    if isinstance(error, BudgetExhaustedError):
        words["resets_at"] = clock_time(error.resets_at_ms)
    said = sentence.format_map(words)
    if error.code is ReplyCode.CLASS_NOT_GRANTED and "key" in words:
        said += f", on the key `{words['key']}`"
    # What raised the error may know better than a table what to do.
    way_out = error.help or (help_.format_map(words) if help_ else None)
    return f"{error.code}: {said}", way_out


class _Words(dict[str, str]):
    """Details of a refusal; a guard of another version may lack one."""

    def __missing__(self, name: str) -> str:
        return "?"


FAILED = 1
USAGE = 2
UNREACHABLE = 69
NOT_PERMITTED = 77


@dataclass(frozen=True)
class Failure:
    """What is reported and how the program ends."""

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
"""What was not foreseen."""

# What the error alone says, by its class and by its first word. Before all others: a server that
# is loading is a kind of ConnectionError.
_OF_KIND = {
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
        "the server is a replica that has lost its primary, and serves nothing meanwhile",
        "use the primary, or let the replica serve: `replica-serve-stale-data yes`",
    ),
}
_OF_WORD = {
    "NOREPLICAS": Failure(
        "too-few-replicas",
        FAILED,
        "the server has fewer replicas than it wants for a write",
        "bring them back, or lower its `min-replicas-to-write`",
    ),
    "MISCONF": Failure(
        "cannot-persist",
        FAILED,
        "the server denies writes, because it could not write to its disk",
        "make room on the disk; `INFO persistence` and the server's log say what failed",
    ),
}


def failure_of(error: Exception, server: str) -> Failure | None:
    """
    Return the failure to report for *error*.

    Args:
        error: Whatever was raised.
        server: The server's URL as it may be shown.

    Returns:
        None if *error* is none that was foreseen: a bug.
    """
    match error:
        case click.UsageError():
            return Failure("usage", USAGE, _sentence(error.format_message()), _usage_help(error))
        case click.ClickException():
            return Failure("failed", error.exit_code, _sentence(error.format_message()))
        case PolicyError():
            return Failure(error.code, error.exit_code, error.message, None, error.problems)
        case WarningsError():
            said = error.message, error.help
            return Failure(error.code, error.exit_code, *said, warnings=error.warnings)
        case LeashError():
            message, help_ = explain(error)
            return Failure(str(error.code), FAILED, message, help_, details=error.details)
        case KeyleashError():
            where = f"{error.span}: " if error.span else ""
            message = printable(where + error.message)
            return Failure(error.code, error.exit_code, message, error.help)
        case redis_errors.RedisError():
            return _server_failure(error, server)
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
            # Only bytes that the shell passed on can be that; nothing was sent.
            return Failure(
                "usage", USAGE, "an argument, or KEYLEASH_ACTOR, is not text in UTF-8", None
            )
    return None


def _server_failure(error: redis_errors.RedisError, server: str) -> Failure:
    said = printable(server_message(error)).rstrip(".")
    for kind, failure in _OF_KIND.items():
        if isinstance(error, kind):
            return failure
    for word, failure in _OF_WORD.items():
        if said.startswith(word):
            return failure
    match error:
        case (
            redis_errors.AuthenticationError()
            | redis_errors.AuthenticationWrongNumberOfArgsError()
            | redis_errors.AuthorizationError()
        ):
            help_ = "set KEYLEASH_URL to redis://USER:PASSWORD@HOST:PORT/DB"
            return Failure("not-authenticated", NOT_PERMITTED, _credentials(said), help_)
        case redis_errors.ConnectionError() | redis_errors.TimeoutError():
            verb = "read from" if is_unanswered(error) else "reach"
            message = f"cannot {verb} `{server}`: {reason_of(error)}"
            return Failure("server-unreachable", UNREACHABLE, message, hint_of(error, server))
        case redis_errors.InvalidResponse():
            message = f"the server at `{server}` is not Redis"
            return Failure("no-redis", UNREACHABLE, message, "check --url, and its scheme")
    if is_of_a_cluster(error):
        cluster = ClusterError()
        return Failure(cluster.code, cluster.exit_code, cluster.message, cluster.help)
    if isinstance(error, redis_errors.NoPermissionError) or "ACL failure in script" in said:
        return Failure(
            "not-permitted",
            NOT_PERMITTED,
            f"the server does not permit this to the user of the URL: {said}",
            "use a user who may do it; `ACL LOG` on the server says what was refused, and"
            " `keyleash fence plan` lists the commands that a fence leaves out",
        )
    return Failure("server-error", FAILED, f"the server answers: {said}")


def _credentials(said: str) -> str:
    if "without any password configured" in said:
        return "the server has no password for its default user, and the URL gives one"
    if "uthentication required" in said:
        return "the server wants a user and a password, and the URL gives none"
    return f"the server does not accept the user and password of the URL: {said}"


def _file_failure(error: OSError) -> Failure:
    said = (error.strerror or str(error) or type(error).__name__).lower()
    if isinstance(error, FileExistsError) and Path(os.fsdecode(error.filename or "")).is_symlink():
        # Only a directory is made without a look at what is there.
        said = "it is a symbolic link that leads to no directory"
    if error.filename is None:
        return Failure("system", FAILED, said)
    return Failure("file", FAILED, f"cannot use `{printable(os.fsdecode(error.filename))}`: {said}")


def _sentence(said: str) -> str:
    """Click's sentence in the form of ours: lower case, backticks, no final period."""
    said = " ".join(said.split()).rstrip(".").replace("'", "`")
    return said[:1].lower() + said[1:] if said[1:2].islower() else said


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
        print_json({"error": _as_json(failure)})
        return
    if failure.problems:
        for problem in failure.problems:
            said = printable(f"{problem.span}: {problem.message}")
            _complain(said, printable(problem.help), indent="  ")
        _complain(failure.message, None)
        return
    warn(failure.warnings)
    _complain(failure.message, failure.help, label="error: ")


def warn(warnings: Sequence[Problem]) -> None:
    """Print warnings on standard error, each with its place and its code."""
    for warning in warnings:
        said = printable(f"{warning.span}: warning: {warning.message} [{warning.code}]")
        _complain(said, printable(warning.help), indent="  ")


def _complain(message: str, help_: str | None, *, indent: str = "", label: str = "") -> None:
    colour = False if is_plain() else None
    styled = click.style(label.rstrip(), fg="red", bold=True) + " " if label else ""
    click.echo(styled + _shown(message), err=True, color=colour)
    if help_:
        click.echo(f"{indent}help: {_shown(help_)}", err=True, color=colour)


def _shown(said: str) -> str:
    """*said* without the secrets in it, and with nothing in it that moves a cursor."""
    return without_tokens("\n".join(map(printable, said.split("\n"))))


def _as_json(failure: Failure) -> dict[str, Any]:
    return {
        "code": failure.code,
        "message": without_tokens(failure.message),
        "help": without_tokens(failure.help) if failure.help else None,
        "details": {
            name: _detail(without_tokens(value)) for name, value in failure.details.items()
        },
        "problems": [
            problem_as_json(problem) for problem in (*failure.problems, *failure.warnings)
        ],
    }


def problem_as_json(problem: Problem) -> dict[str, Any]:
    """A problem or a warning, with its place."""
    return {
        "code": problem.code,
        "message": without_tokens(problem.message),
        "help": without_tokens(problem.help),
        "file": problem.span.file,
        "line": problem.span.line,
        "column": problem.span.column,
    }


def _detail(value: str) -> Any:
    return json_bytes(value.encode("utf-8", "surrogateescape"))
