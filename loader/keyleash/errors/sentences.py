"""The codes of denials, and what each says: one table for programs and for the CLI."""

from __future__ import annotations

import math
from collections import defaultdict
from enum import StrEnum
from typing import Any

from keyleash.text import clock_time, printable, span, with_links


class ReplyCode(StrEnum):
    """The codes of denials, `LEASH <CODE> key=value …`, shared by Lua and Python."""

    SUSPENDED = "SUSPENDED"
    POLICY_STALE = "POLICY_STALE"
    TOKEN_UNKNOWN = "TOKEN_UNKNOWN"
    TOKEN_EXPIRED = "TOKEN_EXPIRED"
    TOKEN_REVOKED = "TOKEN_REVOKED"
    COMMAND_REFUSED = "COMMAND_REFUSED"
    CLASS_NOT_GRANTED = "CLASS_NOT_GRANTED"
    KEY_NOT_GRANTED = "KEY_NOT_GRANTED"
    KEY_DENIED = "KEY_DENIED"
    CHANNEL_NOT_GRANTED = "CHANNEL_NOT_GRANTED"
    KEYS_MISMATCH = "KEYS_MISMATCH"
    ARGS_TOO_MANY = "ARGS_TOO_MANY"
    NOT_ACTIVE = "NOT_ACTIVE"
    RATE_LIMITED = "RATE_LIMITED"
    BUDGET_EXHAUSTED = "BUDGET_EXHAUSTED"
    AUDIT_FULL = "AUDIT_FULL"
    COUNTER_CORRUPT = "COUNTER_CORRUPT"
    WORK_TOO_LARGE = "WORK_TOO_LARGE"
    VALUE_TOO_LARGE = "VALUE_TOO_LARGE"
    VALUE_REFUSED = "VALUE_REFUSED"
    DELEGATION_REFUSED = "DELEGATION_REFUSED"
    IDEMPOTENCY_CONFLICT = "IDEMPOTENCY_CONFLICT"
    REPLAYED = "REPLAYED"
    LEASE_NEEDED = "LEASE_NEEDED"
    LEASE_REFUSED = "LEASE_REFUSED"
    RENEWAL_REFUSED = "RENEWAL_REFUSED"


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
        "see `only` and `except` in the policy, and docs/reference/commands.md",
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
        "ask for less in one call (a range, COUNT or LIMIT), or raise a limit of the policy:"
        " `limits: {{strings: …}}` for a call that reads many strings, else `limits: {{work: …}}`",
    ),
    ReplyCode.VALUE_TOO_LARGE: (
        "the string `{key}` would have {bytes} bytes, and the limit is {limit}",
        "write shorter values, or raise `values: {{max_bytes: …}}` of a grant",
    ),
    ReplyCode.VALUE_REFUSED: (
        "the rule `{rule}` of `{key}` allows {limit}, and the call is {was}",
        "write what the rule `{rule}` allows, or change it in the policy",
    ),
    ReplyCode.DELEGATION_REFUSED: (
        "no child token is made: {reason}",
        "use keyleash's client, of the same version",
    ),
    ReplyCode.IDEMPOTENCY_CONFLICT: (
        "the idempotency id `{once}` belongs to another call",
        "give each call an id of its own, and repeat a call with the same arguments",
    ),
    ReplyCode.REPLAYED: (
        "the call was done before, and its reply is not stored, as it was too long",
        "do not repeat it: read what it wrote, or raise `max_reply` of `idempotency` in the policy",
    ),
    ReplyCode.LEASE_NEEDED: (
        "the node of the cluster needs a lease: {reason}",
        "use `keyleash.RedisCluster`, which fetches leases",
    ),
    ReplyCode.LEASE_REFUSED: (
        "the cluster refuses the lease: {reason}",
        "find out what changed requests or vouchers; clients pass them on as they are",
    ),
    ReplyCode.RENEWAL_REFUSED: (
        "the token is not renewed: {reason}",
        "issue a new one with `keyleash token issue IDENTITY`",
    ),
}

