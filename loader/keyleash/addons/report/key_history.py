"""The history of each key in a time range, and counts over time."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from itertools import chain

from keyleash.audit.entries import ABSENT, LARGE, AuditEvent, ImageContent
from keyleash.audit.read import Query, read_events
from keyleash.audit.streams import stream_owners
from keyleash.audit.undo.history import UndoStep, images_of, steps_of
from keyleash.audit.undo.key_values import NOTHING, KeyState, Value, read_images, read_keys
from keyleash.policy.patterns import exactly
from keyleash.store.store import Store

MAX_KEYS = 20_000
"""Number of keys with a history; events of further keys are only counted."""
MAX_IMAGE_BYTES = 64 * 1024 * 1024
"""Size of the before-images in memory at most."""


@dataclass(slots=True)
class KeyHistory:
    """The changes of one key in a time range.

    Attributes:
        events: Number of events that may have changed it; a batch counts once.
        first: The oldest step.
        last: The newest step, without its before-image.
        is_dropped: Whether the before-image of *first* was dropped to save memory.
    """

    events: int
    first: UndoStep
    last: UndoStep
    is_dropped: bool = False

    @property
    def key(self) -> bytes:
        return self.first.key

    @property
    def is_masked(self) -> bool:
        """Return whether the key name is not recorded."""
        return self.first.is_masked and self.last.is_masked


@dataclass(slots=True)
class KeyHistories:
    """The histories of keys, from events in order of time.

    Attributes:
        further_events: Events that changed keys past the first `MAX_KEYS`.
    """

    by_key: dict[bytes, KeyHistory] = field(default_factory=dict)
    further_events: int = 0
    _image_bytes: int = 0

    def add(self, event: AuditEvent) -> None:
        for key, (step,) in steps_of([event]).items():
            history = self.by_key.get(key)
            last = replace(step, before=None)
            if history is not None:
                history.events += step.event != history.last.event
                history.last = last
            elif len(self.by_key) < MAX_KEYS:
                content = _content(step)
                size = len(content[1]) if content else 0
                is_dropped = self._image_bytes + size > MAX_IMAGE_BYTES
                self._image_bytes += 0 if is_dropped else size
                self.by_key[key] = KeyHistory(1, last if is_dropped else step, last, is_dropped)
            else:
                self.further_events += 1


@dataclass(frozen=True, slots=True)
class BeforeAndAfter:
    """The values of a key before and after a time range, and now.

    Attributes:
        before: The value before its first event; None if not recorded or not readable.
        after: The value after its last event; None if it is stored nowhere.
        now: The present value; None if the key is masked.
        is_unchanged: Whether it is unchanged since its last event, or expired; None if unknown.
    """

    history: KeyHistory
    before: Value | None
    after: Value | None
    now: Value | None
    is_unchanged: bool | None


def read_before_and_after(store: Store, histories: Iterable[KeyHistory]) -> list[BeforeAndAfter]:
    """Read the values of the keys of *histories*; of large values, the first elements.

    The server reads each before-image, so *histories* should be few.
    """
    wanted = list(histories)
    known = [history.key for history in wanted if not history.is_masked]
    keys = read_keys(store, known)
    now_ms = store.now_ms()
    replaced = {
        history.key: history.last
        for history in wanted
        if _is_replaced(history.last.after_state, keys.get(history.key))
    }
    later = _read_next_images(store, replaced)
    recorded = images_of([history.first] for history in wanted)
    images = read_images(store, [*recorded, *chain.from_iterable(later.values())])
    found = []
    for history in wanted:
        now, last = keys.get(history.key), history.last.after_state
        next_values = (images[content] for content in later.get(history.key, ()))
        found.append(
            BeforeAndAfter(
                history=history,
                before=images.restored(history.first.before),
                after=_after(last, now, *next_values),
                now=now,
                is_unchanged=last.is_same(now.state, now_ms) if now else None,
            )
        )
    return found


def _read_next_images(
    store: Store, waiting: dict[bytes, UndoStep]
) -> dict[bytes, list[ImageContent]]:
    """Return by key the before-images of the next event after each step of *waiting*.

    Two streams have no order within a millisecond, so the result may include before-images of
    other events of that millisecond: compare the digest.
    """
    found: dict[bytes, list[ImageContent]] = {key: [] for key in waiting}
    if not waiting:
        return found
    query = Query(
        pattern=exactly(next(iter(waiting))) if len(waiting) == 1 else None,
        since_ms=min(step.time_ms for step in waiting.values()),
    )
    for event in read_events(store, stream_owners(store), query):
        if waiting.keys().isdisjoint(event.keys):
            continue
        for key, (step, *_) in steps_of([event]).items():
            last = waiting.get(key)
            if last is None or step.time_ms < last.time_ms or step.event == last.event:
                continue
            if step.before is not None and step.before.content is not None:
                found[key].append(step.before.content)
            if step.time_ms > last.time_ms:
                del waiting[key]
        if not waiting:
            break
    return found


def _content(step: UndoStep) -> ImageContent | None:
    return step.before.content if step.before else None


def _is_replaced(after_state: KeyState, now: Value | None) -> bool:
    """Return whether the present value differs from the known state after the last event."""
    return now is not None and after_state.digest not in {None, ABSENT, LARGE, now.digest}


def _after(after_state: KeyState, *values: Value | None) -> Value | None:
    """Return the first of *values* with the digest of *after_state*."""
    if after_state.digest == ABSENT:
        return NOTHING
    for value in values:
        if value is not None and value.digest == after_state.digest and not value.is_large:
            return replace(value, expires_ms=after_state.expires_ms)
    return None


_SECOND, _MINUTE, _HOUR, _DAY = 1000, 60_000, 3_600_000, 86_400_000
WIDTHS_MS = (
    *(count * _SECOND for count in (1, 5, 15, 30)),
    *(count * _MINUTE for count in (1, 5, 15, 30)),
    *(count * _HOUR for count in (1, 3, 6, 12)),
    *(count * _DAY for count in (1, 7, 28, 364)),
)
"""Each is a multiple of the one before it, so that columns can be joined."""
MAX_PIECES = 90
MIN_PIECES = 12


@dataclass(slots=True)
class Timeline:
    """Counts by column of time and identity; columns widen as the time range grows.

    Attributes:
        width_ms: Duration of a column.
        counts: By number of the column, its start divided by *width_ms*, and identity.
    """

    width_ms: int = WIDTHS_MS[0]
    counts: Counter[tuple[int, str]] = field(default_factory=Counter)
    _first: int | None = None
    _last: int = 0

    def add(self, time_ms: int, name: str, count: int = 1) -> None:
        piece = time_ms // self.width_ms
        self._first = piece if self._first is None else min(self._first, piece)
        self._last = max(self._last, piece)
        self.counts[piece, name] += count
        while self._last - self._first >= MAX_PIECES and self.width_ms < WIDTHS_MS[-1]:
            self._widen()

    def _widen(self) -> None:
        wider_ms = next(width_ms for width_ms in WIDTHS_MS if width_ms > self.width_ms)
        factor = wider_ms // self.width_ms
        joined: Counter[tuple[int, str]] = Counter()
        for (piece, name), count in self.counts.items():
            joined[piece // factor, name] += count
        self.counts, self.width_ms = joined, wider_ms
        self._first, self._last = (self._first or 0) // factor, self._last // factor

    @property
    def pieces(self) -> range:
        """Return the numbers of all columns, including empty ones."""
        first = self._first or 0
        return range(first, max(self._last + 1, first + MIN_PIECES))
