"""What a guard's refusal means, in a sentence, and what to do about it."""

from __future__ import annotations

from keyleash.cli.text import clock_time, printable
from keyleash.commands.facts import NOT_NAMED
from keyleash.errors import BudgetExhaustedError, LeashError, ReplyCode, SuspendedError

SENTENCES: dict[ReplyCode, tuple[str, str | None]] = {
    ReplyCode.SUSPENDED: (
        "the identity is suspended: {reason}",
        "let it act again with `keyleash thaw NAME`",
    ),
    ReplyCode.POLICY_STALE: (
        "the guard belongs to a policy that is no longer active",
        "try again; if it stays, load the policy again",
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
        "the command `{command}` is refused: {reason}",
        "see docs/commands.md, and `only` and `except` in the policy",
    ),
    ReplyCode.CLASS_NOT_GRANTED: (
        "no grant gives `{class}`, which `{command}` needs",
        "add `{class}` to `allow` of a grant, if the identity shall have it",
    ),
    ReplyCode.KEY_NOT_GRANTED: (
        "no grant covers the key `{key}`",
        "use a key of the identity, or add a pattern to its grants",
    ),
    ReplyCode.KEY_DENIED: ("the key `{key}` is denied, whatever the grants say", None),
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
    ReplyCode.RATE_LIMITED: ("`{limit}` is used up for now", "try again in {retry_after_ms} ms"),
    ReplyCode.BUDGET_EXHAUSTED: ("`{limit}` is spent", "it begins anew at {resets_at}"),
    ReplyCode.AUDIT_FULL: (
        "{events} events or more wait for their export",
        "export them with `keyleash audit export`; until then nothing more can be recorded",
    ),
    ReplyCode.COUNTER_CORRUPT: (
        "the counter of `{limit}` holds what no guard writes",
        "find out who wrote to it, then start it again with `keyleash limits reset IDENTITY`",
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
        help_ = f"it may act again at {clock_time(error.until_ms)}; sooner by `keyleash thaw NAME`"
    if error.details.get("reason") == NOT_NAMED:
        section = "restore" if words["command"] == "RESTORE" else "servers-and-modules"
        help_ = f"see docs/policy.md#{section}"
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
