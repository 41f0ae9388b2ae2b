"""Parse the rates and budgets of an identity."""

from __future__ import annotations

import re
from typing import TypeVar

from keyleash.limits import Budget, Counter, Rate, Subject, SubjectKind
from keyleash.policy.problems import Problems, did_you_mean, listing, quote
from keyleash.policy.quantities import (
    UNITS_BYTES,
    parse_count_per_period,
    parse_size,
    parse_size_per_period,
)
from keyleash.policy.yaml import YamlNode

LimitT = TypeVar("LimitT", Rate, Budget)
MAX_BURST_BYTES = 1024**2 * UNITS_BYTES["mb"]
Captures = frozenset[str] | None
"""The names of captures in the identity's granted patterns; None if a pattern had a problem."""


def read_limits(
    kind: type[LimitT], node: YamlNode | None, captures: Captures, problems: Problems
) -> tuple[LimitT, ...]:
    """Return the limits under *node* that can be read, in the order of `Counter`."""
    if node is None:
        return ()
    limits = (
        _read_limit(kind, counter, entry, captures, problems)
        for counter in Counter
        if (entry := node.get(counter)) is not None
    )
    return tuple(limit for limit in limits if limit is not None)


def _read_limit(
    kind: type[LimitT], counter: Counter, entry: YamlNode, captures: Captures, problems: Problems
) -> LimitT | None:
    subject = _read_subject(entry.get("per"), captures, problems)
    node = entry.get("limit") if isinstance(entry.value, dict) else entry
    if node is None:
        return None
    parse = parse_size_per_period if counter.is_bytes else parse_count_per_period
    quantity = problems.attempt(lambda: parse(node.source, kind.PERIODS, node.span))
    if quantity is None:
        return None
    nodes = {name: part for name in kind.OPTIONS if (part := entry.get(name)) is not None}
    options = {name: part.source for name, part in nodes.items()}
    if counter.is_bytes and (burst := nodes.get("burst")) is not None:
        size = problems.attempt(lambda: parse_size(burst.source, burst.span, MAX_BURST_BYTES))
        if size is None:
            return None
        options["burst"] = str(size)
    if counter is Counter.BYTES_READ and subject.kind is SubjectKind.CAPTURE:
        problems.add(
            "bytes-per-capture",
            "`bytes_read` cannot count per captured segment",
            entry.label,
            "leave `per` out, or write `per: token`",
        )
    limit = kind.read(counter, *quantity, options, subject, entry.label)
    for problem in limit.problems():
        part = nodes.get(problem.field, node)
        message, help = problem.message, problem.help
        if problem.choices:
            message = f"{message} {quote(part.source)}"
            help = did_you_mean(part.source, problem.choices, help)
        problems.add(problem.code, message, part.span, help)
    return limit


def _read_subject(node: YamlNode | None, captures: Captures, problems: Problems) -> Subject:
    if node is None:
        return Subject()
    if node.source in (SubjectKind.IDENTITY, SubjectKind.TOKEN):
        return Subject(SubjectKind(node.source))
    name = re.fullmatch(r"\{([a-z_][a-z0-9_]*)\}", node.source)
    if name is None:
        problems.add(
            "unknown-subject",
            f"{quote(node.source)} is not a subject",
            node.span,
            _subject_help(node.source, captures or frozenset()),
        )
        return Subject()
    if captures is not None and name[1] not in captures:
        problems.add(
            "unknown-subject",
            f"no granted key pattern of this identity captures {quote(node.source)}",
            node.span,
            _subject_help(node.source, captures),
        )
    return Subject(SubjectKind.CAPTURE, name[1])


def _subject_help(written: str, captures: frozenset[str]) -> str:
    choices = ["identity", "token", *(f"{{{name}}}" for name in sorted(captures))]
    return did_you_mean(written, choices, f"write one of {listing(choices)}")
