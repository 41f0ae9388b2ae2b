"""When a step of a case happens."""

from __future__ import annotations

import re
from datetime import UTC, datetime

from keyleash.policy import SECOND_US
from keyleash.policy.node import Node
from keyleash.policy.problems import Problems, fail, quote
from keyleash.policy.quantities import parse_duration

MILLISECOND_US = 1000
YEARS_AHEAD = 5
"""How far calendar windows are compiled in, from the year in which the clock starts."""
DEFAULT_START = "2026-01-01T00:00:00Z"
_MILLISECONDS = re.compile(r"([0-9]{1,9})ms")
_HELP = "write a date and a time, such as `2026-03-02T12:00:00Z`; without a zone it is UTC"


def instant_us(text: str) -> int:
    """
    A time in ISO 8601 as Unix microseconds, to the millisecond.

    Raises:
        ValueError: It is none.
    """
    date = datetime.fromisoformat(text)
    aware = date if date.tzinfo else date.replace(tzinfo=UTC)
    return round(aware.timestamp() * 1000) * MILLISECOND_US


def read_start(node: Node | None, problems: Problems) -> int:
    """`clock` of a file: what it says when a case begins."""
    text = DEFAULT_START if node is None else node.source
    try:
        return instant_us(text)
    except (ValueError, OverflowError):
        if node is not None:
            problems.add("bad-time", f"{quote(text)} is no time", node.span, _HELP)
        return instant_us(DEFAULT_START)


def read_advance(node: Node, problems: Problems) -> int:
    """`advance` of a step, in microseconds: a duration of the policy language, or `250ms`."""
    return problems.attempt(lambda: _duration_us(node.source, node)) or 0


def read_at(node: Node, starts_us: int, problems: Problems) -> int | None:
    """`at` of a step: `+10s` after the case began, or a date and a time; None if it is neither."""
    if node.source.startswith("+"):
        after_us = problems.attempt(lambda: _duration_us(node.source[1:], node))
        return None if after_us is None else starts_us + after_us
    try:
        return instant_us(node.source)
    except (ValueError, OverflowError):
        help = f"{_HELP}; or how long after the beginning of the case, such as `+10s`"
        problems.add("bad-time", f"{quote(node.source)} is no time", node.span, help)
        return None


def _duration_us(text: str, node: Node) -> int:
    found = _MILLISECONDS.fullmatch(text)
    if found is None:
        return parse_duration(text, node.span, because="a policy's windows are shorter") * SECOND_US
    if int(found[1]) == 0:
        raise fail(
            "duration-out-of-range",
            f"{quote(text)} is not longer than zero",
            node.span,
            "write `1ms` or more",
        )
    return int(found[1]) * MILLISECOND_US


def check_order(at_us: int, before_us: int, starts_us: int, node: Node, problems: Problems) -> None:
    """Report a clock that goes back, or beyond what guards know of calendars."""
    if at_us < before_us:
        help = "put the steps in the order of time; a case begins with `clock` of the file"
        problems.add("clock-goes-back", "the clock goes back here", node.span, help)
    if _year(at_us) >= _year(starts_us) + YEARS_AHEAD:
        message = f"the clock is more than {YEARS_AHEAD} years ahead here"
        help = "set `clock` of the file to a later beginning"
        problems.add("clock-out-of-range", message, node.span, help)


def _year(at_us: int) -> int:
    return datetime.fromtimestamp(at_us // SECOND_US, UTC).year