OF_PATTERNS: dict[tuple[ReplyCode, str], tuple[str, str]] = {
    (ReplyCode.KEY_NOT_GRANTED, "SCAN"): (
        "no grant covers all keys of the pattern `{key}`",
        "use a pattern of a read grant, as in `SCAN 0 MATCH agents:queue:*` or"
        " `KEYS agents:queue:*`",
    ),
    (ReplyCode.KEY_NOT_GRANTED, "SORT"): (
        "no grant covers all keys of the SORT pattern `{key}`",
        "the pattern needs a read grant that covers it and ends in `*`",
    ),
    (ReplyCode.KEY_DENIED, "SORT"): (
        "a `deny` rule may match a key of the SORT pattern `{key}`",
        "use another pattern, or change the `deny` rules of the identity",
    ),
}
"""The sentences about a denied pattern, by the code and `pattern_of` of the denial."""


_TOO_MANY = {
    "commands": (
        "the call has too many commands: {commands}",
        "make several calls with fewer commands",
    ),
    "keys": (
        "the script changes too many keys with before-images: {keys}",
        "make several calls that change fewer keys",
    ),
}
"""The sentences about what else ARGS_TOO_MANY counts, by the detail."""


_LABELS = "labels are printable ASCII, with lower-case names, and have no tokens"
_NOT_DELEGATED = {
    "bind": (
        "the token cannot be bound to `{restriction}`",
        "no pattern of the identity has the capture `{capture}` with those that are bound, or the"
        " token is bound to another value of it: see `whoami().restrictions`",
    ),
    "allow": (
        "the token does not have the class `{restriction}`",
        "name only classes that the token has; by default the child has all of these",
    ),
    "keys": (
        "the token does not have the key `{restriction}`",
        "name keys, or prefixes with `*`, within those of the token; a brace is doubled:"
        " `{{{{42}}}}`",
    ),
    "budget": (
        "the cap `{restriction}` is malformed, or there are two of its counter",
        "write `requests=200`, or `writes=50/hour`, once for each counter",
    ),
    "meta": ("a label has a token, or there are too many", _LABELS),
    "label": ("the label `{restriction}` is malformed, or given twice", _LABELS),
    "ttl": (
        "a life of {life} is not between 1s and `delegate.max_ttl` of the policy",
        "use a shorter `ttl`, or leave it out",
    ),
    "outlives": (
        "with a life of {life} it would outlive the token",
        "use a shorter `ttl`, or leave it out: the child then lives no longer than the token; or"
        " renew the token first",
    ),
    "depth": (
        "the policy allows no deeper delegation",
        "use the token itself, or raise `delegate: {{depth: …}}` in the policy",
    ),
    "children": (
        "the token has as many children as `delegate.children` allows",
        "wait until some of them expire; revoked ones count until then",
    ),
    "rotated": ("another token has replaced the token", "delegate from the new token"),
    "size": (
        "the restrictions have too many bytes",
        "use fewer or shorter ones; those of the token count too",
    ),
    "digest": (
        "the digest of the child is malformed or taken",
        "use keyleash's client, of the same version",
    ),
    "word": (
        "`{restriction}` is no kind of restriction, or has no text",
        "the kinds are `bind`, `allow`, `keys`, `budget` and `meta`",
    ),
}
"""The sentences of DELEGATION_REFUSED, by its reason; `label` is `meta` with a label's name."""

_CAP_HELP = (
    "a cap for the life of a token never resets: use a new token; others reset at {resets_at}"
)
_OTHER_HOLDER = "ask the holder of a live token for another one"
_REVOKED = {
    "bound": (
        "the active policy does not allow bound tokens",
        "add `token: {{bound: true}}` to the identity, or use a token without restrictions",
    ),
    "depth": ("the policy no longer allows a token after {depth} delegations", _OTHER_HOLDER),
    "ancestor": (
        "the token `{ancestor}`, from which this one was delegated, {over}",
        _OTHER_HOLDER,
    ),
}
"""The sentences of TOKEN_REVOKED, by its detail."""
_OVER = {"revoked": "was revoked", "rotated": "was rotated", "expired": "has expired"}

