"""Denials in words."""

from __future__ import annotations

import math
from collections import defaultdict

from keyleash.commands.facts import NO_SERVER_HAS, NOT_NAMED
from keyleash.errors import (
    BudgetExhaustedError,
    LeashError,
    RateLimitedError,
    ReplyCode,
    SuspendedError,
)
from keyleash.text import clock_time, printable, span

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
        "issue a new one with `keyleash token issue IDENTITY`, or use the one that replaced it",
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
        "load a policy that has it with `keyleash load FILE`; if `keyleash status` lists it, its"
        " records were deleted: run `keyleash doctor`",
    ),
    ReplyCode.RATE_LIMITED: ("`{limit}` is exceeded", "try again in {retry_after}"),
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
    if error.details.get("reason", "").startswith(NO_SERVER_HAS):
        help_ = "check the name of the command"
    if isinstance(error, RateLimitedError):
        words["retry_after"] = _wait_text(error.retry_after_ms)
    if isinstance(error, BudgetExhaustedError):
        words["resets_at"] = clock_time(error.resets_at_ms)
    message = message.format_map(words)
    if error.code is ReplyCode.CLASS_NOT_GRANTED and "key" in words:
        message += f", on the key `{words['key']}`"
    return f"{error.code}: {message}", error.help or (help_ and help_.format_map(words))


def _wait_text(wait_ms: int) -> str:
    return f"{wait_ms} ms" if wait_ms < 1000 else span(math.ceil(wait_ms / 1000))
