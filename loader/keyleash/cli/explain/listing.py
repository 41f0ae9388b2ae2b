"""All that an identity may do, as people and programs read it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

from keyleash.cli.explain.as_json import decision_json, place_json
from keyleash.cli.explain.basis import Basis
from keyleash.cli.text import printable, size
from keyleash.commands import CommandTable, OperationClass
from keyleash.commands.facts import VECTOR_SETS
from keyleash.commands.work import DEFAULT_VALUE_BYTES
from keyleash.decision import Decision
from keyleash.decision.abilities import abilities_of
from keyleash.decision.size import value_bound
from keyleash.decision.trace import StandingStep, TokenStep
from keyleash.policy import Grant, Pattern
from keyleash.status.usage import limit_uses

NAMED = 12
"""So many commands are named; more are counted by what they work on, and `--json` names all."""
GROUPS = (
    "string", "bitmap", "hash", "list", "set", "sortedset", "stream", "geo", "hyperloglog",
    "keyspace", "pubsub", "connection",
)  # fmt: skip
"""ACL categories; a command counts to the first that it is in."""
VECTOR_SET = "vector set"
"""The group of commands of vector sets, which have no ACL category on every server."""


def denied_now(basis: Basis) -> Decision | None:
    """Return why every call is denied at present, or None if not every call is."""
    decision = basis.decision(("PING",))
    is_stopped = any(isinstance(step, StandingStep | TokenStep) for step in decision.trace)
    return decision if is_stopped and not decision.allowed else None


def listing_lines(basis: Basis) -> Iterator[str]:
    """Lines of topic and content: grants with their commands, denied keys, limits."""
    identity = basis.identity
    found = abilities_of(identity, basis.table)
    yield _line("identity", f"{identity.name} ({identity.kind})")
    for grant, names in zip(identity.grants, found.by_grant, strict=True):
        yield _line("grant", ", ".join(grant.allow))
        yield from (_line("", line) for line in _grant_lines(grant, names, basis.table))
    if len(identity.grants) > 1 and any(grant.value_bytes for grant in identity.grants):
        yield _line("values", "the smallest bound of all grants that match a key counts;")
        yield _line("", "a default only if none of them has a bound")
    if found.together:
        yield _line("together", f"by several grants: {_commands(found.together, basis.table)}")
    for pattern in (pattern for rule in identity.deny for pattern in rule.keys):
        yield _line("denied", printable(pattern.source))
    for use in limit_uses(identity, None, basis.now_us):
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
    return [printable(one.source) for one in patterns]


def _commands(names: Sequence[str], table: CommandTable) -> str:
    if len(names) <= NAMED:
        return ", ".join(names) or "none"
    groups = Counter(_group(name, table) for name in names)
    shown = (f"{groups[one]} {one}" for one in (*GROUPS, VECTOR_SET, "other") if groups[one])
    return f"{len(names)}: {', '.join(shown)}"


def _group(name: str, table: CommandTable) -> str:
    spec = table.get(name)
    if name in VECTOR_SETS:
        return VECTOR_SET
    categories = spec.categories if spec else ()
    return next((one for one in GROUPS if f"@{one}" in categories), "other")


def listing_json(basis: Basis) -> dict[str, Any]:
    """The same, with every command by name."""
    identity = basis.identity
    found = abilities_of(identity, basis.table)
    stopped = denied_now(basis)
    refusal = None if stopped is None else decision_json(stopped, ())
    return {
        "identity": identity.name,
        "kind": str(identity.kind),
        "policy": {"file": None if basis.is_live else basis.file, "digest": basis.digest},
        "denied_now": refusal and {"code": refusal["code"], "details": refusal["details"]},
        "grants": [
            {
                "allow": [str(one) for one in grant.allow],
                "keys": [one.source for one in grant.keys],
                "channels": [one.source for one in grant.channels],
                "only": None if grant.only is None else list(grant.only),
                "except": list(grant.except_),
                "value_bytes": value_bound(grant),
                "commands": list(names),
                "place": place_json(grant.span, basis.lines),
            }
            for grant, names in zip(identity.grants, found.by_grant, strict=True)
        ],
        "together": list(found.together),
        "deny": [pattern.source for rule in identity.deny for pattern in rule.keys],
        "limits": [
            {"name": use.name, "kind": str(use.kind), "allows": use.allows, "per": use.per}
            for use in limit_uses(identity, None, basis.now_us)
        ],
        "work": identity.work,
    }
