"""The recorded changes of each key, and their order."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from functools import cache
from itertools import groupby
from math import prod
from typing import Any

from keyleash.audit.entries import LARGE, AuditEvent, BeforeImage, ImageContent, KeyChange
from keyleash.audit.read import MASK, mask_of
from keyleash.audit.undo.key_values import Images, KeyState
from keyleash.commands import CommandSpec, OperationClass, known_table
from keyleash.commands.facts import INDEXES
from keyleash.limits import Counter
from keyleash.store.keyspace import OPERATORS
from keyleash.store.streams import owner_name
from keyleash.text import clock_time, json_object, printable, without_tokens

CHANGES = frozenset({OperationClass.WRITE, OperationClass.DELETE})
MAX_ORDERS = 5000
"""States that are compared to order the steps of one millisecond; with more, ids decide."""


UNKNOWN = KeyState()


@dataclass(frozen=True, slots=True)
class UndoStep:
    """The change of one key by one event; the commands of a batch are one step.

    Attributes:
        ops: The commands of the event that name the key.
        before: The before-image; None if it is not recorded.
        large: The value's size in bytes, if it was too large for a before-image; else 0.
        before_state: State of *before*, once a server has read it.
        after_state: State after the event.
        actor: For an undo, its operator; else empty.
        shard: On a cluster, the tag of the shard that recorded it; on one server empty.
    """

    identity: str
    id: str
    time_ms: int
    token: str
    ops: tuple[str, ...]
    correlation: str
    key: bytes
    before: BeforeImage | None = None
    large: int = 0
    before_state: KeyState = UNKNOWN
    after_state: KeyState = UNKNOWN
    actor: str = ""
    shard: str = ""

    @property
    def event(self) -> str:
        """Return the event's id with its stream: `<identity>/<id>`, `<identity>@<shard>/<id>`."""
        return event_name(self)

    @property
    def is_masked(self) -> bool:
        """Return whether only a prefix and a digest of the key name are recorded."""
        return self.before is None and not self.large and bool(MASK.search(self.key))

    @property
    def changed_nothing(self) -> bool:
        """Return whether the states before and after are known to be equal."""
        return (
            self.before_state.digest not in {None, LARGE} and self.before_state == self.after_state
        )

    def __str__(self) -> str:
        """Describe the change: identity, commands, time, and where it is recorded."""
        ops = " ".join(without_tokens(printable(op)) for op in self.ops)
        actor = f"actor {printable(self.actor)}" if self.actor else f"token {printable(self.token)}"
        return (
            f"`{self.identity}`: {ops} at {clock_time(self.time_ms)} (event {self.event}, {actor},"
            f" correlation {without_tokens(printable(self.correlation))})"
        )

    def to_dict(self) -> dict[str, Any]:
        """Return the change for JSON, without its values."""
        names = ("event", "time_ms", "identity", "token", "correlation", "actor?")
        return {**json_object(self, *names), "ops": [without_tokens(op) for op in self.ops]}


def event_name(event: AuditEvent | UndoStep) -> str:
    """Return the id of an event with the name of its stream, as `find_event` takes it."""
    return f"{owner_name(event.identity, event.shard)}/{event.id}"


def steps_of(events: Iterable[AuditEvent]) -> dict[bytes, list[UndoStep]]:
    """Return the steps of *events* by key, without keys that none of them may have changed."""
    found: dict[bytes, dict[tuple[str, str], UndoStep]] = defaultdict(dict)
    for event in events:
        changes = {change.key: change for change in event.changes}
        for key in changed_keys(event):
            change = changes.get(key) or KeyChange(key, None)
            place = (event.owner, event.id)
            same = found[key].get(place)
            found[key][place] = (
                replace(same, ops=tuple(dict.fromkeys((*same.ops, event.op))))
                if same
                else UndoStep(
                    identity=event.identity,
                    id=event.id,
                    time_ms=event.time_ms,
                    token=event.token,
                    ops=(event.op,),
                    correlation=event.correlation,
                    key=key,
                    before=change.before,
                    large=change.large,
                    after_state=KeyState(change.after, change.after_expires_ms),
                    actor=event.actor,
                    shard=event.shard,
                )
            )
    return {key: list(steps.values()) for key, steps in found.items()}


def steps_on(keys: Iterable[bytes], events: Iterable[AuditEvent]) -> dict[bytes, list[UndoStep]]:
    """Return the steps on each of *keys*, including those that record the key masked."""
    found: dict[bytes, list[UndoStep]] = {key: [] for key in keys}
    key_of = unmasked(found)
    concerned = (event for event in events if any(key_of(key) is not None for key in event.keys))
    for recorded, steps in steps_of(concerned).items():
        key = key_of(recorded)
        if key is not None:
            found[key] += steps
    return found