_OF_TOKENS = {
    ReplyCode.CLASS_NOT_GRANTED: (
        "the token is restricted and may not use `{class}`, which `{command}` needs"
    ),
    ReplyCode.KEY_NOT_GRANTED: "the token is restricted and may not use the key `{key}`",
    ReplyCode.CHANNEL_NOT_GRANTED: (
        "the token is restricted and may not use the channel `{channel}`"
    ),
}
"""The messages of denials that the identity alone would not get."""
_OTHER_TOKEN = "the identity may: see `keyleash whoami`, or use a token with other restrictions"
_ALL_KEYS = {"SCAN": "all keys of the pattern", "SORT": "all keys of the SORT pattern"}

_BYTES_AT_ONCE = "the call writes {was} bytes, more than the {limit} that `{rule}` allows at once"
_OF_VALUES = {
    "only": (
        "only keys that do not exist may be written, and `{key}` exists",
        "write to a new key, or change `only` of the grant's `values`",
    ),
    "ttl": (
        "`{key}` may expire in {limit} at most, and the call asks for {was}",
        "set an expiry of at most {limit}, or change `ttl` of the grant's `values`",
    ),
    "max_elements": (
        "`{key}` may have {limit} elements at most, and the call may leave {was}",
        "write fewer elements, or raise `max_elements` of the grant's `values`",
    ),
    "rate.bytes_written": (_BYTES_AT_ONCE, "write less in one call, or raise the rate's `burst`"),
    "budget.bytes_written": (_BYTES_AT_ONCE, "write less in one call, or raise the budget"),
}
"""The sentences of VALUE_REFUSED, by its rule."""
_NOT_EXPIRING = (
    "`{key}` must expire, and the call removes its expiry",
    "leave its expiry, or set one, or change `ttl` of the grant's `values`",
)


_NOT_RENEWED = {
    "max_ttl": (
        "it lives as long as `max_ttl` of the policy allows",
        "ask for a new token: `keyleash token issue IDENTITY`",
    ),
    "replaced": ("another token has replaced it", "use the new token"),
    "unknown": (
        "its issue is not recorded",
        "ask for a new token: `keyleash token issue IDENTITY`",
    ),
    "delegated": (
        "another token made it",
        "have a new one delegated; its parent may renew itself first",
    ),
}
_OF_REASONS = {
    ReplyCode.DELEGATION_REFUSED: _NOT_DELEGATED,
    ReplyCode.RENEWAL_REFUSED: _NOT_RENEWED,
}
"""The sentences of a denial, by its reason."""


def _sentence(error: Any) -> tuple[str, str | None]:
    if error.code is ReplyCode.WORK_TOO_LARGE and error.details.get("command", "")[:4] == "EVAL":
        help = "do less in one call of the script, or raise `limits: {{work: …}}` in the policy"
        return SENTENCES[error.code][0], help
    if error.code is ReplyCode.ARGS_TOO_MANY:
        for counted, sentence in _TOO_MANY.items():
            if counted in error.details:
                return sentence
    by_reason = _OF_REASONS.get(error.code, {})
    reason = error.details.get("reason")
    reason = "label" if reason == "meta" and "restriction" in error.details else reason
    if reason in by_reason:
        found, remedy = by_reason[reason]
        return SENTENCES[error.code][0].replace("{reason}", found), remedy
    if error.code is ReplyCode.VALUE_REFUSED and error.details.get("rule") in _OF_VALUES:
        is_removed = error.rule == "ttl" and error.details.get("was") == "none"
        return _NOT_EXPIRING if is_removed else _OF_VALUES[error.rule]
    if error.code is ReplyCode.BUDGET_EXHAUSTED:
        return _of_budget(error.details.get("limit", ""), error.details.get("by"))
    if error.details.get("by") == "token" and error.code in _OF_TOKENS:
        found = _OF_TOKENS[error.code]
        return found.replace("the key", _ALL_KEYS.get(error.pattern_of, "the key")), _OTHER_TOKEN
    if error.code is ReplyCode.TOKEN_REVOKED:
        for detail, sentence in _REVOKED.items():
            if detail in error.details:
                return sentence
    return OF_PATTERNS.get((error.code, error.pattern_of)) or SENTENCES[error.code]


