"""Results of tools: replies as data, and denials that help a model to correct itself."""

from __future__ import annotations

import json
import math
from collections.abc import Awaitable, Mapping, Sequence
from typing import Any

from mcp.shared.exceptions import MCPError
from mcp_types import INVALID_PARAMS, CallToolResult, TextContent
from redis.exceptions import RedisError, ResponseError

from keyleash.errors import KeyleashError, LeashError
from keyleash.errors.sentences import explain
from keyleash.mcp.tools import Access
from keyleash.store.failures import is_unanswered, printable_reason
from keyleash.text import iso_time, json_bytes, without_tokens

MAX_REPLY = 64 * 1024
PAGING = "read parts: getrange, lrange, zrange and xrange, or HSCAN, SSCAN and SCAN with a cursor"


async def outcome(run: Awaitable[CallToolResult]) -> CallToolResult:
    """Return the result of a call, also of one that failed.

    Raises:
        MCPError: an argument has a wrong value.
    """
    try:
        return await run
    except (KeyleashError, RedisError) as error:
        code = "REDIS" if isinstance(error, ResponseError) else "UNAVAILABLE"
        return failure(getattr(error, "code", code), reason_of(error))
    except (ValueError, TypeError) as error:
        raise invalid(str(error)) from None


def reason_of(error: KeyleashError | RedisError) -> str:
    """Return why a call failed, and whether it may have run."""
    if isinstance(error, KeyleashError):
        return without_tokens(error.message)
    if isinstance(error, ResponseError):
        return f"the call was allowed, and the server replied: {without_tokens(str(error))}"
    ran = "the call may have run" if is_unanswered(error) else "nothing has run"
    return f"Redis does not answer, {ran}: {printable_reason(error)}"


def invalid(message: str) -> MCPError:
    """Return the error of the protocol for arguments that do not fit."""
    return MCPError(INVALID_PARAMS, without_tokens(message))


def result(reply: Any) -> CallToolResult:
    """Return a reply as a result, cut at `MAX_REPLY`, and marked as data of others."""
    found: dict[str, Any] = {"result": shown(reply)}
    size = len(text_of(found["result"]).encode("utf-8", "replace"))
    if size > MAX_REPLY:
        found = {**_cut(found["result"]), "bytes": size, "cut": PAGING}
    meta = {"keyleash/untrusted": True}
    text = TextContent(text=text_of(found))
    return CallToolResult(content=[text], structured_content=found, _meta=meta)


def shown(value: Any) -> Any:
    """Return a reply as JSON: text where it is UTF-8, else `{"base64": …}`."""
    match value:
        case bytes():
            return json_bytes(value)
        case Mapping():
            names = {key: shown(key) for key in value}
            texts = {key: n if isinstance(n, str) else text_of(n) for key, n in names.items()}
            return {texts[key]: shown(item) for key, item in value.items()}
        case list() | tuple() | set() | frozenset():
            items = [shown(item) for item in value]
            return sorted(items, key=str) if isinstance(value, set | frozenset) else items
        case Exception():
            return {"error": without_tokens(str(value))}
        case None | bool() | int() | str():
            return value
        case float() if math.isfinite(value):
            return value
    return str(value)


def text_of(value: Any) -> str:
    """Return JSON text."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def _cut(value: Any) -> dict[str, Any]:
    """Return the beginning of a value, and how many items the whole has."""
    if isinstance(value, str):
        return {"result": value.encode("utf-8", "replace")[:MAX_REPLY].decode("utf-8", "ignore")}
    room, kept = MAX_REPLY, []
    for item in value.items() if isinstance(value, dict) else value:
        room -= len(text_of(item).encode("utf-8", "replace"))
        if room < 0:
            break
        kept.append(item)
    return {"result": dict(kept) if isinstance(value, dict) else kept, "items": len(value)}


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
    sentence, help_ = explain(denial)
    nouns = [name for name in ("key", "channel", "index", "class") if name in more]
    if nouns and access and access.grants is not None:
        more["allowed_instead"] = instead = access.patterns(names)
        if instead and not denial.pattern_of:
            noun = nouns[0].replace("class", "key")
            help_ = f"use a {noun} that fits a pattern in allowed_instead; replace {{…}} by a value"
        if never := access.never(instead):
            more["never"] = never
            help_ += "; what fits a pattern in never is always denied"
    if denial.code.startswith("TOKEN_"):
        help_ = "stop, and report it to the operator"
    message = sentence.partition(": ")[2] + (f". To go on: {help_}" if help_ else "")
    return failure(str(denial.code), message, **more)


def failure(code: str, message: str, **more: Any) -> CallToolResult:
    """Return the result of a call that failed."""
    found = {"code": code, "message": message, **more}
    lines = [f"{code}: {message}", *(f"{name}: {text_of(more[name])}" for name in more)]
    text = TextContent(text="\n".join(lines))
    return CallToolResult(content=[text], structured_content=found, is_error=True)
