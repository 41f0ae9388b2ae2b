"""Results of tools: replies as data, and denials that help a model to correct itself."""

from __future__ import annotations

import base64
import json
import math
from bisect import bisect_right
from collections.abc import Awaitable, Iterable, Mapping, Sequence
from itertools import islice
from typing import Any

from mcp.shared.exceptions import MCPError
from mcp_types import INVALID_PARAMS, CallToolResult, TextContent
from redis.exceptions import RedisError, ResponseError

from keyleash.addons.mcp.tools import Access
from keyleash.errors import KeyleashError, LeashError
from keyleash.errors.sentences import Door, explain
from keyleash.store.failures import is_unanswered, printable_reason
from keyleash.text import iso_time, json_bytes, without_tokens

MAX_REPLY = 64 * 1024
MAX_LENGTHS = 64
MIN_SHARE, MIN_ITEM = 1024, 32
"""The bytes of JSON to which a long item of a list is cut at most, and at least."""
PAGING = "read parts: getrange, lrange, zrange and xrange, or HSCAN, SSCAN and SCAN with a cursor"


async def outcome(run: Awaitable[CallToolResult]) -> CallToolResult:
    """Return the result of a call, also of one that failed: a model reads no protocol errors."""
    try:
        return await run
    except (KeyleashError, RedisError) as error:
        code = "REDIS" if isinstance(error, ResponseError) else "UNAVAILABLE"
        return failure(getattr(error, "code", code), reason_of(error))
    except (ValueError, TypeError) as error:
        return failure("INVALID_ARGUMENTS", without_tokens(str(error)))


def reason_of(error: KeyleashError | RedisError) -> str:
    """Return why a call failed, and whether it may have run."""
    if isinstance(error, KeyleashError):
        return without_tokens(error.message)
    if isinstance(error, ResponseError):
        return f"the call was allowed, and the server replied: {without_tokens(str(error))[:1024]}"
    ran = "the call may have run" if is_unanswered(error) else "nothing has run"
    return f"Redis does not answer, {ran}: {printable_reason(error)}"


def no_tool(name: str) -> MCPError:
    """Return the error of the protocol for a tool that there is not."""
    return MCPError(INVALID_PARAMS, without_tokens(f"there is no tool `{name[:64]}`"))


def result(reply: Any) -> CallToolResult:
    """Return a reply as a result, cut at `MAX_REPLY`."""
    if _size(reply) <= MAX_REPLY:
        return _marked(found := {"result": shown(reply)}, text_of(found))
    lengths: dict[str, int] = {}
    found = {"result": _cut(reply, MAX_REPLY, lengths), "cut": PAGING}
    is_text = isinstance(reply, str | bytes)
    found["bytes" if is_text else "items"] = lengths.pop("", len(reply))
    if lengths:
        found["cut_items"] = lengths
    return _marked(found, text_of(found))


def _marked(found: dict[str, Any], text: str, is_error: bool = False) -> CallToolResult:
    """Return a result that is marked as data of others."""
    content: Any = [TextContent(text=text)]
    meta = {"keyleash/untrusted": True}
    return CallToolResult(content=content, structured_content=found, is_error=is_error, _meta=meta)


def shown(value: Any) -> Any:
    """Return a reply as JSON: text where it is UTF-8, else `{"base64": …}`."""
    match value:
        case bytes():
            return json_bytes(value)
        case Mapping():
            return {_name(name): shown(item) for name, item in value.items()}
        case list() | tuple() | set() | frozenset():
            items = [shown(item) for item in value]
            return sorted(items, key=str) if isinstance(value, set | frozenset) else items
        case Exception():
            return {"error": without_tokens(str(value))}
        case None | int() | str():
            return value
    return value if isinstance(value, float) and math.isfinite(value) else str(value)


text_of = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode
"""Returns JSON text."""


def _name(value: Any) -> str:
    """Return a name of an object; bytes that are not UTF-8, and a text like it, as JSON text."""
    name = shown(value)
    if isinstance(name, str) and name.startswith('{"base64":'):
        name = {"base64": base64.b64encode(name.encode()).decode()}
    return name if isinstance(name, str) else text_of(name)


