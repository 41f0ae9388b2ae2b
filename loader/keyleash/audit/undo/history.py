"""The changes of each key, and whether the policy of their time permitted them."""

from __future__ import annotations

import collections
import hashlib
from bisect import bisect_right
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache, cached_property, lru_cache
from itertools import groupby, takewhile
from typing import TypeVar

from keyleash.audit.entries import ABSENT, LARGE, AuditEvent, BeforeImage, ImageContent, KeyChange
from keyleash.audit.operator_actions import PolicyUse, in_sequence, read_activations
from keyleash.audit.read import MASK, key_test
from keyleash.audit.undo.values import NOTHING, Recorded, Value
from keyleash.commands import CommandSpec, OperationClass, load_table
from keyleash.commands.spec import Needs
from keyleash.compiler.render import KEPT_POLICIES
from keyleash.errors import KeyleashError, NothingToUndoError
from keyleash.limits import Counter
from keyleash.policy import Identity, Policy, parse_policy
from keyleash.policy.patterns import beginning, match
from keyleash.store.keyspace import OPERATORS, Keyspace
from keyleash.store.records import ActivePolicy, Client, read_active, read_history

_CHANGING = frozenset({OperationClass.WRITE, OperationClass.DELETE})


@dataclass(frozen=True, slots=True)
class KeyState:
    """
    What a key holds at a moment.

    Attributes:
        digest: As `Change.after`; None if it is not known.
        expires_ms: When it expires, Unix milliseconds; None if never.
    """

    digest: str | None = None
    expires_ms: int | None = None

    def is_same(self, later: KeyState, later_ms: int) -> bool | None:
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
class UndoStep:
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
    before: BeforeImage | None = None
    large: int = 0
    before_state: KeyState = KeyState()
    after_state: KeyState = KeyState()
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
        return (
            self.before_state.digest not in {None, LARGE} and self.before_state == self.after_state
        )


def steps_of(events: Iterable[AuditEvent]) -> dict[bytes, list[UndoStep]]:
    """What *events* did, by key; a key that none of them may have changed is left out."""
    found: dict[bytes, dict[tuple[str, str], UndoStep]] = defaultdict(dict)
    for event in events:
        changes = {change.key: change for change in event.changes}
        for key in _changed_keys(event, changes):
            step = _step(event, key, changes.get(key))
            same = found[key].get((event.identity, event.id))
            found[key][event.identity, event.id] = (
                step if same is None else replace(same, ops=_joined(same.ops, step.ops))
            )
    return {key: list(steps.values()) for key, steps in found.items()}


def steps_on(keys: Iterable[bytes], events: Iterable[AuditEvent]) -> dict[bytes, list[UndoStep]]:
    """The steps on each of *keys*, also those that are recorded under a mask."""
    found: dict[bytes, list[UndoStep]] = {key: [] for key in keys}
    key_of = unmasked(found)
    concerned = (event for event in events if any(key_of(key) is not None for key in event.keys))
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


def images_of(many: Iterable[Iterable[UndoStep]]) -> Iterator[Recorded]:
    """The before-images of all these steps, each with the identity in whose stream it is."""
    for steps in many:
        for step in steps:
            if step.before is not None and step.before.content is not None:
                yield step.identity, step.before.content


def read_back(
    steps: Iterable[UndoStep], images: Mapping[ImageContent, Value | None]
) -> list[UndoStep]:
    """*steps* with what their before-images hold, given that of each."""
    return [replace(step, before_state=_held(step.before, images)) for step in steps]


def _held(image: BeforeImage | None, images: Mapping[ImageContent, Value | None]) -> KeyState:
    if image is None:
        return KeyState()
    value = images[image.content] if image.content is not None else NOTHING
    return KeyState(value.digest if value else None, image.expires_ms)


def _sha1(key: bytes) -> bytes:
    return hashlib.sha1(key, usedforsecurity=False).hexdigest().encode()


