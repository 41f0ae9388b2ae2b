"""Render what an identity may do."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from keyleash.commands import CommandTable, OperationClass
from keyleash.commands.facts import VECTOR_SETS
from keyleash.commands.work import DEFAULT_VALUE_BYTES
from keyleash.evaluate.decision_text import denial_text
from keyleash.limits import SubjectKind
from keyleash.policy import Grant, Pattern
from keyleash.policy.model import ValueRules
from keyleash.text import printable, size

if TYPE_CHECKING:
    from keyleash.operator.abilities import Abilities

NAMED = 12
"""Maximum number of commands listed by name; more are counted by group. `--json` lists all."""
GROUPS = (
    "string", "bitmap", "hash", "list", "set", "sortedset", "stream", "geo", "hyperloglog",
    "keyspace", "pubsub", "connection",
)  # fmt: skip
"""ACL categories; a command belongs to the first that matches."""
VECTOR_SET = "vector set"
"""The group of vector set commands, which have no ACL category on some servers."""


def listing_lines(found: Abilities) -> Iterator[str]:
    """Yield lines of topic and content: grants with commands, denied keys, limits."""
    identity, table, commands = found.context.identity, found.context.table, found.commands
    yield _line("identity", f"{identity.name} ({identity.kind})")
    for grant, names in zip(identity.grants, commands.by_grant, strict=True):
        yield _line("grant", ", ".join(grant.allow))
        yield from (_line("", line) for line in _grant_lines(grant, names, table))
    if len(identity.grants) > 1 and any(grant.values != ValueRules() for grant in identity.grants):
        yield _line("values", "the smallest bound of all grants that match a key applies;")
        yield _line("", "the default applies only if none of them has a bound")
    if commands.together:
        yield _line("together", f"by several grants: {_commands(commands.together, table)}")
    for pattern in identity.denied_keys:
        yield _line("denied", printable(pattern.source))
    for limit in identity.limits:
        per = "" if limit.subject.kind is SubjectKind.IDENTITY else f", per {limit.subject}"
        yield _line("limit", f"{limit.name}: {limit.describe()}{per}")
    yield _line("limit", f"work: {identity.work}, strings: {identity.strings} a call or batch")
    if any(grant.indexes for grant in identity.grants):
        yield _line("limit", f"search: {identity.search_ms} ms a search")
    if found.stopped is not None:
        yield _line("stopped", f"every call is denied: {denial_text(found.stopped)}")


def _line(topic: str, text: str) -> str:
    return f"{topic:<10}{text}"


def _grant_lines(grant: Grant, names: Sequence[str], table: CommandTable) -> Iterator[str]:
    for topic in ("keys", "channels", "indexes"):
        if patterns := getattr(grant, topic):
            yield f"{topic:<10}{' '.join(_sources(patterns))}"
    for topic, narrowed in (("only", grant.only or ()), ("except", grant.except_)):
        if narrowed:
            yield f"{topic:<10}{', '.join(map(printable, narrowed))}"
    if grant.values.max_bytes is not None:
        text = f"strings and elements of up to {size(grant.values.max_bytes)}"
        yield f"{'values':<10}{text}"
    elif OperationClass.WRITE in grant.allow:
        yield f"{'values':<10}strings of up to {size(DEFAULT_VALUE_BYTES)} by default"
    for rule in grant.values.describe():
        yield f"{'values':<10}{rule}"
    if grant.scripts:
        yield f"{'scripts':<10}{', '.join(dict.fromkeys(item.name for item in grant.scripts))}"
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
