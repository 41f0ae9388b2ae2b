"""Format untrusted values for terminals and as JSON."""

from __future__ import annotations

import base64
import re
import sys
from collections.abc import Mapping, Set
from dataclasses import fields, is_dataclass
from datetime import UTC, datetime, timedelta
from enum import Enum
from functools import cache
from importlib.metadata import PackageNotFoundError, metadata
from pathlib import PurePath
from typing import Any

JsonValue = str | dict[str, str]


class StoredDocument(str):
    """A policy document that a server stored, whose comments have the texts of its scripts.

    In a file such comments are anybody's.
    """

    __slots__ = ()


_ESCAPED = re.compile(
    rb"\\(?:x(?P<byte>[0-9a-f]{2})|u(?P<short>[0-9a-f]{4})|U(?P<long>[0-9a-f]{8})|(?P<name>[nrt]))"
)
_NAMED = {b"n": b"\n", b"r": b"\r", b"t": b"\t"}
LATEST_MS = 253_402_300_799_999
"""The end of the year 9999."""


def printable(value: str | bytes) -> str:
    """Return *value* on one line, with control and invisible characters escaped.

    Agents write keys, notes and correlation ids, which must not control the terminal.
    """
    text = value.decode("utf-8", "surrogateescape") if isinstance(value, bytes) else value
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() else _escaped(char) for char in text)


def _escaped(char: str) -> str:
    if "\udc80" <= char <= "\udcff":
        return f"\\x{ord(char) - 0xDC00:02x}"
    return char.encode("unicode_escape", "backslashreplace").decode()


def unescaped(text: bytes) -> bytes:
    r"""Return the bytes that `printable` shows as *text*; `\xNN` is a single byte."""
    return _ESCAPED.sub(_unescape, text)


def _unescape(escape: re.Match[bytes]) -> bytes:
    if escape["name"]:
        return _NAMED[escape["name"]]
    if escape["byte"]:
        return bytes([int(escape["byte"], 16)])
    number = int(escape["short"] or escape["long"], 16)
    return chr(number).encode("utf-8", "replace") if number <= sys.maxunicode else escape[0]


def json_bytes(value: bytes) -> JsonValue:
    """Return *value* as a string if it is UTF-8, else as base64."""
    try:
        return value.decode()
    except UnicodeDecodeError:
        return {"base64": base64.b64encode(value).decode()}


# In any case: a token in the place of a command returns in upper case.
_TOKEN = re.compile(r"(kl_[a-z0-9-]{1,64})_[a-z0-9_-]{16,}", re.IGNORECASE)


TOKEN_IN_LUA = "kl_[a-z0-9-]+_" + 16 * "[a-z0-9_-]"
"""The same as a Lua pattern, for text in lower case."""


def without_tokens(text: str) -> str:
    """Return *text* without the secret part of anything that looks like a token."""
    return _TOKEN.sub(r"\1_…", text)


def to_json(value: Any) -> Any:
    """Return *value* in the form in which `--json` prints it, made of what `json.dumps` accepts.

    Bytes become text, or base64 if they are not UTF-8; a `datetime` ISO 8601 and a `timedelta`
    seconds; an enum its value; sets sorted lists. An object with a method `to_dict` becomes what
    that returns, another dataclass the object that `json_object` makes of it.
    """
    match value:
        case Enum():
            return value.value
        case None | bool() | int() | float():
            return value
        case PurePath():
            return str(value)
        case str():
            return _json_text(value)
        case bytes():
            return json_bytes(value)
        case datetime():
            return _iso(value)
        case timedelta():
            return value.total_seconds()
        case Mapping():
            return {
                printable(name) if isinstance(name, bytes) else str(name): to_json(item)
                for name, item in value.items()
            }
    if hasattr(value, "to_dict"):
        return value.to_dict()
    if is_dataclass(value):
        return json_object(value)
    return [to_json(item) for item in (sorted(value) if isinstance(value, Set) else value)]


