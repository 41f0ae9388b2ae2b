"""One entry of a trail, from the fields of its stream (`lua/partials/append_event.lua`)."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

Fields = Mapping[bytes, bytes]
_NETSTRING_HEAD = re.compile(rb"([0-9]{1,9}):")


@dataclass(frozen=True, slots=True)
class Entry:
    """What an event and a denial have in common.

    Attributes:
        id: The entry's id in its stream.
        time_ms: Server time, Unix milliseconds.
        token: The token's id, or `-` if it was not known.
        op: The command's name.
        keys: The keys that it touched; for a denial, the key that was refused, if any.
        policy: The beginning of the digest of the identity's rules.
    """

    id: str
    time_ms: int
    identity: str
    token: str
    op: str
    keys: tuple[bytes, ...]
    correlation: str
    policy: str


@dataclass(frozen=True, slots=True)
class AuditEvent(Entry):
    """A command that was let through.

    Attributes:
        error: What the command answered, if it failed.
    """

    error: str | None = None


@dataclass(frozen=True, slots=True)
class Denial(Entry):
    """A command that was refused."""

    code: str = ""


@dataclass(frozen=True, slots=True)
class Correction:
    """A later word on an event: its command failed."""

    of: str
    error: str


def audit_entry(identity: str, entry_id: bytes, fields: Fields) -> AuditEvent | Correction:
    """Read an entry of an audit stream."""
    if b"of" in fields:
        return Correction(_text(fields[b"of"]), _text(fields.get(b"error", b"")))
    return AuditEvent(
        id=entry_id.decode(),
        time_ms=_time_ms(entry_id),
        identity=identity,
        token=_text(fields.get(b"token", b"")),
        op=_text(fields.get(b"op", b"")),
        keys=_keys(fields),
        correlation=_text(fields.get(b"correlation", b"")),
        policy=_text(fields.get(b"policy", b"")),
    )


def denial(identity: str, entry_id: bytes, fields: Fields) -> Denial:
    """Read an entry of a stream of denials."""
    return Denial(
        id=entry_id.decode(),
        time_ms=_time_ms(entry_id),
        identity=identity,
        token=_text(fields.get(b"token", b"")),
        op=_text(fields.get(b"op", b"")),
        keys=_keys(fields),
        correlation=_text(fields.get(b"correlation", b"")),
        policy=_text(fields.get(b"policy", b"")),
        code=_text(fields.get(b"code", b"")),
    )


def split_netstrings(data: bytes) -> tuple[bytes, ...]:
    """Take `<len>:<bytes>,…` apart.

    Raises:
        ValueError: *data* is not netstrings to its end.
    """
    parts = []
    at = 0
    while at < len(data):
        head = _NETSTRING_HEAD.match(data, at)
        end = head.end() + int(head[1]) if head else at
        if head is None or data[end : end + 1] != b",":
            raise ValueError(f"no netstring at byte {at}")
        parts.append(data[head.end() : end])
        at = end + 1
    return tuple(parts)


def _keys(fields: Fields) -> tuple[bytes, ...]:
    if b"keys" in fields:
        try:
            return split_netstrings(fields[b"keys"])
        except ValueError:
            # Not a guard's work. Shown as it is, rather than hidden or in the way of the rest.
            return (fields[b"keys"],)
    key = fields.get(b"key", b"")
    return (key,) if key else ()


def _time_ms(entry_id: bytes) -> int:
    return int(entry_id.partition(b"-")[0])


def _text(data: bytes) -> str:
    return data.decode("utf-8", "backslashreplace")
