"""Describe values and denials in words."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

from keyleash.audit.entries import Denial
from keyleash.audit.undo.key_values import PARTS, Value, elements_of
from keyleash.commands import known_table
from keyleash.commands.refusals import NO_MODE, pattern_of, with_reason
from keyleash.errors import DENIALS, ReplyCode
from keyleash.errors.sentences import LEFT_OUT, Reason, reason_of
from keyleash.evaluate.trace import SHOWN_BYTES
from keyleash.text import counted, distance, iso_time, printable

_REASON_IS = {
    **dict.fromkeys((ReplyCode.RATE_LIMITED, ReplyCode.BUDGET_EXHAUSTED), "limit"),
    ReplyCode.COUNTER_CORRUPT: "limit",
    ReplyCode.CLASS_NOT_GRANTED: "class",
    ReplyCode.VALUE_REFUSED: "rule",
}
"""The detail of a denial that its entry has as `reason`, where that is its name."""

SHORT_CHARS = 24
"""Characters of an element that is shown among others on one line."""


def short_value(value: Value | None, now_ms: int) -> str:
    """Return *value* on one line: type, the first elements, and expiry."""
    if value is None:
        return "not known"
    if value.is_absent:
        return "absent"
    expires = "" if value.expires_ms is None else f", expires {distance(value.expires_ms, now_ms)}"
    return f"{value.noun} {_short_content(value)}{expires}"


def _short_content(value: Value) -> str:
    if value.kind == "string":
        text = value.elements[0] if value.elements else b""
        size = f"… ({counted(value.length, 'byte')})" if len(text) < value.length else ""
        return f'"{printable(text)}"{size}'
    if value.kind not in PARTS:
        return f"of {counted(value.size, 'byte')}"
    shown = [_element_text(value.kind, element, _short) for element in elements_of(value)]
    if len(shown) < value.length:
        shown.append(f"… {value.length} in all")
    inside = ", ".join(shown)
    if value.noun == "JSON":
        return inside
    return f"[{inside}]" if value.kind in {"list", "stream"} else f"{{{inside}}}"


def _element_text(kind: str, element: Sequence[Any], text: Callable[[bytes], str]) -> str:
    match kind:
        case "hash":
            return f"{text(element[0])}: {text(element[1])}"
        case "zset":
            return f"{text(element[0])}: {printable(element[1])}"
        case "stream":
            parts = map(text, element[1])
            fields = (f"{name}={content}" for name, content in zip(parts, parts, strict=True))
            return " ".join([printable(element[0]), *fields])
        case _:
            return text(element[0])


def _short(part: bytes) -> str:
    text = printable(part)
    return text if len(text) <= SHORT_CHARS else f"{text[: SHORT_CHARS - 1]}…"


def value_lines(value: Value) -> Iterator[str]:
    """Yield all of *value*, one element a line; unprintable characters are escaped."""
    if value.kind == "string":
        yield from (printable(line) for line in value.elements[0].split(b"\n"))
    elif value.kind not in PARTS:
        yield f"a value of type {value.kind}, {counted(value.size, 'byte')}, cannot be shown"
    else:
        for element in elements_of(value):
            if value.kind == "zset":
                yield f"{printable(element[1])} {printable(element[0])}"
                continue
            is_expiring = value.kind == "hash" and int(element[2]) >= 0
            expires = f"  (expires {iso_time(int(element[2]))})" if is_expiring else ""
            yield _element_text(value.kind, element, printable) + expires


def reason_of_denial(denial: Denial) -> Reason | None:
    """Return the reason of a denial, as the client that got it reports it.

    An entry lacks what only the call has: numbers, and most arguments for which calls are denied.
    """
    if denial.code not in DENIALS:
        return None
    key = next(iter(denial.keys), b"")[:SHOWN_BYTES].decode("utf-8", "surrogateescape")
    details = {"command": f"{denial.op}:{denial.script}" if denial.script else denial.op}
    if denial.code == ReplyCode.COMMAND_REFUSED and denial.reason in NO_MODE:
        details["mode"] = denial.reason
    elif denial.code == ReplyCode.COMMAND_REFUSED:
        # The word for which it is denied.
        details["command"] += f" {denial.reason}".rstrip()
    elif denial.reason:
        details[_REASON_IS.get(ReplyCode(denial.code), "reason")] = denial.reason
    if key:
        details |= {"key": key, "channel": key, "index": key}
    if denial.code == ReplyCode.COMMAND_REFUSED:
        known = with_reason(known_table(), details)
        details = {name: text for name, text in known.items() if text != LEFT_OUT}
    error = DENIALS[denial.code](details)
    error.identity = denial.identity
    error.pattern_of = pattern_of(denial.op, key)
    return reason_of(error)


def folded_text(denial: Denial, form: str) -> str:
    """Return in *form* the fields in which the repeats of *denial* may differ; "" if in none."""
    if not denial.is_any_command:
        return ""
    fields = {"commands": "commands", "tokens": "tokens, commands and reasons"}
    return form.format(fields.get(denial.folded or "commands", "kinds"))
