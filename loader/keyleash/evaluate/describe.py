"""Describe a decision in words."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from keyleash.errors import ReplyCode, Span, TokenRevokedError, ValueRefusedError
from keyleash.errors.sentences import message_of
from keyleash.evaluate.trace import (
    ArgumentsStep,
    ArgumentStep,
    ClassStep,
    CommandStep,
    ConnectionStep,
    Decision,
    DeclaredStep,
    KeyStep,
    LimitStep,
    Match,
    RestrictionStep,
    RoomStep,
    ScriptStep,
    SizeStep,
    StandingStep,
    Step,
    TokenStep,
    ValueStep,
)
from keyleash.limits.counters import counter_of
from keyleash.policy import Deny
from keyleash.policy.quantities import format_expiry
from keyleash.text import clock_time, printable, without_tokens

INDENT = " " * 10
_TIMES = frozenset({"until_ms", "resets_at_ms"})
"""Details of denials that are times."""
_AMOUNTS = frozenset({"limit", "was"})
"""Details of VALUE_REFUSED that may be amounts."""
RULES_SHOWN = 4
"""Maximum number of matching rules; `--json` lists all."""


def step_lines(decision: Decision, lines: Sequence[str]) -> Iterator[str]:
    """Yield the lines of each step; *lines* are those of the policy document."""
    for step in decision.trace:
        topic, text = _step_text(step)
        if step.code is ReplyCode.TOKEN_REVOKED and decision.details:
            text += f": {message_of(TokenRevokedError(dict(decision.details)))}"
        yield f"{topic:<{len(INDENT)}}{text}"
        for line in _rules(step, lines):
            yield f"{INDENT}  {line}"


def _step_text(step: Step) -> tuple[str, str]:
    match step:
        case StandingStep() | TokenStep() | RestrictionStep():
            topic = "identity" if isinstance(step, StandingStep) else "token"
            why = " by its restrictions" if isinstance(step, RestrictionStep) else ""
            return topic, f"DENIED: {step.code}{why}"
        case SizeStep() | ValueStep():
            return ("size", _size_text(step)) if isinstance(step, SizeStep) else _value_text(step)
        case ArgumentsStep():
            return "arguments", f"DENIED: {step.arguments} are too many for a script"
        case CommandStep():
            return "command", _command_text(step)
        case ConnectionStep():
            return "client", step.note
        case ScriptStep():
            return "script", f"{step.digest}: approved as {', '.join(step.names)}"
        case ClassStep():
            given = "granted" if step.code is None else "DENIED: no grant has it"
            return "class", f"{step.needed}: {given}"
        case ArgumentStep():
            return str(step.aspect), f"{printable(step.value)}: {_argument_text(step)}"
        case DeclaredStep():
            return "keys", "DENIED: the declared keys are not those of the call"
        case KeyStep():
            return "key", _key_text(step)
        case RoomStep():
            return "audit", "DENIED: the audit stream is full of events that await export"
        case LimitStep():
            return "limit", _limit_text(step)


def _command_text(step: CommandStep) -> str:
    name = printable(step.command)
    return f"{name}: DENIED: {step.why}" if step.code else f"{name}: supported"


def _size_text(step: SizeStep) -> str:
    whose = f" for {printable(step.key)}" if step.key else ""
    unit = "units of work" if step.unit == "work" else step.unit
    return f"DENIED: {step.amount:.0f} {unit}{whose}, and the limit is {step.limit}"


def _value_text(step: ValueStep) -> tuple[str, str]:
    key = step.key.decode("utf-8", "surrogateescape")
    details = {"key": key, "rule": step.rule, "limit": step.limit, "was": step.was}
    return "value", f"DENIED: {message_of(ValueRefusedError(details))}"


def _argument_text(step: ArgumentStep) -> str:
    if step.code is None:
        return "granted"
    if step.code is ReplyCode.KEY_DENIED:
        return "DENIED: a deny rule may match a key that it names"
    return "DENIED: no grant covers it" if "GRANTED" in step.code else "DENIED: not supported"


def _key_text(step: KeyStep) -> str:
    needs = " and ".join(step.needs) or "any grant"
    text = f"{printable(step.key)}: needs {needs}"
    if step.is_control:
        return f"{text}; DENIED: it is a control key"
    if step.denied_by:
        return f"{text}; DENIED: a deny rule matches it"
    if not step.granted_by:
        return f"{text}; DENIED: no grant for the command covers it"
    if step.missing is not None:
        return f"{text}; DENIED: no grant on it gives {step.missing}"
    return f"{text}; granted"


def _limit_text(step: LimitStep) -> str:
    limit = step.limit
    who = f" of {printable(step.subject)}" if step.subject else ""
    left, at_once = limit.counter.rounded(step.left), limit.counter.shown(limit.at_once)
    text = f"{limit.name}{who}: {left} of {at_once} left ({limit.describe()})"
    if step.code is ReplyCode.COUNTER_CORRUPT:
        text += "; DENIED: its counter is corrupt"
    elif step.code is not None:
        text += "; DENIED"
        text += f" until {clock_time(-(-step.free_us // 1000))}"
    elif step.resets_us is not None:
        text += f"; resets at {clock_time(step.resets_us // 1000)}"
    return text


def _rules(step: Step, lines: Sequence[str]) -> Iterator[str]:
    """Yield the rules that a step matched, by pattern, place and text."""
    matches: tuple[Match[Any], ...] = ()
    match step:
        case KeyStep(denied_by=(_, *_)):
            matches = step.denied_by
        case KeyStep() | ArgumentStep():
            matches = step.granted_by
        case SizeStep(grant=grant) if grant is not None and grant.span is not None:
            yield _place(grant.span, lines)
        case LimitStep(limit=limit) if limit.span is not None:
            yield _place(limit.span, lines)
    for match in matches[:RULES_SHOWN]:
        held = "".join(f", {name}={printable(value)}" for name, value in match.captures.items())
        kind = "deny" if isinstance(match.rule, Deny) else f"allow {', '.join(match.rule.allow)}"
        yield f"{kind} by `{match.pattern.source}`{held}"
        if match.pattern.span is not None:
            yield f"  {_place(match.pattern.span, lines)}"
    if len(matches) > RULES_SHOWN:
        yield f"and {len(matches) - RULES_SHOWN} more matches"


def _place(span: Span, lines: Sequence[str]) -> str:
    return f"{span}  {printable(text_at(span, lines))}"


def denial_text(decision: Decision) -> str:
    """Return a denial as `CODE key=value …`, as guards do, with times and units for people."""
    rule = decision.details.get("rule", "")
    details = (
        f"{name.removesuffix('_ms')}={clock_time(int(value))}"
        if name in _TIMES
        else f"{name}={_amount(rule, value) if name in _AMOUNTS else printable(value)}"
        for name, value in decision.details.items()
    )
    return without_tokens(" ".join([str(decision.code), *details]))


def _amount(rule: str, value: str) -> str:
    """Return an amount of VALUE_REFUSED in the unit of its rule."""
    if not value.isdecimal():
        return printable(value)
    if rule == "ttl":
        return format_expiry(-(-int(value) // 1000))
    return counter_of(rule).shown(int(value)) if "." in rule else value


def reasons(decision: Decision) -> str:
    """Return why a command is not allowed; empty for other denials."""
    return "; ".join(x.why for x in decision.trace if isinstance(x, CommandStep) and x.code)


def text_at(span: Span, lines: Sequence[str]) -> str:
    """Return the text of a line of the document, without indentation."""
    return lines[span.line - 1].strip() if span.line <= len(lines) else ""
