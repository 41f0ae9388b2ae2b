"""Convert values to Lua text. Templates never quote by hand."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from enum import StrEnum
from functools import lru_cache

from keyleash.compiler.ir import Branch, Captured, Matcher
from keyleash.limits.calendar import Run

_PLAIN = frozenset(range(0x20, 0x7F)) - frozenset(b'"\\')
_MAX_EXACT = 2**53

RULE_DIGITS = 3
"""The digits of a rule's number after a name; there are fewer rules than commands."""


class Text(str):
    """Text that is Lua already, such as a block that a filter rewrote."""

    __slots__ = ()


def lua_literal(value: object) -> str:
    """Return *value* as a Lua 5.1 literal, in ASCII and on one line.

    Raises:
        TypeError: no literal stands for such a value.
        ValueError: an integer that a double does not hold exactly.
    """
    match value:
        case Text():
            return str(value)
        case StrEnum() if len(value) == 1:
            # A letter of a plan, quoted as templates write text.
            return f"'{value}'"
        case None:
            return "nil"
        case bool():
            return "true" if value else "false"
        case int():
            if abs(value) > _MAX_EXACT:
                raise ValueError(f"{value} is not exact as a Lua number")
            return str(int(value))
        case float() if math.isfinite(value):
            return repr(value)
        case str():
            return _string(value.encode())
        case bytes():
            return _string(value)
        case _:
            raise TypeError(f"no Lua literal for {type(value).__name__}")


@lru_cache(maxsize=4096)
def _string(data: bytes) -> str:
    return '"' + "".join(chr(b) if b in _PLAIN else f"\\{b:03d}" for b in data) + '"'


def expand(block: str, name: str, words: list[str]) -> Text:
    """Replace *name* in a list of names by *words*; without words its comma goes as well."""
    listed = ", ".join(words)
    if not words:
        block = _rewritten(block, rf",\s*\b{name}\b", lambda _: "")
    return _rewritten(block, rf"\b{name}\b", lambda _: listed)


def suffix(block: str, number: int) -> Text:
    """Replace the `_N` at the end of names by `_` and *number*, so a partial can be used twice."""
    return _rewritten(block, r"\b\w+_N\b", lambda match: f"{match[0][:-1]}{number}")


def of_account(block: str, beginning: str) -> Text:
    """Replace the `_A` at the end of names by *beginning* in front of them, like `suffix`."""
    return _rewritten(block, r"\b\w+_A\b", lambda match: f"{beginning}{match[0][:-2]}")


def offset(block: str, name_at: int | None) -> Text:
    """Replace `name_at` and `name_at + 1` by numbers, if the command's place is constant."""
    if name_at is None:
        return Text(block)
    return _rewritten(
        block, r"\bname_at\b(?: \+ (\d+))?", lambda match: str(name_at + int(match[1] or 0))
    )


def _rewritten(block: str, pattern: str, new: Callable[[re.Match[str]], str]) -> Text:
    """Rewrite names outside of literals: a policy may have any words in its keys."""
    return Text(
        re.sub(
            rf'"[^"]*"|{pattern}',
            lambda match: match[0] if match[0].startswith('"') else new(match),
            block,
        )
    )


def option_pattern(word: str) -> str:
    """Return a Lua pattern for an option as the server compares it: any case, up to a NUL byte."""
    letters = "".join(f"[{letter.upper()}{letter.lower()}]" for letter in word)
    return f"^{letters}%f[%z]"


def records_of(branch: Branch) -> str:
    """Return each name of *branch* followed by its rule, in `RULE_DIGITS` digits."""
    return "".join(
        f"{name}{rule:0{RULE_DIGITS}}" for names, rule in branch.commands for name in names
    )


def runs_of(runs: Sequence[Run]) -> str:
    """Return each run as its end, if it has one, its start and the length of its windows."""
    return " ".join(
        f"{'' if run.until_us is None else run.until_us}:{run.start_us}:{run.step_us}"
        for run in runs
    )


def met(matcher: Matcher, named: bool) -> str | bool:
    """Return the value for `matched`: the pattern, if a denial names it."""
    return matcher.source if named else True


def holds(captured: Captured, starts: bool = False) -> Text:
    """Return the Lua condition that a pattern has every binding of the token, and `key` fits them.

    Args:
        starts: Whether `key` is compared with the text before the first capture without a binding.
    """
    if starts:
        fits = [f"bind[{lua_literal(name)}]" for name, *_ in captured.segments]
    else:
        fits = [
            f"find(record, {lua_literal(f':{name}=')} .. (match(key, {lua_literal(pattern)})"
            + (' and "" or ":"), ' if is_value else ' or ":") .. ":", ')
            + "bindings_at, true)"
            for name, pattern, is_value in captured.segments
        ]
    if len(fits) == 1:
        condition = f"bindings == 1 and {fits[0]}"
    else:
        condition = " + ".join(f"({fit} and 1 or 0)" for fit in fits) + " == bindings"
    return Text(f"{condition} and begins({lua_literal(captured.start)})" if starts else condition)