def json_object(value: Any, *names: str) -> dict[str, Any]:
    """Return attributes of *value* as a JSON object.

    Prefixes and suffixes of Python names are dropped: `is_active` is `active` in JSON, `except_`
    is `except`. Attributes in `_ms` and `_us` are Unix times, printed in ISO 8601: `issued_ms` is
    `issued_at`, `bound_us` is `bound_at`; `since_ms`, `until_ms` and `time_ms` are `since`,
    `until` and `time`.

    Args:
        value: Any object; without *names*, a dataclass.
        names: Attributes, or `name=attribute` for another name in JSON; one with `?` at its end is
            left out if it is empty. By default all fields of the dataclass, except those with
            `repr=False`: secrets, clients and places in a file.
    """
    if not names:
        names = tuple(item.name for item in fields(value) if item.repr)
    result = {}
    for item in names:
        name, _, attribute = item.rstrip("?").rpartition("=")
        held = getattr(value, attribute)
        if item.endswith("?") and not held:
            continue
        unit = _UNITS_PER_MS.get(attribute[-3:])
        if unit and held is not None:
            held = iso_time(held // unit)
        result[name or _json_name(attribute)] = to_json(held)
    return result


_UNITS_PER_MS = {"_ms": 1, "_us": 1000}


def _json_name(attribute: str) -> str:
    stem, suffix = attribute[:-3], attribute[-3:]
    if suffix in _UNITS_PER_MS:
        return stem if stem in {"since", "until", "time"} else f"{stem}_at"
    return attribute.removeprefix("is_").rstrip("_")


def _json_text(text: str) -> Any:
    """Return *text*, as base64 if it has surrogate escapes of bytes that are not UTF-8."""
    try:
        return json_bytes(text.encode("utf-8", "surrogateescape"))
    except UnicodeEncodeError:
        return text


_PAGE = re.compile(r"(?<![/\w])docs/(\S+\.md)")


def with_links(text: str) -> str:
    """Return *text* with addresses in place of paths such as `docs/reference/lint.md`."""
    return _PAGE.sub(lambda page: f"{_documentation()}{page[1]}", text)


@cache
def _documentation() -> str:
    """Return the address of the folder `docs`, from that of its first page in pyproject.toml."""
    try:
        urls = [url.split(", ") for url in metadata("keyleash").get_all("Project-URL", ())]
    except PackageNotFoundError:
        return "docs/"
    return str(dict(urls)["Documentation"]).removesuffix("README.md")


def counted(count: int, noun: str) -> str:
    """Return a count with its noun: `1 token`, `2 tokens`, `2 identities`, `2 keys`."""
    if count == 1:
        return f"1 {noun}"
    is_ies = noun.endswith("y") and not noun.endswith("ey")
    return f"{count} {noun[:-1]}ies" if is_ies else f"{count} {noun}s"


def size(count: int) -> str:
    """Return a number of bytes in the largest unit that divides it: `64 MiB`, `10 bytes`."""
    for unit, unit_bytes in (("MiB", 1 << 20), ("KiB", 1 << 10)):
        if count and count % unit_bytes == 0:
            return f"{count // unit_bytes} {unit}"
    return counted(count, "byte")


def short_digest(digest: str) -> str:
    """Return the part of a policy's digest that people compare."""
    return digest[:12]


def iso_time(time_ms: int) -> str:
    """Return the time in ISO 8601, UTC, with milliseconds, for programs."""
    return _iso(moment(time_ms))


def clock_time(time_ms: int) -> str:
    """Return date and time in UTC, in seconds, for people."""
    return moment(time_ms).strftime("%Y-%m-%d %H:%M:%SZ")


def distance(time_ms: int, now_ms: int) -> str:
    """Return the distance of a time from now: `in 1h59m`, `5m ago`."""
    seconds = abs(time_ms - now_ms) // 1000
    return f"in {span(seconds)}" if time_ms >= now_ms else f"{span(seconds)} ago"


def span(seconds: int) -> str:
    """Return a duration in its two largest units: `3d4h`, `1h59m`, `5m`, `42s`."""
    units = (("d", 86_400), ("h", 3600), ("m", 60), ("s", 1))
    for place, (unit, unit_s) in enumerate(units):
        if seconds >= unit_s:
            text = f"{seconds // unit_s}{unit}"
            if place < 2:
                smaller, smaller_s = units[place + 1]
                rest = seconds % unit_s // smaller_s
                text += f"{rest}{smaller}" if rest else ""
            return text
    return "0s"


def _iso(time: datetime) -> str:
    return time.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def moment(time_ms: int) -> datetime:
    """Return a Unix time in milliseconds as an aware `datetime`, at most the end of 9999."""
    # The id of an entry may come from its writer, and lie past the last calendar year.
    seconds, milliseconds = divmod(min(time_ms, LATEST_MS), 1000)
    return datetime.fromtimestamp(seconds, UTC).replace(microsecond=milliseconds * 1000)
