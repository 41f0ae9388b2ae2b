"""A decision and its steps, as people read them: one line a step, and the rule's own text."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from keyleash.cli.explain.as_json import text_at
from keyleash.cli.text import clock_time, printable
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
from keyleash.policy import Budget, Deny
from keyleash.status.usage import allows, most

INDENT = " " * 10
RULES_SHOWN = 4
"""Of those that match alike; `--json` has them all."""


def step_lines(decision: Decision, lines: Sequence[str]) -> Iterator[str]:
    """Each step; *lines* are those of the policy's document."""
    for step in decision.trace:
        topic, said = _said(step)
        yield f"{topic:<{len(INDENT)}}{said}"
        for line in _rules(step, lines):
            yield f"{INDENT}  {line}"


def _said(step: Step) -> tuple[str, str]:
    match step:
        case StandingStep():
            return "identity", f"REFUSED: {step.code}"
        case TokenStep():
            return "token", f"REFUSED: {step.code}"
        case SizeStep():
            return "size", _size_said(step)
        case ArgumentsStep():
            return "arguments", f"REFUSED: {step.arguments} are too many for a script"
        case CommandStep():
            return "command", _command_said(step)
        case ClassStep():
            given = "some grant gives it" if step.code is None else "REFUSED: no grant gives it"
            return "class", f"{step.needed}: {given}"
        case ArgumentStep():
            return str(step.aspect), f"{printable(step.value)}: {_argument_said(step)}"
        case DeclaredStep():
            return "keys", "REFUSED: those that were declared are not those of the call"
        case KeyStep():
            return "key", _key_said(step)
        case RoomStep():
            return "trail", "REFUSED: so many events wait for their export that no other fits"
        case LimitStep():
            return "limit", _limit_said(step)


def _command_said(step: CommandStep) -> str:
    name = printable(step.command)
    return f"{name}: REFUSED: {step.why}" if step.code else f"{name}: a guard lets it through"


def _size_said(step: SizeStep) -> str:
    whose = f" for {printable(step.key)}" if step.key else ""
    unit = "units of work" if step.unit == "work" else step.unit
    return f"REFUSED: {step.amount:.0f} {unit}{whose}, and the limit is {step.limit}"


def _argument_said(step: ArgumentStep) -> str:
    if step.code is None:
        return "granted"
    return "REFUSED: no grant covers it" if "GRANTED" in step.code else "REFUSED: not with that"


def _key_said(step: KeyStep) -> str:
    needs = " and ".join(step.needs) or "any grant"
    said = f"{printable(step.key)}: needs {needs}"
    if step.is_control:
        return f"{said}; REFUSED: it is one of keyleash's own"
    if step.denied_by:
        return f"{said}; REFUSED: denied, whatever the grants say"
    if not step.granted_by:
        return f"{said}; REFUSED: no grant for the command covers it"
    if step.missing is not None:
        return f"{said}; REFUSED: no grant on it gives {step.missing}"
    return f"{said}; granted"


def _limit_said(step: LimitStep) -> str:
    limit = step.limit
    who = f" of {printable(step.subject)}" if step.subject else ""
    said = f"{limit.name}{who}: {step.left} of {most(limit)} left ({allows(limit)})"
    if step.code is ReplyCode.COUNTER_CORRUPT:
        said += "; REFUSED: its counter is corrupt"
    elif step.code is not None:
        said += "; REFUSED"
        said += f" until {clock_time(-(-step.free_us // 1000))}"
    elif isinstance(limit, Budget) and step.resets_us is not None:
        said += f"; begins anew at {clock_time(step.resets_us // 1000)}"
    return said


def _rules(step: Step, lines: Sequence[str]) -> Iterator[str]:
    """The rules that a step found, by pattern, place and text."""
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
    for one in matches[:RULES_SHOWN]:
        held = "".join(f", {name}={printable(value)}" for name, value in one.captures.items())
        kind = "deny" if isinstance(one.rule, Deny) else f"allow {', '.join(one.rule.allow)}"
        yield f"{kind} by `{one.pattern.source}`{held}"
        if one.pattern.span is not None:
            yield f"  {_place(one.pattern.span, lines)}"
    if len(matches) > RULES_SHOWN:
        yield f"and {len(matches) - RULES_SHOWN} more that match"


def _place(span: Span, lines: Sequence[str]) -> str:
    return f"{span}  {printable(text_at(span, lines))}"
