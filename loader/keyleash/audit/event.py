"""
One entry of a trail, from the fields of its stream.

`lua/partials/append_event.lua` writes the event of one command, `lua/batch.lua` that of a
batch: behind its own fields, it has one for each command that changes something, named as
the command, with its key. So names of fields repeat.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

Fields = Mapping[bytes, bytes]
Pairs = Sequence[tuple[bytes, bytes]]
_OWN_FIELDS = frozenset({b"token", b"correlation", b"policy"})
_NETSTRING_HEAD = re.compile(rb"([0-9]{1,9}):")


@dataclass(frozen=True, slots=True)
class Entry:
    """What an event and a denial have in common.

    Attributes:
        id: The entry's id in its stream.
        time_ms: Server time, Unix milliseconds.
        token: The token's id, or `-` if it was not known.
        op: The command's name.
        keys: The keys that it touched; for a denial, the key that was refused, if any. PUBLISH
            and SPUBLISH have their channel there.
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
        item: For a command of a batch, its place in the batch's event, from 1; else 0.
        error: What the command answered, if it failed.
    """

    item: int = 0
    error: str | None = None


@dataclass(frozen=True, slots=True)
class Denial(Entry):
    """A command that was refused."""

    code: str = ""


@dataclass(frozen=True, slots=True)
class Correction:
    """A later word on an event: its command failed, or that *item* of its batch."""

    of: str
    item: int
    error: str


def audit_entry(
    identity: str, entry_id: bytes, pairs: Pairs
) -> tuple[AuditEvent, ...] | Correction:
    """Read an entry of an audit stream: the events of its commands, or a correction."""
    fields = dict(pairs)
    if b"of" in fields:
        item = fields.get(b"item", b"0")
        error = _text(fields.get(b"error", b""))
        return Correction(_text(fields[b"of"]), int(item) if item.isdigit() else 0, error)
    operations = [(0, fields[b"op"], _keys(fields))] if b"op" in fields else _operations(pairs)
    return tuple(
        AuditEvent(
            id=entry_id.decode(),
            time_ms=_time_ms(entry_id),
            identity=identity,
            token=_text(fields.get(b"token", b"")),
            op=_text(op),
            keys=keys,
            correlation=_text(fields.get(b"correlation", b"")),
            policy=_text(fields.get(b"policy", b"")),
            item=item,
        )
        for item, op, keys in operations
    )


def _operations(pairs: Pairs) -> Iterator[tuple[int, bytes, tuple[bytes, ...]]]:
    """The commands of a batch's event: `SET` → a key, `MSET:2` → two netstrings."""
    listed = [(name, value) for name, value in pairs if name not in _OWN_FIELDS]
    for item, (name, value) in enumerate(listed, 1):
        op, colon, _count = name.partition(b":")
        yield item, op, _split(value) if colon else (value,) if value else ()


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
        return _split(fields[b"keys"])
    key = fields.get(b"key", b"")
    return (key,) if key else ()


def _split(data: bytes) -> tuple[bytes, ...]:
    try:
        return split_netstrings(data)
    except ValueError:
        # Not a guard's work. Shown as it is, rather than hidden or in the way of the rest.
        return (data,)


def _time_ms(entry_id: bytes) -> int:
    return int(entry_id.partition(b"-")[0])


def _text(data: bytes) -> str:
    return data.decode("utf-8", "backslashreplace")
