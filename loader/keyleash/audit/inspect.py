"""Look up one event with its before-images, or the history of one key."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from itertools import chain, islice
from typing import Annotated, Any, Unpack

from redis.exceptions import ResponseError

from keyleash.audit.entries import ABSENT, LARGE, AuditEvent, BeforeImage, Denial, KeyChange
from keyleash.audit.entry_text import folded_text, reason_of_denial, short_value
from keyleash.audit.lookup import Entry, find_event
from keyleash.audit.operator_actions import ControlEvent
from keyleash.audit.read import Query, read_denials, read_events
from keyleash.audit.selection import ReadTimes, query_of, reachable
from keyleash.audit.streams import merged, stream_names
from keyleash.audit.undo.key_values import Images, read_images
from keyleash.operations import operation
from keyleash.operations.types import Count, Param
from keyleash.policy.patterns import exactly
from keyleash.results import Result
from keyleash.store.agent_keys import key_exists
from keyleash.store.store import Store
from keyleash.text import counted, iso_time, printable, unescaped, without_tokens


@dataclass(frozen=True, slots=True)
class EventDetails(Result):
    """All that is recorded about an event.

    Attributes:
        entries: One entry; for a batch, each of its commands.
        values: The values of before-images; None if they were not asked for, or this user may not
            read them.
    """

    entries: tuple[Entry, ...]
    values: Images | None = field(default=None, repr=False)

    def rows(self) -> Iterator[dict[str, Any]]:
        """Yield each entry as a line of `audit show --json`, with before-images."""
        for entry in self.entries:
            if isinstance(entry, AuditEvent):
                yield entry.to_dict(images=True)
            else:
                yield entry.to_dict()

    def __str__(self) -> str:
        """Return name and value of all that is recorded, one a line."""
        lines = [*_head(self.entries[0])]
        for entry in self.entries:
            lines += _body(entry, self.values)
        width = max(len(name) for name, _ in lines)
        return "\n".join(f"{name:<{width}}  {value}".rstrip() for name, value in lines)

    def to_dict(self) -> dict[str, Any]:
        """Return the `rows` as one object."""
        return {"entries": [*self.rows()]}


@operation("audit show")
def read_details(store: Store, event: str, *, values: bool = False) -> EventDetails:
    """Return all that is recorded about one event, denial or operator action.

    Args:
        event: Its id, or `<identity>/<id>` if several streams have that id.
        values: Also read the values of before-images.

    Raises:
        OperationError (unknown-event): there is no such event.
        OperationError (ambiguous-event): several streams have an event of that id.
    """
    entries = tuple(find_event(store, stream_names(store), event))
    return EventDetails(entries, _values(store, entries) if values else None)


def _values(store: Store, entries: tuple[Entry, ...]) -> Images | None:
    events = (entry for entry in entries if isinstance(entry, AuditEvent))
    before = (change.before for event in events for change in event.changes)
    images = [image.content for image in before if image and image.content]
    try:
        return read_images(store, images) if images else None
    except ResponseError:
        return None


Line = tuple[str, str]


def _head(entry: Entry) -> Iterator[Line]:
    """Yield the lines that all commands of a batch share."""
    yield "event", entry.id
    yield "time", iso_time(entry.time_ms)
    if isinstance(entry, ControlEvent):
        return
    number = f", number {entry.seq}" if entry.seq else ""
    yield "identity", f"{entry.identity}{number}"
    if entry.shard:
        yield "shard", entry.shard
    if isinstance(entry, AuditEvent) and entry.actor:
        yield "actor", printable(entry.actor)
    yield "token", printable(entry.token)
    if entry.chain:
        yield "child of", printable(" of ".join(reversed(entry.chain)))
    yield "correlation", printable(entry.correlation)
    if entry.source:
        yield "source", printable(entry.source)
    yield "policy", printable(entry.policy)
    if isinstance(entry, AuditEvent) and entry.cost:
        costs = (counted(count, counter[:-1]) for counter, count in entry.cost.items())
        yield "cost", ", ".join(costs)


def _body(entry: Entry, values: Images | None) -> Iterator[Line]:
    if isinstance(entry, ControlEvent):
        yield "done", printable(entry.event)
        yield "actor", printable(entry.actor)
        for name, value in entry.details.items():
            yield printable(name), printable(value)
        return
    place = f"{entry.item}. " if isinstance(entry, AuditEvent) and entry.item else ""
    yield "operation", place + without_tokens(printable(entry.op))
    for key in entry.keys:
        yield "key", printable(key)
    if isinstance(entry, Denial):
        yield from _denial(entry)
        return
    for argument in entry.args or ():
        yield "argument", printable(argument)
    if entry.documents is not None:
        yield "documents", f"{entry.documents} deleted"
    if entry.args_sha1 is not None:
        yield "arguments", f"SHA-1 {entry.args_sha1}"
    if entry.lengths is not None:
        yield "arguments", ", ".join(counted(length, "byte") for length in entry.lengths)
    yield from [("script", printable(entry.script))] if entry.script else []
    yield "result", "ok" if entry.error is None else printable(entry.error)
    for change in entry.changes:
        name = printable(change.key)
        yield "before", f"{name}: {_before(change.before, change.large, values)}"
        yield "after", f"{name}: {_after(change)}"


def _denial(entry: Denial) -> Iterator[Line]:
    yield "denied", printable(entry.code)
    if reason := reason_of_denial(entry):
        yield "because", reason.sentence
        yield "help", reason.operator
    if entry.reason:
        yield "reason", printable(entry.reason)
    if entry.until_ms is None:
        yield "times", f"{entry.repeats}{folded_text(entry, ', also of other {}')}"
    else:
        yield "suspended", f"itself, until {iso_time(entry.until_ms)}"


def _before(before: BeforeImage | None, large: int, values: Images | None) -> str:
    if before is None:
        return f"not reversible: too large, {counted(large, 'byte')}"
    if before.content is None:
        return "absent"
    value = values.get(before.content) if values else None
    kind, data = before.content
    form = "in the format of DUMP" if kind == "image" else "of text"
    shown = short_value(value, 0) if value else f"{counted(len(data), 'byte')} {form}"
    return f"{shown}{_expiry(before.expires_ms)}"


def _after(change: KeyChange) -> str:
    if change.after is None:
        return "not known"
    if change.after == LARGE:
        return "too large to be compared"
    shown = change.after if change.after == ABSENT else f"SHA-1 {change.after} of the value"
    return f"{shown}{_expiry(change.after_expires_ms)}"


def _expiry(expires_ms: int | None) -> str:
    return "" if expires_ms is None else f", expires {iso_time(expires_ms)}"


@dataclass(frozen=True, slots=True)
class Timeline(Result):
    """The history of a key.

    Attributes:
        entries: The events and the denials that concern it, oldest first.
        is_more: Whether there are older entries, past the limit.
    """

    key: bytes
    entries: tuple[AuditEvent | Denial, ...]
    is_more: bool = False

    def rows(self) -> Iterator[dict[str, Any]]:
        """Yield each line of `audit timeline --json`."""
        yield from (entry.to_dict() for entry in self.entries)


Newest = Annotated[Count, Param(help="Maximum number of entries, the newest.  [default: all]")]


@operation("audit timeline")
def read_timeline(
    store: Store, key: str | bytes, *, limit: Newest | None = None, **filters: Unpack[ReadTimes]
) -> Timeline:
    """Return the events and denials that concern *key*, oldest first.

    Args:
        key: The key; text may also be escaped as in the output of `keyleash`.
        limit: The maximum number of entries, the newest; all if None.

    Other filters are those of `events`.
    """
    query = query_of(store, filters)
    store = reachable(store, filters)
    raw = resolve_key(store, key)
    of_key = replace(query, pattern=exactly(raw))
    names = stream_names(store)
    backwards = limit is not None
    streams: list[Iterator[Any]] = [
        read_events(store, names, of_key, newest_first=backwards),
        read_denials(store, names, of_key, newest_first=backwards),
    ]
    found = merged(streams, newest_first=backwards)
    entries = list(islice(found, limit))
    is_more = next(found, None) is not None
    return Timeline(raw, tuple(entries[::-1] if backwards else entries), is_more)


def resolve_key(store: Store, given: str | bytes) -> bytes:
    """Return a key: bytes and text as given or, if that text is no known key, unescaped.

    So a key may be given as `printable` shows it.
    """
    if isinstance(given, bytes):
        return given
    raw = given.encode("utf-8", "surrogateescape")
    escaped = unescaped(raw)
    if escaped == raw or key_exists(store, raw):
        return raw
    where = (store, stream_names(store), Query(pattern=exactly(raw)))
    is_recorded = any(True for _ in chain(read_events(*where), read_denials(*where)))
    return raw if is_recorded else escaped
