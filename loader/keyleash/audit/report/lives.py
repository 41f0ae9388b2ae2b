"""What became of keys in some time: what they held before it, behind it, and now."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from itertools import chain

from keyleash.audit.event import ABSENT, LARGE, AuditEvent, Held, Image
from keyleash.audit.report.afterwards import read_afterwards
from keyleash.audit.undo.steps import State, Step, images_of, steps_of
from keyleash.audit.undo.values import NOTHING, Value, read_images, read_keys
from keyleash.protocol.active import Client
from keyleash.protocol.keyspace import Keyspace
from keyleash.protocol.operator_client import operator_client

MAX_KEYS = 20_000
"""So many keys are followed; of more, the events are only counted."""
MAX_IMAGE_BYTES = 64 * 1024 * 1024
"""Before-images that are held in memory."""


@dataclass(slots=True)
class KeyLife:
    """
    What events did to one key.

    Attributes:
        events: How many may have changed it; a batch counts once.
        first: The oldest.
        last: The newest, without its before-image.
        is_dropped: Whether the before-image of *first* was left out, to save memory.
    """

    events: int
    first: Step
    last: Step
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
class Lives:
    """
    The lives of keys, from events that come oldest first.

    Attributes:
        further_events: Events that changed keys past the first `MAX_KEYS`.
    """

    by_key: dict[bytes, KeyLife] = field(default_factory=dict)
    further_events: int = 0
    _held: int = 0

    def add(self, event: AuditEvent) -> None:
        """Take in what *event* changed."""
        for key, steps in steps_of([event]).items():
            life = self.by_key.get(key)
            if life is not None:
                life.events += steps[0].event != life.last.event
                life.last = replace(steps[0], before=None)
            elif len(self.by_key) < MAX_KEYS:
                self.by_key[key] = self._begun(steps[0])
            else:
                self.further_events += 1

    def _begun(self, step: Step) -> KeyLife:
        held = _held(step)
        size = len(held[1]) if held else 0
        last = replace(step, before=None)
        if self._held + size > MAX_IMAGE_BYTES:
            return KeyLife(1, last, last, is_dropped=True)
        self._held += size
        return KeyLife(1, step, last)


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

    life: KeyLife
    before: Value | None
    after: Value | None
    now: Value | None
    is_unchanged: bool | None
    is_withheld: bool = False


def read_lives(
    client: Client, keyspace: Keyspace, lives: Iterable[KeyLife]
) -> list[BeforeAndAfter]:
    """Read what the keys of *lives* held and hold; of large values the first elements.

    Args:
        client: A redis-py client of an operator.
        keyspace: Where the control keys are.
        lives: Not too many: the server reads each image.
    """
    client = operator_client(client)
    wanted = list(lives)
    known = [life.key for life in wanted if not life.is_masked]
    keys = read_keys(client, keyspace, known)
    seconds, micros = client.time()
    now_ms = int(seconds) * 1000 + int(micros) // 1000
    later = read_afterwards(
        client,
        keyspace,
        (life.last for life in wanted if _is_replaced(life.last.became, keys.get(life.key))),
    )
    held = images_of([life.first] for life in wanted)
    images = read_images(client, keyspace, [*held, *chain.from_iterable(later.values())])
    found = []
    for life in wanted:
        now = keys.get(life.key)
        found_next = (images[held] for _, held in later.get(life.key, ()))
        found.append(
            BeforeAndAfter(
                life=life,
                before=_before(life.first.before, images),
                after=_after(life.last.became, now, *found_next),
                now=now,
                is_unchanged=_is_unchanged(life.last.became, now, now_ms),
                is_withheld=_held(life.first) in images.withheld.images,
            )
        )
    return found


def _held(step: Step) -> Held | None:
    return step.before.held if step.before else None


def _before(image: Image | None, images: Mapping[Held, Value | None]) -> Value | None:
    if image is None or image.held is None:
        return None if image is None else NOTHING
    value = images[image.held]
    return None if value is None else replace(value, expires_ms=image.expires_ms)


def _is_replaced(became: State, now: Value | None) -> bool:
    """Whether the server holds something else than what is known to have been left."""
    return now is not None and became.digest not in {None, ABSENT, LARGE, now.digest}


def _after(became: State, *values: Value | None) -> Value | None:
    """Whichever of *values* is what was left."""
    if became.digest == ABSENT:
        return NOTHING
    for value in values:
        if value is not None and value.digest == became.digest and not value.is_large:
            return replace(value, expires_ms=became.expires_ms)
    return None


def _is_unchanged(became: State, now: Value | None, now_ms: int) -> bool | None:
    return None if now is None else became.is_same(State(now.digest, now.expires_ms), now_ms)
