"""What events did to one key, step by step: each from one state to the next."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace

from keyleash.audit.event import ABSENT, LARGE, AuditEvent, Change, Held, Image
from keyleash.audit.query import MASK
from keyleash.audit.undo.values import NOTHING, Value
from keyleash.audit.undo.withheld import Recorded
from keyleash.commands import CommandSpec, OperationClass, load_table
from keyleash.commands.spec import Needs
from keyleash.policy.model import Counter
from keyleash.protocol.keyspace import OPERATORS

_CHANGING = frozenset({OperationClass.WRITE, OperationClass.DELETE})


@dataclass(frozen=True, slots=True)
class State:
    """
    What a key holds at a moment.

    Attributes:
        digest: As `Change.after`; None if it is not known.
        expires_ms: When it expires, Unix milliseconds; None if never.
    """

    digest: str | None = None
    expires_ms: int | None = None

    def is_same(self, later: State, later_ms: int) -> bool | None:
        """Whether nobody changed it up to *later*; None if that cannot be told.

        A key that expired by itself was not changed.
        """
        unknown = {None, LARGE}
        if self.digest in unknown or later.digest in unknown:
            return None
        if later.digest == ABSENT:
            has_expired = self.expires_ms is not None and self.expires_ms <= later_ms
            return self.digest == ABSENT or has_expired
        return self == later


@dataclass(frozen=True, slots=True)
class Step:
    """
    What one event did to one key; a batch's commands are one step.

    Attributes:
        ops: The commands of the event that named the key.
        before: What the key held; None if that is not recorded.
        large: So many bytes, if it was too large to be kept; else 0.
        was: Digest and expiry of *before*, once a server has read it.
        became: Digest and expiry of what the event left.
        actor: Of an undo: who did it; else empty.
    """

    identity: str
    id: str
    time_ms: int
    token: str
    ops: tuple[str, ...]
    correlation: str
    key: bytes
    before: Image | None = None
    large: int = 0
    was: State = State()
    became: State = State()
    actor: str = ""

    @property
    def event(self) -> str:
        """The event's id with its trail's name: `<identity>/<id>`."""
        return f"{self.identity}/{self.id}"

    @property
    def is_masked(self) -> bool:
        """Whether the key is recorded as a prefix and a digest, so that it is not known."""
        return self.before is None and not self.large and bool(MASK.search(self.key))

    @property
    def changed_nothing(self) -> bool:
        """Whether the key held the same afterwards, as far as is known."""
        return self.was.digest not in {None, LARGE} and self.was == self.became


def steps_of(events: Iterable[AuditEvent]) -> dict[bytes, list[Step]]:
    """What *events* did, by key; a key that none of them may have changed is left out."""
    found: dict[bytes, dict[tuple[str, str], Step]] = defaultdict(dict)
    for event in events:
        changes = {change.key: change for change in event.changes}
        for key in _changed_keys(event, changes):
            step = _step(event, key, changes.get(key))
            same = found[key].get((event.identity, event.id))
            found[key][event.identity, event.id] = (
                step if same is None else replace(same, ops=_joined(same.ops, step.ops))
            )
    return {key: list(steps.values()) for key, steps in found.items()}


def steps_on(keys: Iterable[bytes], events: Iterable[AuditEvent]) -> dict[bytes, list[Step]]:
    """The steps on each of *keys*, also those that are recorded under a mask."""
    found: dict[bytes, list[Step]] = {key: [] for key in keys}
    key_of = unmasked(found)
    concerned = (one for one in events if any(key_of(key) is not None for key in one.keys))
    for recorded, steps in steps_of(concerned).items():
        key = key_of(recorded)
        if key is not None:
            found[key] += steps
    return found


def unmasked(keys: Iterable[bytes]) -> Callable[[bytes], bytes | None]:
    """Make a function from a key, as it is recorded, to the one of *keys* that it is."""
    by_mask = {_sha1(key): key for key in keys}
    known = frozenset(by_mask.values())

    def key_of(recorded: bytes) -> bytes | None:
        key = by_mask.get(recorded[-40:], recorded) if MASK.search(recorded) else recorded
        is_known = key in known and (key == recorded or key.startswith(recorded[:-41]))
        return key if is_known else None

    return key_of


def changed_keys(event: AuditEvent) -> list[bytes]:
    """The keys that *event* may have changed, as they are recorded."""
    return list(_changed_keys(event, {change.key: change for change in event.changes}))


def images_of(many: Iterable[Iterable[Step]]) -> Iterator[Recorded]:
    """The before-images of all these steps, each with the identity in whose stream it is."""
    for steps in many:
        for step in steps:
            if step.before is not None and step.before.held is not None:
                yield step.identity, step.before.held


def read_back(steps: Iterable[Step], images: Mapping[Held, Value | None]) -> list[Step]:
    """*steps* with what their before-images hold, given that of each."""
    return [replace(step, was=_held(step.before, images)) for step in steps]


def _held(image: Image | None, images: Mapping[Held, Value | None]) -> State:
    if image is None:
        return State()
    value = images[image.held] if image.held is not None else NOTHING
    return State(value.digest if value else None, image.expires_ms)


def _sha1(key: bytes) -> bytes:
    return hashlib.sha1(key, usedforsecurity=False).hexdigest().encode()


def _joined(ops: tuple[str, ...], more: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(dict.fromkeys((*ops, *more)))


def _step(event: AuditEvent, key: bytes, change: Change | None) -> Step:
    return Step(
        identity=event.identity,
        id=event.id,
        time_ms=event.time_ms,
        token=event.token,
        ops=(event.op,),
        correlation=event.correlation,
        key=key,
        before=change.before if change else None,
        large=change.large if change else 0,
        became=State(change.after, change.after_expires_ms) if change else State(),
        actor=event.actor,
    )


def _changed_keys(event: AuditEvent, changes: Mapping[bytes, Change]) -> Iterator[bytes]:
    spec = load_table().get(event.op)
    for place, key in enumerate(event.keys):
        if key in changes:
            yield key
        elif event.error is None and _may_change(event, spec, place):
            # A command that failed changed nothing.
            yield key


def _may_change(event: AuditEvent, spec: CommandSpec | None, place: int) -> bool:
    """Whether the command changes the key in that place; if no image tells that it did."""
    if spec is None:
        reads_only = event.cost.keys() <= {Counter.REQUESTS, Counter.READS}
        return event.identity == OPERATORS or not (event.cost and reads_only)
    if not spec.mutates or spec.channel is not None:
        return False
    return not _CHANGING.isdisjoint(_needs(spec, place)) or not spec.keys


def _needs(spec: CommandSpec, place: int) -> Needs:
    # Of two searches the first finds one key.
    return spec.keys[min(place, len(spec.keys) - 1)].needs if spec.keys else ()
