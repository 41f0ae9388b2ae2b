"""`expect` of a step: `allow`, the code of a refusal, or a code with details."""

from __future__ import annotations

from keyleash.errors import ReplyCode
from keyleash.policy.node import Broken, Node
from keyleash.policy.problems import Problems, did_you_mean, listing, quote
from keyleash.policytests.fields import read_fields, read_text, require_field
from keyleash.policytests.model import Expected
from keyleash.policytests.moments import instant_us

ALLOW = "allow"
CODES = (
    ReplyCode.COMMAND_REFUSED,
    ReplyCode.CLASS_NOT_GRANTED,
    ReplyCode.KEY_NOT_GRANTED,
    ReplyCode.KEY_DENIED,
    ReplyCode.CHANNEL_NOT_GRANTED,
    ReplyCode.ARGS_TOO_MANY,
    ReplyCode.RATE_LIMITED,
    ReplyCode.BUDGET_EXHAUSTED,
    ReplyCode.SUSPENDED,
    ReplyCode.WORK_TOO_LARGE,
    ReplyCode.VALUE_TOO_LARGE,
)
"""Those that a policy decides; the others are about tokens, servers and clients."""
DETAILS = {
    "code": "code: KEY_DENIED",
    "class": "class: delete",
    "command": "command: DEL",
    "key": 'key: "agents:jobs:42:lock"',
    "channel": 'channel: "agents:events"',
    "limit": "limit: rate.writes",
    "arguments": "arguments: 7001",
    "bytes": "bytes: 65537",
    "work": "work: 700000",
    "retry_after_ms": "retry_after_ms: 100",
    "resets_at": 'resets_at: "2026-01-02T00:00:00Z"',
    "reason": 'reason: "on_denials: 50/minute"',
    "until": 'until: "2026-01-02T00:00:00Z"',
}
TIMES = {"resets_at": "resets_at_ms", "until": "until_ms"}
"""Details that are times, and what a refusal calls them."""
LIKE = "expect: allow` or `expect: KEY_DENIED"


def read_expected(node: Node, problems: Problems) -> Expected | None:
    """What *node* says, or None if that was reported."""
    if isinstance(node.value, Broken):
        return None
    if not isinstance(node.value, dict):
        return _read_code(node, problems)
    fields = read_fields(node, "`expect`", DETAILS, problems)
    code = require_field(fields, "code", node, "`expect`", DETAILS["code"], problems)
    details = {
        name: read_text(value, name, DETAILS[name], problems) or ""
        for name, value in fields.items()
        if name != "code"
    }
    expected = _read_code(code, problems) if code is not None else None
    if expected is None:
        return None
    if expected.code is None and details:
        problems.add(
            "surplus-field",
            "a call that is allowed has no details",
            node.span,
            "write `expect: allow`",
        )
    return Expected(expected.code, _as_refused(details, fields, problems))


def _read_code(node: Node, problems: Problems) -> Expected | None:
    text = read_text(node, "expect", LIKE, problems)
    if text is None:
        return None
    if text == ALLOW:
        return Expected(None)
    if text in CODES:
        return Expected(ReplyCode(text))
    if text in [*ReplyCode]:
        help = f"a policy decides {listing((ALLOW, *CODES))}"
        message = f"{quote(text)} is not for a policy to decide"
        problems.add("unknown-code", message, node.span, help)
    else:
        known = (ALLOW, *CODES)
        help = did_you_mean(text, known, f"write one of {listing(known)}")
        problems.add("unknown-code", f"unknown expectation {quote(text)}", node.span, help)
    return None


def _as_refused(
    details: dict[str, str], fields: dict[str, Node], problems: Problems
) -> dict[str, str]:
    """Details in the words of a refusal, which tells a time in milliseconds."""
    said = {}
    for name, text in details.items():
        if name not in TIMES:
            said[name] = text
            continue
        try:
            said[TIMES[name]] = str(instant_us(text) // 1000)
        except (ValueError, OverflowError):
            help = "write it like `2026-01-02T00:00:00Z`"
            problems.add("bad-time", f"{quote(text)} is no time", fields[name].span, help)
    return said
