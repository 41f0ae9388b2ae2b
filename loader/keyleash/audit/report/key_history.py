"""The history of each key in a period."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from itertools import chain

from keyleash.audit.entries import ABSENT, LARGE, AuditEvent, BeforeImage, ImageContent
from keyleash.audit.read import Query, read_events, stream_owners
from keyleash.audit.undo.history import KeyState, UndoStep, images_of, steps_of
from keyleash.audit.undo.trust import Trust
from keyleash.audit.undo.values import NOTHING, RecordedImage, Value, read_images, read_keys
from keyleash.store.keyspace import Keyspace
from keyleash.store.records import Client
from keyleash.store.server_check import operator_client


def read_afterwards(
    client: Client, keyspace: Keyspace, lasts: Iterable[UndoStep]
) -> dict[bytes, list[RecordedImage]]:
    """
    For the last step of each of some keys, what the next event on the key found there.

    Ids of two trails do not tell the order within a millisecond, so what other events of that
    millisecond found is among it: the digest is to be compared.
    """
    waiting = {step.key: step for step in lasts}
    found: dict[bytes, list[RecordedImage]] = {key: [] for key in waiting}
    if not waiting:
        return found
    query = Query(
        key=next(iter(waiting)) if len(waiting) == 1 else None,
        since_ms=min(step.time_ms for step in waiting.values()),
    )
    trust = Trust.of(client, keyspace)
    for event in read_events(client, keyspace, stream_owners(client, keyspace), query):
        if waiting.keys().isdisjoint(event.keys) or not trust.is_trusted(event):
            continue
        for key, (step, *_) in steps_of([event]).items():
            last = waiting.get(key)
            if last is None or step.time_ms < last.time_ms or step.event == last.event:
                continue
            if step.before is not None and step.before.content is not None:
                found[key].append((step.identity, step.before.content))
            if step.time_ms > last.time_ms:
                del waiting[key]
        if not waiting:
            break
    return found


MAX_KEYS = 20_000
"""So many keys are followed; of more, the events are only counted."""
MAX_IMAGE_BYTES = 64 * 1024 * 1024
"""Before-images that are held in memory."""


@dataclass(slots=True)
class KeyHistory:
    """
    What events did to one key.

    Attributes:
        events: How many may have changed it; a batch counts once.
        first: The oldest.
        last: The newest, without its before-image.
        is_dropped: Whether the before-image of *first* was left out, to save memory.
    """

    events: int
    first: UndoStep
    last: UndoStep
    is_dropped: bool = False

    @property
    def key(self) -> bytes:
        """The key, as it is recorded."""
        return self.first.key

    @property
    def is_masked(self) -> bool:
        """Whether the key itself is not recorded."""
        return self.first.is_masked and self.last.is_masked


@dataclass(slots=True)
class KeyHistories:
    """
    The lives of keys, from events that come oldest first.

    Attributes:
        further_events: Events that changed keys past the first `MAX_KEYS`.
    """

    by_key: dict[bytes, KeyHistory] = field(default_factory=dict)
    further_events: int = 0
    _held: int = 0

    def add(self, event: AuditEvent) -> None:
        """Take in what *event* changed."""
        for key, steps in steps_of([event]).items():
            history = self.by_key.get(key)
            if history is not None:
                history.events += steps[0].event != history.last.event
                history.last = replace(steps[0], before=None)
            elif len(self.by_key) < MAX_KEYS:
                self.by_key[key] = self._begun(steps[0])
            else:
                self.further_events += 1

    def _begun(self, step: UndoStep) -> KeyHistory:
        held = _held(step)
        size = len(held[1]) if held else 0
        last = replace(step, before=None)
        if self._held + size > MAX_IMAGE_BYTES:
            return KeyHistory(1, last, last, is_dropped=True)
        self._held += size
        return KeyHistory(1, step, last)


@dataclass(frozen=True, slots=True)
class BeforeAndAfter:
    """
    What a key held.

    Attributes:
        before: Before its first event; None if that is not kept or cannot be read.
        after: Behind its last; None if neither the server holds that nor an image.
        now: None if the key is masked.
        is_unchanged: Whether it was left as it is since its last event, or has expired by
            itself; None if that cannot be told.
        is_withheld: Whether *before* was not restored: an agent may have made it up, and the
            server does not validate payloads.
    """

    history: KeyHistory
    before: Value | None
    after: Value | None
    now: Value | None
    is_unchanged: bool | None
    is_withheld: bool = False


def read_before_and_after(
    client: Client, keyspace: Keyspace, histories: Iterable[KeyHistory]
) -> list[BeforeAndAfter]:
    """Read what the keys of *lives* held and hold; of large values the first elements.

    Args:
        client: A redis-py client of an operator.
        keyspace: Where the control keys are.
        lives: Not too many: the server reads each image.
    """
    client = operator_client(client)
    wanted = list(histories)
    known = [history.key for history in wanted if not history.is_masked]
    keys = read_keys(client, keyspace, known)
    seconds, micros = client.time()
    now_ms = int(seconds) * 1000 + int(micros) // 1000
    later = read_afterwards(
        client,
        keyspace,
        (
            history.last
            for history in wanted
            if _is_replaced(history.last.after_state, keys.get(history.key))
        ),
    )
    held = images_of([history.first] for history in wanted)
    images = read_images(client, keyspace, [*held, *chain.from_iterable(later.values())])
    found = []
    for history in wanted:
        now = keys.get(history.key)
        found_next = (images[held] for _, held in later.get(history.key, ()))
        found.append(
            BeforeAndAfter(
                history=history,
                before=_before(history.first.before, images),
                after=_after(history.last.after_state, now, *found_next),
                now=now,
                is_unchanged=_is_unchanged(history.last.after_state, now, now_ms),
                is_withheld=_held(history.first) in images.withheld.images,
            )
        )
    return found


def _held(step: UndoStep) -> ImageContent | None:
    return step.before.content if step.before else None


def _before(image: BeforeImage | None, images: Mapping[ImageContent, Value | None]) -> Value | None:
    if image is None or image.content is None:
        return None if image is None else NOTHING
    value = images[image.content]
    return None if value is None else replace(value, expires_ms=image.expires_ms)


def _is_replaced(after_state: KeyState, now: Value | None) -> bool:
    """Whether the server holds something else than what is known to have been left."""
    return now is not None and after_state.digest not in {None, ABSENT, LARGE, now.digest}


def _after(after_state: KeyState, *values: Value | None) -> Value | None:
    """Whichever of *values* is what was left."""
    if after_state.digest == ABSENT:
        return NOTHING
    for value in values:
        if value is not None and value.digest == after_state.digest and not value.is_large:
            return replace(value, expires_ms=after_state.expires_ms)
    return None


def _is_unchanged(after_state: KeyState, now: Value | None, now_ms: int) -> bool | None:
    return (
        None if now is None else after_state.is_same(KeyState(now.digest, now.expires_ms), now_ms)
    )


_SECOND, _MINUTE, _HOUR, _DAY = 1000, 60_000, 3_600_000, 86_400_000
WIDTHS_MS = (
    *(count * _SECOND for count in (1, 5, 15, 30)),
    *(count * _MINUTE for count in (1, 5, 15, 30)),
    *(count * _HOUR for count in (1, 3, 6, 12)),
    *(count * _DAY for count in (1, 7, 28, 364)),
)
"""Each is a multiple of the one before it, so that pieces can be joined."""
MAX_PIECES = 90
MIN_PIECES = 12


@dataclass(slots=True)
class Timeline:
    """
    Counts by piece of time and by name, of as many entries as come.

    Attributes:
        width_ms: How long a piece is.
        counts: By the number of the piece, which is its begin in *width_ms*, and the name.
    """

    width_ms: int = WIDTHS_MS[0]
    counts: Counter[tuple[int, str]] = field(default_factory=Counter)
    _first: int | None = None
    _last: int = 0

    def add(self, time_ms: int, name: str, count: int = 1) -> None:
        """Count something that happened *count* times."""
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
        """The numbers of all pieces, also of those in which nothing happened."""
        first = self._first or 0
        return range(first, max(self._last + 1, first + MIN_PIECES))
