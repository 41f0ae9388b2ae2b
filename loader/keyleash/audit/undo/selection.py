"""Select the events to undo, and the later changes of their keys by others."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from keyleash.audit.entries import AuditEvent
from keyleash.audit.lookup import SEE_IDS, find_event
from keyleash.audit.read import Query, key_test, read_events
from keyleash.audit.streams import stream_names, stream_owners
from keyleash.audit.undo.history import UndoStep, event_name, images_of, read_back, steps_on
from keyleash.audit.undo.key_values import read_images
from keyleash.errors import NothingToUndoError, OperationError, UndoTooLargeError
from keyleash.policy.patterns import exactly
from keyleash.policy.patterns import match as matches
from keyleash.store.store import Store
from keyleash.text import iso_time, printable, without_tokens

MAX_SELECTED_BYTES = 256 * 1024 * 1024
"""Size of the before-images of a plan at most; they are held in memory."""


def describe(query: Query, events: Sequence[str], identity: str | None) -> str:
    """Return the selection of events as options of `keyleash undo`, for the audit log."""
    parts = [f"--event {event}" for event in events]
    for option, value in (
        ("--correlation", query.correlation),
        ("--identity", identity),
        ("--key", query.pattern and query.pattern.source),
        ("--since", None if query.since_ms is None else iso_time(query.since_ms)),
        ("--until", None if query.until_ms is None else iso_time(query.until_ms)),
    ):
        if value is not None:
            parts.append(f"{option} {value}")
    # Agents choose correlation ids, so one may be a token.
    return without_tokens(" ".join(parts))


def concerns(query: Query, key: bytes) -> bool:
    """Return whether a change of *key* by a selected event is to be undone."""
    if query.pattern is None or query.key is not None:
        return may_concern(query, key)
    return matches(query.pattern, key) is not None


def may_concern(query: Query, key: bytes) -> bool:
    """Return the same, but true also for a masked key whose name cannot be compared."""
    return query.pattern is None or bool(key_test(query.pattern)(key))


def select_events(
    store: Store, query: Query, *, events: Sequence[str], identity: str | None
) -> list[AuditEvent]:
    """Return the events that `plan_undo` selects; every command of a batch."""
    names = stream_owners(store) if identity is None else stream_names(store, [identity])
    if events:
        selected = _named(store, names, events)
    else:
        selected = read_events(store, names, query, newest_first=True)
    found = []
    size = 0
    for event in selected:
        found.append(event)
        images = (change.before.content for change in event.changes if change.before)
        size += sum(len(image[1]) for image in images if image)
        if size > MAX_SELECTED_BYTES:
            raise UndoTooLargeError(
                f"the events have more than {MAX_SELECTED_BYTES >> 20} MiB of before-images",
                help="undo fewer events at a time, the newest first",
            )
    if not found:
        raise NothingToUndoError("no recorded event matches", help=SEE_IDS)
    return found


def _named(store: Store, names: Sequence[str], events: Sequence[str]) -> Iterator[AuditEvent]:
    chosen = {}
    for given in events:
        for event in find_event(store, names, given):
            if not isinstance(event, AuditEvent):
                raise OperationError("unknown-event", f"`{given}` changed no key", help=SEE_IDS)
            chosen[event_name(event), event.item] = event
    yield from chosen.values()


def read_drops(store: Store, since_ms: int) -> list[AuditEvent]:
    """Return the events since a time that deleted documents with their index."""
    query = Query(op="FT.DROPINDEX", since_ms=since_ms)
    return [event for event in read_events(store, stream_owners(store), query) if event.documents]


def dropped_index(event: AuditEvent) -> str:
    """Return the index that such an event dropped, with the event."""
    name = printable(event.keys[0] if event.keys else b"")
    return f"the index `{name}` by FT.DROPINDEX DD, event {event_name(event)}"


def read_others(
    store: Store, undone: Mapping[bytes, Sequence[UndoStep]]
) -> dict[bytes, list[UndoStep]]:
    """Return the other changes of these keys since the oldest step."""
    since_ms = min(step.time_ms for steps in undone.values() for step in steps)
    ours = {step.event for steps in undone.values() for step in steps}
    only = exactly(next(iter(undone))) if len(undone) == 1 else None
    events = read_events(store, stream_owners(store), Query(pattern=only, since_ms=since_ms))
    theirs = (event for event in events if event_name(event) not in ours)
    steps = steps_on(undone, theirs)
    images = read_images(store, images_of(steps.values()))
    return {
        key: [step for step in read_back(some, images) if not step.changed_nothing]
        for key, some in steps.items()
    }