def _size(value: Any) -> int:
    """Return the bytes of JSON of a value; about, if they are more than a reply may have."""
    least, items = 0, [value]
    # To encode all of a long reply would hold up the other clients.
    while items and least <= MAX_REPLY:
        item = items.pop()
        least += len(item) if isinstance(item, bytes | str) else 1
        if isinstance(item, Mapping):
            items += item.keys()
            item = item.values()
        items += () if isinstance(item, bytes | str) or not isinstance(item, Iterable) else item
    return least if least > MAX_REPLY else len(text_of(shown(value)).encode("utf-8", "replace"))


def _parts(value: Any, room: int) -> list[tuple[str, Any, int]]:
    """Return the items of a value that may fit: their names, and the bytes of JSON besides them."""
    if isinstance(value, Mapping):
        items = islice(value.items(), room // 2)
        return [(name, item, _size(name) + 2) for key, item in items for name in [_name(key)]]
    return [(str(at), item, 1) for at, item in enumerate(islice(value, room // 2))]


def _cut(value: Any, room: int, lengths: dict[str, int], *place: str) -> Any:
    """Return a value, or as much of it as *room* bytes of JSON hold, with something of each item.

    *lengths* receives by their places the bytes of each text that is cut, and the items of lists.
    """
    if _size(value) <= room:
        return shown(value)
    if not isinstance(value, bytes | str | Mapping | list | tuple | set | frozenset):
        value = without_tokens(str(value))
    if isinstance(value, bytes | str):
        raw = value if isinstance(value, bytes) else value.encode("utf-8", "replace")
        text = shown(value)
        _note(lengths, place, len(raw))
        if isinstance(text, dict):
            return {"base64": base64.b64encode(raw[: (room - 13) // 4 * 3]).decode()}
        ends = range(min(len(text), room) + 1)
        return text[: bisect_right(ends, room, key=lambda end: _size(text[:end])) - 1]
    parts = _parts(value, room)
    sizes = [_size(item) + more for _, item, more in parts]
    room -= 1
    fits = bisect_right(range(room), room, key=lambda share: sum(min(it, share) for it in sizes))
    share = max(fits - 1, min(MIN_SHARE, room))
    kept: dict[str, Any] = {}
    for (name, item, more), size in zip(parts, sizes, strict=True):
        room -= min(size, share)
        if room < 0:
            break
        if size <= share or more + MIN_ITEM <= share:
            kept[name] = _cut(item, share - more, lengths, *place, name)
    if len(kept) < len(value):
        _note(lengths, place, len(value))
    return kept if isinstance(value, Mapping) else [*kept.values()]


def _note(lengths: dict[str, int], place: Sequence[str], length: int) -> None:
    """Note a length; who writes the names of places must not fill the result with them."""
    if len(lengths) < MAX_LENGTHS or not place:
        lengths[".".join(name[:MIN_ITEM] for name in place)] = length


def denied(denial: LeashError, access: Access | None, names: Sequence[str]) -> CallToolResult:
    """Return the result of a denied call, with the patterns on which its commands are allowed."""
    more: dict[str, Any] = {}
    for name, value in denial.details.items():
        if name in ("retry_after_ms", "item"):
            more[name] = int(value)
        elif name in ("resets_at_ms", "until_ms") and value.isdecimal():
            more[name.removesuffix("_ms")] = iso_time(int(value))
        # A reason in words is part of the message.
        elif name != "identity" and not (name == "reason" and " " in value):
            more[name] = shown(value.encode("utf-8", "surrogateescape"))
    instead: list[str] = []
    is_elsewhere = "NOT_GRANTED" in denial.code and not denial.is_to_stop
    if is_elsewhere and access and access.grants is not None:
        like = next((more[x] for x in ("key", "channel", "index", "class") if x in more), "")
        more["allowed_instead"] = instead = access.patterns(names, like=str(like))
    sentence, help_ = explain(denial, Door.MCP, () if denial.pattern_of else instead)
    if never := access and access.never(instead):
        more["never"] = never
        help_ += "; what fits a pattern in never is always denied"
    return failure(str(denial.code), f"{sentence.partition(': ')[2]}. To go on: {help_}", **more)


def failure(code: str, message: str, **more: Any) -> CallToolResult:
    """Return the result of a call that failed."""
    found = {"code": code, "message": message, **more}
    lines = [f"{code}: {message}", *(f"{name}: {text_of(more[name])}" for name in more)]
    return _marked(found, "\n".join(lines), is_error=True)
