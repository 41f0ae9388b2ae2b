"""Render a decision as text and JSON."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

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
from keyleash.operator.decisions import DecisionContext, decision_json, place_json, text_at
from keyleash.policy import Deny, Grant, Pattern
from keyleash.status.identities import limit_uses
from keyleash.text import (
    clock_time,
    json_object,
    printable,
    size,
    without_tokens,
)

INDENT = " " * 10
RULES_SHOWN = 4
"""Maximum number of matching rules; `--json` lists all."""


def step_lines(decision: Decision, lines: Sequence[str]) -> Iterator[str]:
    """Yield the lines of each step; *lines* are those of the policy document."""
    for step in decision.trace:
        topic, text = _step_text(step)
        yield f"{topic:<{len(INDENT)}}{text}"
        for line in _rules(step, lines):
            yield f"{INDENT}  {line}"


def _step_text(step: Step) -> tuple[str, str]:
    match step:
        case StandingStep():
            return "identity", f"DENIED: {step.code}"
        case TokenStep():
            return "token", f"DENIED: {step.code}"
        case SizeStep():
            return "size", _size_text(step)
        case ArgumentsStep():
            return "arguments", f"DENIED: {step.arguments} are too many for a script"
        case CommandStep():
            return "command", _command_text(step)
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


def _argument_text(step: ArgumentStep) -> str:
    if step.code is None:
        return "granted"
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
    text = f"{limit.name}{who}: {step.left} of {limit.at_once} left ({limit.describe()})"
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


NAMED = 12
"""Maximum number of commands listed by name; more are counted by group. `--json` lists all."""
GROUPS = (
    "string", "bitmap", "hash", "list", "set", "sortedset", "stream", "geo", "hyperloglog",
    "keyspace", "pubsub", "connection",
)  # fmt: skip
"""ACL categories; a command belongs to the first that matches."""
VECTOR_SET = "vector set"
"""The group of vector set commands, which have no ACL category on some servers."""


def denied_now(context: DecisionContext) -> Decision | None:
    """Return the denial of every call at present, or None."""
    decision = context.decision(("PING",))
    is_stopped = any(isinstance(step, StandingStep | TokenStep) for step in decision.trace)
    return decision if is_stopped and not decision.allowed else None


def listing_lines(context: DecisionContext) -> Iterator[str]:
    """Yield lines of topic and content: grants with commands, denied keys, limits."""
    identity = context.identity
    found = abilities_of(identity, context.table)
    yield _line("identity", f"{identity.name} ({identity.kind})")
    for grant, names in zip(identity.grants, found.by_grant, strict=True):
        yield _line("grant", ", ".join(grant.allow))
        yield from (_line("", line) for line in _grant_lines(grant, names, context.table))
    if len(identity.grants) > 1 and any(grant.value_bytes for grant in identity.grants):
        yield _line("values", "the smallest bound of all grants that match a key applies;")
        yield _line("", "the default applies only if none of them has a bound")
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


def grant_json(grant: Grant) -> dict[str, Any]:
    """Return a grant for JSON."""
    return {
        **json_object(grant, "allow", "only", "except_"),
        "keys": [pattern.source for pattern in grant.keys],
        "channels": [pattern.source for pattern in grant.channels],
    }


def listing_json(context: DecisionContext) -> dict[str, Any]:
    """Return the listing for JSON, with every command by name."""
    identity = context.identity
    found = abilities_of(identity, context.table)
    stopped = denied_now(context)
    denial = None if stopped is None else decision_json(stopped, ())
    return {
        "identity": identity.name,
        "kind": str(identity.kind),
        "policy": {"file": None if context.is_live else context.file, "digest": context.digest},
        "denied_now": denial and {"code": denial["code"], "details": denial["details"]},
        "grants": [
            {
                **grant_json(grant),
                "value_bytes": value_bound(grant),
                "commands": list(names),
                "place": place_json(grant.span, context.lines),
            }
            for grant, names in zip(identity.grants, found.by_grant, strict=True)
        ],
        "together": list(found.together),
        "deny": [pattern.source for rule in identity.deny for pattern in rule.keys],
        "limits": [
            json_object(use, "name", "kind", "allows", "per")
            for use in limit_uses(identity, None, context.now_us)
        ],
        "work": identity.work,
    }


def denial_text(decision: Decision) -> str:
    """Return a denial as `CODE key=value …`, as guards do."""
    details = (f"{name}={printable(value)}" for name, value in decision.details.items())
    return without_tokens(" ".join([str(decision.code), *details]))
