"""A reply as redis-cli prints it, and as JSON."""

from __future__ import annotations

from typing import Any

from redis.exceptions import ResponseError

from keyleash.cli.text import json_bytes

_ESCAPES = {0x22: '\\"', 0x5C: "\\\\", 0x0A: "\\n", 0x0D: "\\r", 0x09: "\\t", 7: "\\a", 8: "\\b"}


def formatted(reply: Any) -> str:
    """For a terminal: types are shown, strings quoted, whatever is not ASCII escaped."""
    return "\n".join(_lines(reply))


def raw(reply: Any) -> bytes:
    """For a pipe: values alone, one a line, as redis-cli gives them to another program."""
    match reply:
        case None:
            return b""
        case bytes():
            return reply
        case list():
            return b"\n".join(raw(item) for item in reply)
        case _:
            return str(reply).encode("utf-8", "surrogateescape")


def as_json(reply: Any) -> Any:
    """As a JSON value; bytes that are not UTF-8 become `{"base64": …}`."""
    match reply:
        case bytes():
            return json_bytes(reply)
        case list():
            return [as_json(item) for item in reply]
        case ResponseError():
            return {"error": str(reply)}
        case _:
            return reply


def _lines(reply: Any) -> list[str]:
    match reply:
        case None:
            return ["(nil)"]
        case int():
            return [f"(integer) {reply}"]
        case bytes(b"OK" | b"PONG" | b"QUEUED"):
            # RESP tells a status from a string; redis-py does not.
            return [reply.decode()]
        case bytes():
            return [_quoted(reply)]
        case list():
            return _numbered(reply)
        case ResponseError():
            return [f"(error) {reply}"]
        case _:
            return [str(reply)]


def _numbered(items: list[Any]) -> list[str]:
    if not items:
        return ["(empty array)"]
    width = len(str(len(items)))
    lines = []
    for number, item in enumerate(items, 1):
        first, *rest = _lines(item)
        lines.append(f"{number:>{width}}) {first}")
        lines.extend(" " * (width + 2) + line for line in rest)
    return lines


def _quoted(data: bytes) -> str:
    return f'"{"".join(_ESCAPES.get(byte) or _visible(byte) for byte in data)}"'


def _visible(byte: int) -> str:
    return chr(byte) if 0x20 <= byte < 0x7F else f"\\x{byte:02x}"
