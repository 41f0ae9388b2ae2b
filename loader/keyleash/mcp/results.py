"""Results of tools: replies as data, and denials that help a model to correct itself."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

from mcp_types import CallToolResult, TextContent

from keyleash.errors import LeashError
from keyleash.errors.sentences import explain
from keyleash.text import iso_time, json_bytes, without_tokens

MAX_REPLY = 64 * 1024
PAGING = (
    "read the rest in parts: getrange, lrange, zrange and xrange take a range, HSCAN, SSCAN and"
    " SCAN a cursor"
)
META = {"keyleash/untrusted": True}
"""Marks a result as data of which other programs may be the authors."""


def shown(value: Any) -> Any:
    """Return a reply as JSON: text where it is UTF-8, else `{"base64": …}`."""
    match value:
        case bytes():
            return json_bytes(value)
        case Mapping():
            return {_name(key): shown(item) for key, item in value.items()}
        case set() | frozenset():
            return sorted((shown(item) for item in value), key=str)
        case list() | tuple():
            return [shown(item) for item in value]
        case Exception():
            return {"error": without_tokens(str(value))}
        case float() if not math.isfinite(value):
            return str(value)
        case None | bool() | int() | float() | str():
            return value
    return str(value)


def _name(key: Any) -> str:
    name = shown(key)
    return name if isinstance(name, str) else json.dumps(name)


def text_of(value: Any) -> str:
    """Return JSON text."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def cut(value: Any, room: int) -> tuple[Any, int]:
    """Return the beginning of a value that has about *room* bytes as JSON, and the bytes left."""
    if isinstance(value, str):
        data = value.encode("utf-8", "replace")
        return data[:room].decode("utf-8", "ignore"), room - min(room, len(data)) - 2
    if not isinstance(value, list | dict):
        return value, room - len(text_of(value))
    kept: list[Any] = []
    for item in value.items() if isinstance(value, dict) else value:
        if room <= 0:
            break
        if isinstance(value, dict):
            held, room = cut(item[1], room - len(item[0].encode("utf-8", "replace")) - 4)
            kept.append((item[0], held))
        else:
            held, room = cut(item, room)
            kept.append(held)
    return (dict(kept) if isinstance(value, dict) else kept), room - 2


def result(reply: Any) -> CallToolResult:
    """Return the result of a call, cut at `MAX_REPLY`."""
    value = shown(reply)
    found: dict[str, Any] = {"result": value}
    size = len(text_of(value).encode("utf-8", "replace"))
    if size > MAX_REPLY:
        found = {"result": cut(value, MAX_REPLY)[0], "bytes": size, "cut": PAGING}
        if isinstance(value, list | dict):
            found["items"] = len(value)
    return CallToolResult(
        content=[TextContent(text=text_of(found))], structured_content=found, _meta=META
    )


def failure(code: str, message: str, **more: Any) -> CallToolResult:
    """Return the result of a call that failed."""
    found = {"code": code, "message": message, **more}
    lines = [f"{code}: {message}", *(f"{name}: {text_of(more[name])}" for name in more)]
    return CallToolResult(
        content=[TextContent(text="\n".join(lines))], structured_content=found, is_error=True
    )


def denied(denial: LeashError, instead: Sequence[str]) -> CallToolResult:
    """Return the result of a denied call.

    Args:
        denial: What the guard replied.
        instead: The patterns on which the command is allowed.
    """
    sentence, help_ = explain(denial)
    more: dict[str, Any] = {
        name: shown(value.encode("utf-8", "surrogateescape"))
        for name, value in denial.details.items()
        if name not in ("identity", "reason", "retry_after_ms", "resets_at_ms")
    }
    if "retry_after_ms" in denial.details:
        more["retry_after_ms"] = int(denial.details["retry_after_ms"])
    if "resets_at_ms" in denial.details:
        more["resets_at"] = iso_time(int(denial.details["resets_at_ms"]))
    if "key" in more or "channel" in more or "index" in more or "class" in more:
        more["allowed_instead"] = [*instead]
    message = sentence.partition(": ")[2] + (f". To go on: {help_}" if help_ else "")
    return failure(str(denial.code), message, **more)