def unmasked(keys: Iterable[bytes]) -> Callable[[bytes], bytes | None]:
    """Return a function that maps a recorded, perhaps masked key to one of *keys*, or to None."""
    by_mask = {mask_of(key): key for key in keys}
    known = frozenset(by_mask.values())

    def key_of(recorded: bytes) -> bytes | None:
        key = by_mask.get(recorded[-41:], recorded)
        is_known = key in known and (key == recorded or key.startswith(recorded[:-41]))
        return key if is_known else None

    return key_of


def changed_keys(event: AuditEvent) -> list[bytes]:
    """Return the keys that *event* may have changed, as they are recorded."""
    spec = known_table().get(event.op)
    changes = {change.key for change in event.changes}
    # A command that failed changed nothing.
    return [
        key
        for place, key in enumerate(event.keys)
        if key in changes or (event.error is None and _may_change(event, spec, place))
    ]


def images_of(many: Iterable[Iterable[UndoStep]]) -> Iterator[ImageContent]:
    """Yield the before-images of steps."""
    for steps in many:
        for step in steps:
            if step.before is not None and step.before.content is not None:
                yield step.before.content


def read_back(steps: Iterable[UndoStep], images: Images) -> list[UndoStep]:
    """Return *steps* with their states before, from the values of their before-images."""
    return [
        replace(step, before_state=_state(step.before, images)) if step.before else step
        for step in steps
    ]


def _state(before: BeforeImage, images: Images) -> KeyState:
    value = images.restored(before)
    return value.state if value else KeyState(expires_ms=before.expires_ms)


def _may_change(event: AuditEvent, spec: CommandSpec | None, place: int) -> bool:
    """Return whether the command may change its key number *place*, without a before-image."""
    if event.op in INDEXES:
        return False
    if spec is None:
        reads_only = event.cost.keys() <= {Counter.REQUESTS, Counter.READS}
        return event.identity == OPERATORS or not (event.cost and reads_only)
    if not spec.mutates or spec.channel is not None:
        return False
    # Of two searches the first finds one key.
    return not spec.keys or not CHANGES.isdisjoint(spec.keys[min(place, len(spec.keys) - 1)].needs)


def in_order(steps: Iterable[UndoStep], end: KeyState, end_ms: int) -> list[UndoStep]:
    """Return the steps of one key in order, oldest first.

    Ids order the steps of one stream. Two streams share no numbers, so their steps within one
    millisecond are ordered by state: each step begins with the state that the previous one left.
    *end* is the state after the last step, and was read at *end_ms*.
    """
    found: list[UndoStep] = []
    by_time = sorted(steps, key=step_order, reverse=True)
    for _, group in groupby(by_time, key=lambda step: step.time_ms):
        ordered = _order(list(group)[::-1], end, end_ms)
        end, end_ms = ordered[0].before_state, ordered[0].time_ms
        found[:0] = ordered
    return found


def step_order(step: UndoStep) -> tuple[int, int, str]:
    """Return the sort key of a step by time and id."""
    return step.time_ms, int(step.id.partition("-")[2]), step.identity


def _order(steps: list[UndoStep], end: KeyState, end_ms: int) -> list[UndoStep]:
    """Return the steps of one millisecond in the order with the fewest contradicting states."""
    by_stream: dict[str, list[UndoStep]] = defaultdict(list)
    for step in steps:
        by_stream[step.event.partition("/")[0]].append(step)
    streams = list(by_stream.values())
    if len(streams) == 1 or prod(len(stream) + 1 for stream in streams) > MAX_ORDERS:
        return steps

    @cache
    def best(left: tuple[int, ...], after: int) -> tuple[int, tuple[int, ...]]:
        """Return cost and order of the first *left* steps, followed by one of stream *after*."""
        if not any(left):
            return 0, ()
        state, at_ms = end, end_ms
        if after >= 0:
            following = streams[after][left[after]]
            state, at_ms = following.before_state, following.time_ms
        options = []
        for number, count in enumerate(left):
            if count:
                rest = (*left[:number], count - 1, *left[number + 1 :])
                breaks, order = best(rest, number)
                same = streams[number][count - 1].after_state.is_same(state, at_ms)
                cost = {True: 0, None: 1, False: 2}[same]
                options.append((breaks + cost, (*order, number)))
        return min(options)

    _, order = best(tuple(map(len, streams)), -1)
    heads = [iter(stream) for stream in streams]
    return [next(heads[number]) for number in order]