def _joined(ops: tuple[str, ...], more: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(dict.fromkeys((*ops, *more)))


def _step(event: AuditEvent, key: bytes, change: KeyChange | None) -> UndoStep:
    return UndoStep(
        identity=event.identity,
        id=event.id,
        time_ms=event.time_ms,
        token=event.token,
        ops=(event.op,),
        correlation=event.correlation,
        key=key,
        before=change.before if change else None,
        large=change.large if change else 0,
        after_state=KeyState(change.after, change.after_expires_ms) if change else KeyState(),
        actor=event.actor,
    )


def _changed_keys(event: AuditEvent, changes: Mapping[bytes, KeyChange]) -> Iterator[bytes]:
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


# Steps of several trails in the order in which they happened.
#
# Ids of one trail say it; two trails share no numbers, so what happened in one millisecond is told
# by the states alone: each step begins where the one before it ended.

MAX_PLACES = 5000
"""Ways to go that are tried for the steps of one millisecond; with more, ids decide."""


def in_order(steps: Iterable[UndoStep], end: KeyState, end_ms: int) -> list[UndoStep]:
    """
    Put the steps of one key in order.

    Args:
        steps: Of any trails.
        end: What the key held behind the last of them.
        end_ms: When it was seen to hold that, Unix milliseconds.

    Returns:
        Oldest first. Of the orders that the ids allow, the one in which the states follow each
        other best.
    """
    found: list[UndoStep] = []
    by_time = sorted(steps, key=place, reverse=True)
    for _, group in groupby(by_time, key=lambda step: step.time_ms):
        ordered = _merged(list(group)[::-1], end, end_ms)
        end, end_ms = ordered[0].before_state, ordered[0].time_ms
        found[:0] = ordered
    return found


def place(step: UndoStep) -> tuple[int, int, str]:
    """Where a step stands in time, as far as ids say it."""
    return step.time_ms, int(step.id.partition("-")[2]), step.identity


def _merged(steps: list[UndoStep], end: KeyState, end_ms: int) -> list[UndoStep]:
    """The steps of one millisecond."""
    by_stream: dict[str, list[UndoStep]] = defaultdict(list)
    for step in steps:
        by_stream[step.identity].append(step)
    streams = list(by_stream.values())
    places = 1
    for stream in streams:
        places *= len(stream) + 1
    if len(streams) == 1 or places > MAX_PLACES:
        return steps
    return _best(streams, end, end_ms)


def _best(streams: Sequence[Sequence[UndoStep]], end: KeyState, end_ms: int) -> list[UndoStep]:
    """Of all ways to merge *trails*, one with the fewest breaks, told from the end."""

    @cache
    def best(left: tuple[int, ...], after: int) -> tuple[int, tuple[int, ...]]:
        """Breaks and trails of the *left* first steps, if one of trail *after* follows."""
        if not any(left):
            return 0, ()
        state, at_ms = end, end_ms
        if after >= 0:
            following = streams[after][left[after]]
            state, at_ms = following.before_state, following.time_ms
        tried = []
        for number, count in enumerate(left):
            if count:
                rest = (*left[:number], count - 1, *left[number + 1 :])
                breaks, order = best(rest, number)
                same = streams[number][count - 1].after_state.is_same(state, at_ms)
                cost = {True: 0, None: 1, False: 2}[same]
                tried.append((breaks + cost, (*order, number)))
        return min(tried)

    _, order = best(tuple(map(len, streams)), -1)
    heads = [iter(stream) for stream in streams]
    return [next(heads[number]) for number in order]


CHANGES = frozenset({OperationClass.WRITE, OperationClass.DELETE})
ANY = frozenset(OperationClass)


class Grants:
    """
    What the active policy and those before it grant.

    The active policy is read at once; the others when they are needed, which is seldom.
    """

    def __init__(self, client: Client, keyspace: Keyspace) -> None:
        self._client, self._keyspace = client, keyspace
        self._active = read_active(client, keyspace)
        self._identity = cache(_identity)

    def may_change(self, name: str, key: bytes) -> bool:
        """Return whether the active policy lets identity *name* write or delete *key*."""
        return self._active is not None and self._let(self._active, name, key, CHANGES)

    def could_use(
        self, name: str, key: bytes, time_ms: int, classes: frozenset[OperationClass] = CHANGES
    ) -> bool:
        """
        Return whether identity *name* may use *key* in some way, or might at a time.

        True as well if the policy of that time names the identity and is no longer kept, and if
        the server has no record of any policy.

        Args:
            name: The identity.
            key: The key, as it is recorded.
            time_ms: Server time, Unix milliseconds.
            classes: One of these is enough.
        """
        if name == OPERATORS or (self._active and self._let(self._active, name, key, classes)):
            return True
        if self._active is None and not self._uses:
            return True
        return any(self._let_then(use, name, key, classes) for use in self._uses_at(time_ms))

    def could_change_since(self, name: str, key: bytes, since_ms: int) -> bool:
        """Return whether *name* may change *key*, or might at any time since *since_ms*."""
        if name == OPERATORS or self.may_change(name, key):
            return True
        if not self._uses or (self._uses[0].generation > 1 and self._uses[0].from_ms > since_ms):
            return True
        uses = (use for use in self._uses if (use.until_ms or since_ms) >= since_ms)
        return any(self._let_then(use, name, key, CHANGES) for use in uses)

    @cached_property
    def _kept(self) -> dict[str, ActivePolicy]:
        return {item.digest: item for item in read_history(self._client, self._keyspace)}

    @cached_property
    def _uses(self) -> list[PolicyUse]:
        recorded = read_activations(self._client, self._keyspace)
        trimmed = (
            PolicyUse(item.generation, item.digest, item.actor, item.activated_ms, None, {})
            for item in self._kept.values()
            if not recorded or item.activated_ms < recorded[0].from_ms
        )
        return in_sequence([*sorted(trimmed, key=lambda item: item.from_ms), *recorded])

    def _uses_at(self, time_ms: int) -> Iterator[PolicyUse]:
        """What was active then: in the millisecond of an activation, both policies."""
        behind = bisect_right(self._uses, time_ms, key=lambda item: item.from_ms)
        begun = (self._uses[place] for place in range(behind - 1, -1, -1))
        return takewhile(lambda item: (item.until_ms or time_ms) >= time_ms, begun)

    def _let_then(
        self, use: PolicyUse, name: str, key: bytes, classes: frozenset[OperationClass]
    ) -> bool:
        policy = self._kept.get(use.digest)
        try:
            return self._let(policy, name, key, classes) if policy else name in use.rules
        except KeyleashError:
            # This version cannot read it.
            return name in use.rules

    def _let(
        self, policy: ActivePolicy, name: str, key: bytes, classes: frozenset[OperationClass]
    ) -> bool:
        identity = self._identity(policy.document, name)
        return identity is not None and _may_use(identity, key, classes)


def _identity(document: str, name: str) -> Identity | None:
    parsed = _parsed(document)
    if isinstance(parsed, KeyleashError):
        raise parsed
    return parsed.identity(name)


@lru_cache(maxsize=2 * KEPT_POLICIES)
def _parsed(document: str) -> Policy | KeyleashError:
    try:
        return parse_policy(document, file="<policy>", commands=None)
    except KeyleashError as error:
        return error


def _may_use(identity: Identity, key: bytes, classes: frozenset[OperationClass]) -> bool:
    """Whether a grant of one of *classes* has *key*, or may have it, if it is recorded masked."""
    if any(match(item, key) is not None for rule in identity.deny for item in rule.keys):
        return False
    granted = [
        pattern
        for grant in identity.grants
        if not classes.isdisjoint(grant.allow)
        for pattern in grant.keys
    ]
    if any(match(item, key) is not None for item in granted):
        return True
    mask = MASK.search(key)
    if mask is None:
        return False
    shown = key[: mask.start()]
    is_masked = any(beginning(item) == shown for item in identity.audit.mask_keys)
    return is_masked and any(key_test(item)(key) for item in granted)


# Which events are trusted.
#
# A fenced agent can append any entry to the audit stream of its identity, though to no other. A
# guard lets a command through if all its keys are granted; so an event that names a key which no
# policy granted to its identity at that time, or not for a change, is not a guard's.

Found = TypeVar("Found")


class Trust:
    """
    Tells trusted events from others, and counts these.

    Args:
        grants: What policies let identities change.
        keys: Keys by their names, for events that record them masked.

    Attributes:
        untrusted: How many events were not trusted, by identity.
    """

    def __init__(self, grants: Grants, keys: Iterable[bytes] = ()) -> None:
        self.untrusted: collections.Counter[str] = collections.Counter()
        self._grants = grants
        self._unmasked = unmasked(keys)

    @classmethod
    def of(cls, client: Client, keyspace: Keyspace, keys: Iterable[bytes] = ()) -> Trust:
        """Make one from the policies of a server."""
        return cls(Grants(client, keyspace), keys)

    def is_trusted(self, event: AuditEvent) -> bool:
        """Return whether *event* may be a guard's."""
        name, time_ms = event.identity, event.time_ms
        changed = changed_keys(event)
        is_trusted = all(
            self._grants.could_use(
                name, self._unmasked(key) or key, time_ms, CHANGES if key in changed else ANY
            )
            for key in (changed if _names_no_keys(event) else event.keys)
        )
        self.untrusted[name] += not is_trusted
        return is_trusted

    def marked(self, entries: Iterable[Found]) -> Iterator[Found | AuditEvent]:
        """Mark events that are not trusted; other entries are passed on as they are."""
        for entry in entries:
            if isinstance(entry, AuditEvent) and not self.is_trusted(entry):
                yield replace(entry, is_untrusted=True)
            else:
                yield entry


def _names_no_keys(event: AuditEvent) -> bool:
    """Whether what the command names are channels, or the pattern of a SCAN."""
    spec = load_table().get(event.op)
    return spec is not None and (spec.channel is not None or not spec.keys)


def nothing_trusted(untrusted: Mapping[str, int]) -> NothingToUndoError:
    """The error that says that all events that would be undone are untrusted."""
    return NothingToUndoError(
        f"the events that this would undo are untrusted: {described(untrusted)}",
        help="no policy of their time lets the identity change these keys: its agent may have"
        " made them up",
    )


def described(untrusted: Mapping[str, int]) -> str:
    """Return how many events of whom are untrusted: `2 of `a`, 1 of `b``."""
    return ", ".join(f"{count} of `{name}`" for name, count in sorted(untrusted.items()) if count)
