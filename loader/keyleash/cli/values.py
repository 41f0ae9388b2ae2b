"""What keys hold, as people and programs read it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from keyleash.cli.text import counted, distance, iso_time, json_bytes, printable

if TYPE_CHECKING:
    from keyleash.audit import Denial
    from keyleash.audit.undo import Value

SHORT_CHARS = 24
"""Of an element that stands among others on one line."""

FOLDED = {"commands": "command", "tokens": "token, command and reason"}
"""What the repeats of a folded denial do not have in common."""

UNVALIDATED = "the server does not validate payloads"
"""Why a before-image of an agent that may have made it up is not restored."""


def short_value(value: Value | None, now_ms: int) -> str:
    """*value* on one line: its type, as much as fits, and when it expires."""
    if value is None:
        return "not known"
    if value.is_absent:
        return "absent"
    expires = "" if value.expires_ms is None else f", expires {distance(value.expires_ms, now_ms)}"
    return f"{value.kind} {_short_content(value)}{expires}"


def _short_content(value: Value) -> str:
    shown = list(_short_elements(value))
    match value.kind:
        case "string":
            shown_bytes = value.elements[0] if value.elements else b""
            is_cut = len(shown_bytes) < value.length
            return f'"{printable(shown_bytes)}"' + (
                f"… ({counted(value.length, 'byte')})" if is_cut else ""
            )
        case "list" | "set" | "hash" | "zset" | "stream":
            more = [f"… {value.length} in all"] if len(shown) < value.length else []
            inside = ", ".join([*shown, *more])
            return f"[{inside}]" if value.kind in {"list", "stream"} else f"{{{inside}}}"
        case _:
            return f"of {counted(value.size, 'byte')}"


def _short_elements(value: Value) -> Iterator[str]:
    for element in elements_of(value):
        match value.kind:
            case "hash":
                yield f"{_short(element[0])}: {_short(element[1])}"
            case "zset":
                yield f"{_short(element[0])}: {printable(element[1])}"
            case "stream":
                words = [_short(word) for word in element[1]]
                yield " ".join([printable(element[0]), *_paired(words)])
            case "list" | "set":
                yield _short(element[0])


def _paired(words: Sequence[str]) -> Iterator[str]:
    return (f"{name}={said}" for name, said in zip(words[::2], words[1::2], strict=True))


def _short(word: bytes) -> str:
    text = printable(word)
    return text if len(text) <= SHORT_CHARS else f"{text[: SHORT_CHARS - 1]}…"


def elements_of(value: Value) -> Iterator[Sequence[Any]]:
    """The words of each element: of a hash field, value and expiry, and so on; see `Value`."""
    width = {"hash": 3, "zset": 2, "stream": 2}.get(value.kind, 1)
    for at in range(0, len(value.elements), width):
        yield value.elements[at : at + width]


def value_lines(value: Value) -> Iterator[str]:
    """All of *value*, an element a line; a string as it is but for what is not printable."""
    match value.kind:
        case "string":
            yield from (printable(line) for line in value.elements[0].split(b"\n"))
        case "list" | "set":
            yield from (printable(element[0]) for element in elements_of(value))
        case "hash":
            for name, held, expires in elements_of(value):
                until = "" if int(expires) < 0 else f"  (expires {iso_time(int(expires))})"
                yield f"{printable(name)}: {printable(held)}{until}"
        case "zset":
            yield from (f"{printable(score)} {printable(one)}" for one, score in elements_of(value))
        case "stream":
            for entry_id, words in elements_of(value):
                shown = [printable(word) for word in words]
                yield " ".join([printable(entry_id), *_paired(shown)])
        case _:
            yield f"a value of type {value.kind}, {counted(value.size, 'byte')}, cannot be shown"


def value_as_json(value: Value | None, *, whole: bool = False) -> dict[str, Any] | None:
    """*value* with its type; the elements only if *whole*, since else they are cut."""
    if value is None:
        return None
    said: dict[str, Any] = {"exists": not value.is_absent}
    if value.is_absent:
        return said
    said |= {
        "type": value.kind,
        "length": value.length,
        "sha1": value.digest,
        "expires_at": None if value.expires_ms is None else iso_time(value.expires_ms),
    }
    return {**said, "value": _content(value)} if whole else said


def _content(value: Value) -> Any:
    elements = list(elements_of(value))
    match value.kind:
        case "string":
            return json_bytes(value.elements[0])
        case "list" | "set":
            return [json_bytes(element[0]) for element in elements]
        case "hash":
            return [
                {
                    "field": json_bytes(name),
                    "value": json_bytes(held),
                    "expires_at": None if int(expires) < 0 else iso_time(int(expires)),
                }
                for name, held, expires in elements
            ]
        case "zset":
            return [
                {"member": json_bytes(member), "score": score.decode()}
                for member, score in elements
            ]
        case "stream":
            return [
                {"id": entry_id.decode(), "fields": [json_bytes(word) for word in words]}
                for entry_id, words in elements
            ]
        case _:
            return None


def shown_folded(denial: Denial, form: str) -> str:
    """Return what the calls that *denial* counts need not have in common, in *form*; else ""."""
    if not denial.is_any_command:
        return ""
    return form.format(FOLDED.get(denial.folded or "commands", "kind"))
