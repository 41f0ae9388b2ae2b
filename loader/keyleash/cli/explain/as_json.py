"""A decision and its steps, exact, as JSON."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from keyleash.cli.text import iso_time, json_bytes
from keyleash.decision import Decision
from keyleash.decision.trace import (
    ArgumentsStep,
    ArgumentStep,
    ClassStep,
    CommandStep,
    DeclaredStep,
    KeyStep,
    LimitStep,
    Match,
    RoomStep,
    SizeStep,
    StandingStep,
    Step,
    TokenStep,
)
from keyleash.errors import ReplyCode, Span
from keyleash.policy import Grant
from keyleash.status.usage import most

HAVE_AN_END = (ReplyCode.RATE_LIMITED, ReplyCode.BUDGET_EXHAUSTED)
"""The denials of a limit that end by themselves; a corrupt counter denies until it is reset."""


def decision_json(decision: Decision, lines: Sequence[str]) -> dict[str, Any]:
    """The verdict, and each step with the rules that it found; *lines* are the document's."""
    return {
        "allowed": decision.allowed,
        "code": None if decision.code is None else str(decision.code),
        "details": {
            name: json_bytes(value.encode("utf-8", "surrogateescape"))
            for name, value in decision.details.items()
        },
        "steps": [
            {
                "step": type(step).__name__.removesuffix("Step").lower(),
                "code": None if step.code is None else str(step.code),
                **_step(step, lines),
            }
            for step in decision.trace
        ],
    }


def _step(step: Step, lines: Sequence[str]) -> dict[str, Any]:
    match step:
        case StandingStep() | TokenStep() | DeclaredStep() | RoomStep():
            return {}
        case ArgumentsStep():
            return {"arguments": step.arguments}
        case SizeStep():
            key = {"key": json_bytes(step.key)} if step.key else {}
            return {"unit": step.unit, "amount": step.amount, "limit": step.limit, **key}
        case CommandStep():
            return {
                "command": json_bytes(step.command),
                "why": step.why or None,
                "grants": [place_json(one.span, lines) for one in step.grants],
            }
        case ClassStep():
            return {
                "class": str(step.needed),
                "grants": [place_json(one.span, lines) for one in step.grants],
            }
        case ArgumentStep():
            return {
                "aspect": str(step.aspect),
                "value": json_bytes(step.value),
                "granted_by": [match_json(one, lines) for one in step.granted_by],
            }
        case KeyStep():
            return {
                "key": json_bytes(step.key),
                "needs": [str(one) for one in step.needs],
                "missing": None if step.missing is None else str(step.missing),
                "control_key": step.is_control,
                "denied_by": [match_json(one, lines) for one in step.denied_by],
                "granted_by": [match_json(one, lines) for one in step.granted_by],
            }
        case LimitStep():
            return {
                "limit": step.limit.name,
                "per": str(step.limit.subject.kind),
                "subject": json_bytes(step.subject),
                "of": most(step.limit),
                "left": step.left,
                "free_at": _moment(step.free_us) if step.code in HAVE_AN_END else None,
                "resets_at": _moment(step.resets_us),
                "rule": place_json(step.limit.span, lines),
            }


def _moment(at_us: int | None) -> str | None:
    return None if at_us is None else iso_time(-(-at_us // 1000))


def match_json(match: Match[Any], lines: Sequence[str]) -> dict[str, Any]:
    """A pattern that matches, what it captures, and where it and its rule stand."""
    allow = [str(one) for one in match.rule.allow] if isinstance(match.rule, Grant) else None
    return {
        "pattern": match.pattern.source,
        "captures": {name: json_bytes(held) for name, held in match.captures.items()},
        "allow": allow,
        "place": place_json(match.pattern.span, lines),
        "rule": place_json(match.rule.span, lines),
    }


def place_json(span: Span | None, lines: Sequence[str]) -> dict[str, Any] | None:
    """A place in the document, and the text of its line."""
    if span is None:
        return None
    return {
        "file": span.file,
        "line": span.line,
        "column": span.column,
        "text": text_at(span, lines),
    }


def text_at(span: Span, lines: Sequence[str]) -> str:
    """The line of the document on which something stands, without its indentation."""
    return lines[span.line - 1].strip() if span.line <= len(lines) else ""