def _of_budget(limit: str, by: str | None) -> tuple[str, str | None]:
    """Return the sentence of BUDGET_EXHAUSTED for a budget, or for a cap of the token."""
    found, remedy = SENTENCES[ReplyCode.BUDGET_EXHAUSTED]
    is_cap, is_written = limit.startswith("token."), limit.endswith(".bytes_written")
    if is_written:
        # A smaller call may fit.
        found = "`{limit}` has less left than the call writes"
    if is_cap:
        remedy = _CAP_HELP
    if by == "ancestor":
        found = found.replace("`{limit}`", "the cap `{limit}` of an ancestor of the token")
    return found, f"write less in one call; {remedy}" if is_written else remedy


def explain(error: Any) -> tuple[str, str | None]:
    """Return the message, code first, and the help for a denial; neither contains a token."""
    return f"{error.code}: {message_of(error)}", error.help


def message_of(error: Any) -> str:
    """Return the message for a denial, without its code; it contains no token."""
    message = _sentence(error)[0]
    if "reason" not in error.details:
        message = message.removesuffix(": {reason}")
    words = _words_of(error)
    message = message.format_map(words)
    if error.code is ReplyCode.CLASS_NOT_GRANTED and "key" in words:
        message += f", on the key `{words['key']}`"
    if error.code is ReplyCode.CLASS_NOT_GRANTED and "channel" in words:
        message += f", on the channel `{words['channel']}`"
    if "at" in words:
        message += f", at `{words['at']}` of a script; what it wrote before stands"
    return message


def help_of(error: Any) -> str | None:
    """Return the help for the code of a denial; it contains no token."""
    help = _sentence(error)[1]
    if error.code is ReplyCode.SUSPENDED and error.until_ms is not None:
        help = f"it resumes at {clock_time(error.until_ms)}, or earlier with `keyleash thaw NAME`"
    return help and with_links(help.format_map(_words_of(error)))


def _words_of(error: Any) -> defaultdict[str, str]:
    # A guard of another version may lack a detail. A container without its subcommand ends in a
    # blank.
    words = defaultdict(
        lambda: "?", {name: printable(value).rstrip() for name, value in error.details.items()}
    )
    if "retry_after_ms" in words:
        words["retry_after"] = _wait_text(int(words["retry_after_ms"]))
    if "resets_at_ms" in words:
        words["resets_at"] = clock_time(int(words["resets_at_ms"]))
    if error.code is ReplyCode.TOKEN_REVOKED:
        words["over"] = _OVER.get(words["state"], "is over")
    if error.code is ReplyCode.DELEGATION_REFUSED and words["restriction"].isdecimal():
        words["life"] = span(int(words["restriction"]))
    if error.code is ReplyCode.DELEGATION_REFUSED:
        words["capture"] = f"{{{words['restriction'].partition('=')[0]}}}"
    if error.code is ReplyCode.VALUE_REFUSED and words["rule"] == "ttl":
        lives = {name: words[name] for name in ("limit", "was") if words[name].isdecimal()}
        words.update({name: _wait_text(int(text)) for name, text in lives.items()})
    return words


def _wait_text(wait_ms: int) -> str:
    return f"{wait_ms} ms" if wait_ms < 1000 else span(math.ceil(wait_ms / 1000))
