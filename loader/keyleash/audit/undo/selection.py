"""Select the events to undo, and the later changes of their keys by others."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from keyleash.audit.entries import AuditEvent
from keyleash.audit.lookup import find_event
from keyleash.audit.read import Query, key_test, read_events
from keyleash.audit.streams import stream_owners
from keyleash.audit.undo.history import UndoStep, event_name, images_of, read_back, steps_on
from keyleash.audit.undo.trust import Grants, Trust, nothing_trusted
from keyleash.audit.undo.values import read_images
from keyleash.errors import NothingToUndoError, OperationError, UndoTooLargeError
from keyleash.policy.model import Literal, Pattern
from keyleash.policy.patterns import match as matches
from keyleash.policy.problems import which_identity
from keyleash.store.store import Store
from keyleash.text import iso_time, without_tokens

MAX_SELECTED_BYTES = 256 * 1024 * 1024
"""Size of the before-images of a plan at most; they are held in memory."""
_SEE = "see `keyleash audit log` for the ids of events"


@dataclass(frozen=True, slots=True)
class UndoSelection:
    """The events to undo: some by id, or all that match every other attribute.

    Attributes:
        events: Ids of events, as for `find_event`.
        correlation: The correlation id.
        identity: The identity.
        pattern: Only changes of keys that match it.
        since_ms: Server time, Unix milliseconds, this millisecond included.
        until_ms: Likewise. Later changes of the same keys are conflicts.
    """

    events: tuple[str, ...] = ()
    correlation: str | None = None
    identity: str | None = None
    pattern: Pattern | None = None
    since_ms: int | None = None
    until_ms: int | None = None

    @property
    def description(self) -> str:
        """Return the selection as options of `keyleash undo`, for the audit log."""
        parts = [f"--event {event}" for event in self.events]
        for option, value in (
            ("--correlation", self.correlation),
            ("--identity", self.identity),
            ("--key", self.pattern.source if self.pattern else None),
            ("--since", None if self.since_ms is None else iso_time(self.since_ms)),
            ("--until", None if self.until_ms is None else iso_time(self.until_ms)),
        ):
            if value is not None:
                parts.append(f"{option} {value}")
        # Agents choose correlation ids, so one may be a token.
        return without_tokens(" ".join(parts))

    @property
    def keys(self) -> tuple[bytes, ...]:
        """Return the key that is selected by name, if any."""
        match self.pattern:
            case Pattern(parts=(Literal(text),)):
                return (text,)
        return ()

    def concerns(self, key: bytes) -> bool:
        """Return whether a change of *key* by a selected event is to be undone."""
        if self.pattern is None or self.keys:
            return self.may_concern(key)
        return matches(self.pattern, key) is not None

    def may_concern(self, key: bytes) -> bool:
        """Return the same, but true also for a masked key whose name cannot be compared."""
        return self.pattern is None or bool(key_test(self.pattern)(key))


def select_events(store: Store, selection: UndoSelection, trust: Trust) -> list[AuditEvent]:
    """Return the trusted events of *selection*; every command of a batch.

    Raises:
        OperationError (unknown-event): there is no such event.
        OperationError (ambiguous-event): several identities have an event of that id.
        OperationError (unknown-identity): no identity ever had that name.
        NothingToUndoError: no recorded event is selected.
        UndoTooLargeError: their before-images are too large for a plan.
    """
    names = stream_owners(store)
    if selection.identity is not None:
        if selection.identity not in names:
            raise OperationError(
                "unknown-identity",
                f"there is no identity `{selection.identity}`",
                help=which_identity(selection.identity, names[:-1], "there are"),
            )
        names = [selection.identity]
    found = []
    size = 0
    for event in filter(trust.is_trusted, _events(store, names, selection)):
        found.append(event)
        images = (change.before.content for change in event.changes if change.before)
        size += sum(len(image[1]) for image in images if image)
        if size > MAX_SELECTED_BYTES:
            raise UndoTooLargeError(
                f"the events have more than {MAX_SELECTED_BYTES >> 20} MiB of before-images",
                help="undo fewer events at a time, the newest first",
            )
    if not found and trust.untrusted.total():
        raise nothing_trusted(trust.untrusted)
    if not found:
        raise NothingToUndoError("no recorded event matches", help=_SEE)
    return found


def _events(store: Store, names: Sequence[str], selection: UndoSelection) -> Iterator[AuditEvent]:
    if selection.events:
        chosen = {}
        for given in selection.events:
            for event in find_event(store, names, given):
                if not isinstance(event, AuditEvent):
                    raise OperationError("unknown-event", f"`{given}` changed no key", help=_SEE)
                chosen[event_name(event), event.item] = event
        yield from chosen.values()
        return
    query = Query(
        correlation=selection.correlation,
        pattern=selection.pattern,
        since_ms=selection.since_ms,
        until_ms=selection.until_ms,
    )
    yield from read_events(store, names, query, newest_first=True)


def read_others(
    store: Store, undone: Mapping[bytes, Sequence[UndoStep]], grants: Grants
) -> dict[bytes, list[UndoStep]]:
    """Return the other trusted changes of these keys since the oldest step."""
    since_ms = min(step.time_ms for steps in undone.values() for step in steps)
    ours = {step.event for steps in undone.values() for step in steps}
    only = next(iter(undone)) if len(undone) == 1 else None
    events = read_events(store, stream_owners(store), Query(key=only, since_ms=since_ms))
    theirs = (event for event in events if event_name(event) not in ours)
    steps = steps_on(undone, filter(Trust(grants, undone).is_trusted, theirs))
    images = read_images(store, images_of(steps.values()))
    return {
        key: [step for step in read_back(some, images) if not step.changed_nothing]
        for key, some in steps.items()
    }
