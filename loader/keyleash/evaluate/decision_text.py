"""Describe a decision in words."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from keyleash.commands.refusals import pattern_of
from keyleash.errors import DENIALS, Span
from keyleash.errors.sentences import Reason, reason_of
from keyleash.evaluate.trace import (
    ArgumentsStep,
    ArgumentStep,
    ClassStep,
    CommandStep,
    ConnectionStep,
    Decision,
    DeclaredStep,
    GuardStep,
    KeyStep,
    LimitStep,
    Match,
    RestrictionStep,
    RoomStep,
    ScriptStep,
    StandingStep,
    Step,
    TokenStep,
    UnknownStep,
    ValueStep,
)
from keyleash.policy import Deny
from keyleash.text import clock_time, printable, without_tokens

INDENT = " " * 10
_PLAIN: Mapping[type[Step], tuple[str, str]] = {
    StandingStep: ("identity", ""),
    TokenStep: ("token", ""),
    RestrictionStep: ("token", ""),
    DeclaredStep: ("keys", ""),
    RoomStep: ("audit", ""),
    UnknownStep: ("data", "not checked: sizes, work and values depend on what keys hold"),
    GuardStep: ("guard", "asked about sizes, work and values"),
}
"""The topic and the text of steps that have no facts of their own."""
RULES_SHOWN = 4
"""Maximum number of matching rules; `--json` lists all."""


def step_lines(decision: Decision, lines: Sequence[str]) -> Iterator[str]:
    """Yield the lines of each step; *lines* are those of the policy document."""
    for step in decision.trace:
        topic, text = _step_text(step)
        verdict = "" if step.code is None else "DENIED"
        yield f"{topic:<{len(INDENT)}}{': '.join(filter(None, (text, verdict)))}"
        for line in _rules(step, lines):
            yield f"{INDENT}  {line}"


def _step_text(step: Step) -> tuple[str, str]:
    granted = "" if step.code else ": granted"
    match step:
        case ValueStep():
            return "value", printable(step.key)
        case ArgumentsStep():
            return "arguments", str(step.arguments)
        case CommandStep():
            return "command", printable(step.command) + ("" if step.code else ": supported")
        case ConnectionStep():
            return "client", step.note
        case ScriptStep():
            return "script", f"{step.digest}: approved as {', '.join(step.names)}"
        case ClassStep():
            return "class", f"{step.needed}{granted}"
        case ArgumentStep(code=None, why=why) if why:
            return str(step.aspect), f"{printable(step.value)}: {why}"
        case ArgumentStep():
            return str(step.aspect), f"{printable(step.value)}{granted}"
        case KeyStep():
            needs = " and ".join(step.needs) or "any grant"
            return "key", f"{printable(step.key)}: needs {needs}{granted.replace(':', ';')}"
        case LimitStep():
            return "limit", _limit_text(step)
        case _:
            return _PLAIN[type(step)]


def _limit_text(step: LimitStep) -> str:
    limit = step.limit
    who = f" of {printable(step.subject)}" if step.subject else ""
    left, at_once = limit.counter.rounded(step.left), limit.counter.shown(limit.at_once)
    text = f"{limit.name}{who}: {left} of {at_once} left ({limit.describe()})"
    if step.resets_us is not None and step.code is None:
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


def reason(decision: Decision, identity: str | None = None) -> Reason:
    """Return the reason of a denial, as the client that gets it reports it."""
    details = dict(decision.details)
    denial = DENIALS[str(decision.code)](details)
    denial.identity = identity
    for step in decision.trace:
        if isinstance(step, CommandStep | ArgumentStep) and step.code and step.why:
            denial.details["reason"] = step.why
        if isinstance(step, CommandStep):
            denial.pattern_of = pattern_of(step.command.decode("latin-1"), details.get("key", ""))
    return reason_of(denial)


def denial_text(decision: Decision) -> str:
    """Return the code and the sentence of a denial."""
    return without_tokens(f"{decision.code}: {reason(decision).sentence}")


def text_at(span: Span, lines: Sequence[str]) -> str:
    """Return the text of a line of the document, without indentation."""
    return lines[span.line - 1].strip() if span.line <= len(lines) else ""
