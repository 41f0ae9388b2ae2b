"""Render a decision as text and JSON."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

from keyleash.cli.context import DecisionContext
from keyleash.commands import CommandTable, OperationClass
from keyleash.commands.facts import VECTOR_SETS
from keyleash.commands.work import DEFAULT_VALUE_BYTES
from keyleash.errors import ReplyCode, Span
from keyleash.evaluate import Decision
from keyleash.evaluate.abilities import abilities_of
from keyleash.evaluate.size import value_bound
from keyleash.evaluate.trace import (
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
from keyleash.policy import Budget, Deny, Grant, Pattern
from keyleash.status.identities import limit_uses
from keyleash.text import clock_time, iso_time, json_bytes, printable, size

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
                "grants": [place_json(grant.span, lines) for grant in step.grants],
            }
        case ClassStep():
            return {
                "class": str(step.needed),
                "grants": [place_json(grant.span, lines) for grant in step.grants],
            }
        case ArgumentStep():
            return {
                "aspect": str(step.aspect),
                "value": json_bytes(step.value),
                "granted_by": [match_json(item, lines) for item in step.granted_by],
            }
        case KeyStep():
            return {
                "key": json_bytes(step.key),
                "needs": [str(need) for need in step.needs],
                "missing": None if step.missing is None else str(step.missing),
                "control_key": step.is_control,
                "denied_by": [match_json(item, lines) for item in step.denied_by],
                "granted_by": [match_json(item, lines) for item in step.granted_by],
            }
        case LimitStep():
            return {
                "limit": step.limit.name,
                "per": str(step.limit.subject.kind),
                "subject": json_bytes(step.subject),
                "of": step.limit.at_once,
                "left": step.left,
                "free_at": _moment(step.free_us) if step.code in HAVE_AN_END else None,
                "resets_at": _moment(step.resets_us),
                "rule": place_json(step.limit.span, lines),
            }


def _moment(at_us: int | None) -> str | None:
    return None if at_us is None else iso_time(-(-at_us // 1000))


def match_json(match: Match[Any], lines: Sequence[str]) -> dict[str, Any]:
    """A pattern that matches, what it captures, and where it and its rule stand."""
    allow = [str(item) for item in match.rule.allow] if isinstance(match.rule, Grant) else None
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
    said = f"{limit.name}{who}: {step.left} of {limit.at_once} left ({limit.describe()})"
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
    for match in matches[:RULES_SHOWN]:
        held = "".join(f", {name}={printable(value)}" for name, value in match.captures.items())
        kind = "deny" if isinstance(match.rule, Deny) else f"allow {', '.join(match.rule.allow)}"
        yield f"{kind} by `{match.pattern.source}`{held}"
        if match.pattern.span is not None:
            yield f"  {_place(match.pattern.span, lines)}"
    if len(matches) > RULES_SHOWN:
        yield f"and {len(matches) - RULES_SHOWN} more that match"


def _place(span: Span, lines: Sequence[str]) -> str:
    return f"{span}  {printable(text_at(span, lines))}"


NAMED = 12
"""So many commands are named; more are counted by what they work on, and `--json` names all."""
GROUPS = (
    "string", "bitmap", "hash", "list", "set", "sortedset", "stream", "geo", "hyperloglog",
    "keyspace", "pubsub", "connection",
)  # fmt: skip
"""ACL categories; a command counts to the first that it is in."""
VECTOR_SET = "vector set"
"""The group of commands of vector sets, which have no ACL category on every server."""


def denied_now(context: DecisionContext) -> Decision | None:
    """Return why every call is denied at present, or None if not every call is."""
    decision = context.decision(("PING",))
    is_stopped = any(isinstance(step, StandingStep | TokenStep) for step in decision.trace)
    return decision if is_stopped and not decision.allowed else None


def listing_lines(context: DecisionContext) -> Iterator[str]:
    """Lines of topic and content: grants with their commands, denied keys, limits."""
    identity = context.identity
    found = abilities_of(identity, context.table)
    yield _line("identity", f"{identity.name} ({identity.kind})")
    for grant, names in zip(identity.grants, found.by_grant, strict=True):
        yield _line("grant", ", ".join(grant.allow))
        yield from (_line("", line) for line in _grant_lines(grant, names, context.table))
    if len(identity.grants) > 1 and any(grant.value_bytes for grant in identity.grants):
        yield _line("values", "the smallest bound of all grants that match a key counts;")
        yield _line("", "a default only if none of them has a bound")
    if found.together:
        yield _line("together", f"by several grants: {_commands(found.together, context.table)}")
    for pattern in (pattern for rule in identity.deny for pattern in rule.keys):
        yield _line("denied", printable(pattern.source))
    for use in limit_uses(identity, None, context.now_us):
        per = "" if use.per == "identity" else f", per {use.per}"
        yield _line("limit", f"{use.name}: {use.allows}{per}")
    yield _line("limit", f"work: {identity.work} a call or batch")


def _line(topic: str, text: str) -> str:
    return f"{topic:<10}{text}"


def _grant_lines(grant: Grant, names: Sequence[str], table: CommandTable) -> Iterator[str]:
    for topic, patterns in (("keys", grant.keys), ("channels", grant.channels)):
        if patterns:
            yield f"{topic:<10}{' '.join(_sources(patterns))}"
    for topic, narrowed in (("only", grant.only or ()), ("except", grant.except_)):
        if narrowed:
            yield f"{topic:<10}{', '.join(map(printable, narrowed))}"
    if grant.value_bytes is not None:
        yield f"{'values':<10}strings of up to {size(grant.value_bytes)}"
    elif OperationClass.WRITE in grant.allow:
        yield f"{'values':<10}strings of up to {size(DEFAULT_VALUE_BYTES)} by default"
    yield f"{'commands':<10}{_commands(names, table)}"


def _sources(patterns: Sequence[Pattern]) -> list[str]:
    return [printable(pattern.source) for pattern in patterns]


def _commands(names: Sequence[str], table: CommandTable) -> str:
    if len(names) <= NAMED:
        return ", ".join(names) or "none"
    groups = Counter(_group(name, table) for name in names)
    shown = (
        f"{groups[group]} {group}" for group in (*GROUPS, VECTOR_SET, "other") if groups[group]
    )
    return f"{len(names)}: {', '.join(shown)}"


def _group(name: str, table: CommandTable) -> str:
    spec = table.get(name)
    if name in VECTOR_SETS:
        return VECTOR_SET
    categories = spec.categories if spec else ()
    return next((group for group in GROUPS if f"@{group}" in categories), "other")


def listing_json(context: DecisionContext) -> dict[str, Any]:
    """The same, with every command by name."""
    identity = context.identity
    found = abilities_of(identity, context.table)
    stopped = denied_now(context)
    refusal = None if stopped is None else decision_json(stopped, ())
    return {
        "identity": identity.name,
        "kind": str(identity.kind),
        "policy": {"file": None if context.is_live else context.file, "digest": context.digest},
        "denied_now": refusal and {"code": refusal["code"], "details": refusal["details"]},
        "grants": [
            {
                "allow": [str(item) for item in grant.allow],
                "keys": [key.source for key in grant.keys],
                "channels": [channel.source for channel in grant.channels],
                "only": None if grant.only is None else list(grant.only),
                "except": list(grant.except_),
                "value_bytes": value_bound(grant),
                "commands": list(names),
                "place": place_json(grant.span, context.lines),
            }
            for grant, names in zip(identity.grants, found.by_grant, strict=True)
        ],
        "together": list(found.together),
        "deny": [pattern.source for rule in identity.deny for pattern in rule.keys],
        "limits": [
            {"name": use.name, "kind": str(use.kind), "allows": use.allows, "per": use.per}
            for use in limit_uses(identity, None, context.now_us)
        ],
        "work": identity.work,
    }
