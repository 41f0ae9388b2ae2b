"""The way back: for each key what it is to hold again, and what is in the way of that."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum

from keyleash.audit.event import Held, Image
from keyleash.audit.undo.ordering import in_order, place
from keyleash.audit.undo.steps import State, Step
from keyleash.audit.undo.values import NOTHING, Value


class Kind(StrEnum):
    """What is in the way of giving a key back what it held."""

    CHANGED = "changed"
    """Others changed it since, or between the events that are undone."""
    UNVERIFIED = "unverified"
    """Whether others did cannot be told: it was too large to be digested."""
    UNGRANTED = "ungranted"
    """The active policy no longer lets the identity change it."""
    NOT_RECORDED = "not-recorded"
    """No before-image was taken."""
    LARGE = "large"
    """It was too large for one."""
    MASKED = "masked"
    """The key itself is not recorded."""
    UNREADABLE = "unreadable"
    """The server cannot read the image: another kind or version of server made it."""
    UNVALIDATED = "unvalidated"
    """An agent may have made up the image, and the server does not validate payloads."""
    CONTROL = "control"
    """It is one of keyleash's own."""


BY_OTHERS = frozenset({Kind.CHANGED, Kind.UNVERIFIED})
FORCIBLE = BY_OTHERS | {Kind.UNGRANTED}
"""Those that an operator may override; of all others there is nothing to restore."""


@dataclass(frozen=True, slots=True)
class Obstacle:
    """
    Why a key cannot be given back what it held.

    Attributes:
        after: The step behind which others changed the key; None of other kinds.
        until: The selected step before which they did; None if that is now.
        by: What they did, as far as trails tell; none means outside the guards.
        identities: Whom the policy no longer lets change it.
        size: Bytes that the key took, if that was too large.
        is_forced: Whether the operator overrides it.
    """

    kind: Kind
    after: Step | None = None
    until: Step | None = None
    by: tuple[Step, ...] = ()
    identities: tuple[str, ...] = ()
    size: int = 0
    is_forced: bool = False

    @property
    def is_final(self) -> bool:
        """Whether no operator can override it, since there is nothing to restore."""
        return self.kind not in FORCIBLE


class Action(StrEnum):
    """What becomes of a key."""

    RESTORE = "restore"
    REMOVE = "remove"
    KEEP = "keep"
    """It holds already what it held."""
    SKIP = "skip"
    """The operator leaves it out."""


@dataclass(frozen=True, slots=True)
class KeyPlan:
    """
    What becomes of one key.

    Attributes:
        steps: What is undone, oldest first.
        now: What it holds.
        then: What it is to hold; None if that is not known.
        image: That, as DUMP had it.
        obstacles: In the order in which they were found.
        is_skipped: Whether the operator leaves it out.
    """

    key: bytes
    steps: tuple[Step, ...]
    now: Value
    then: Value | None = None
    image: Image | None = None
    obstacles: tuple[Obstacle, ...] = ()
    is_skipped: bool = False

    @property
    def action(self) -> Action:
        """What becomes of it, if nothing is in the way."""
        if self.is_skipped:
            return Action.SKIP
        then = self.then or NOTHING
        is_same = (then.digest, then.expires_ms) == (self.now.digest, self.now.expires_ms)
        if is_same and not then.is_large:
            return Action.KEEP
        return Action.REMOVE if then.is_absent else Action.RESTORE

    @property
    def is_blocked(self) -> bool:
        """Whether something is in the way that the operator does not override."""
        return not self.is_skipped and any(not one.is_forced for one in self.obstacles)

    @property
    def is_contested(self) -> bool:
        """Whether others changed it, or may have."""
        return any(one.kind in BY_OTHERS for one in self.obstacles)

    @property
    def has_expired(self) -> bool:
        """Whether it held something then whose time has passed meanwhile."""
        held = self.image is not None and self.image.held is not None
        return held and self.then is not None and self.then.is_absent


@dataclass(frozen=True, slots=True)
class UndoPlan:
    """
    A way back.

    Attributes:
        keys: By their newest step, the newest first.
        time_ms: When the keys were read, server time, Unix milliseconds.
        others: Further keys that the same events changed and that were not asked for.
        untrusted: How many events are left out, by identity: no policy of their time lets it
            change the keys that they name, so its agent may have made them up.
    """

    keys: tuple[KeyPlan, ...]
    time_ms: int
    others: tuple[bytes, ...] = ()
    untrusted: Mapping[str, int] = field(default_factory=dict)

    @property
    def blocked(self) -> tuple[KeyPlan, ...]:
        """The keys because of which nothing is undone."""
        return tuple(one for one in self.keys if one.is_blocked)

    @property
    def changes(self) -> tuple[KeyPlan, ...]:
        """The keys that are touched."""
        return tuple(one for one in self.keys if one.action in {Action.RESTORE, Action.REMOVE})

    @property
    def steps(self) -> tuple[Step, ...]:
        """All that is undone, oldest first."""
        steps = (step for one in self.keys if not one.is_skipped for step in one.steps)
        return tuple(sorted(steps, key=place))


@dataclass(frozen=True, slots=True)
class Seen:
    """
    What the server holds, as a plan is made from it.

    Attributes:
        keys: What each key holds.
        images: What each before-image holds; None if the server cannot read it.
        time_ms: When, server time, Unix milliseconds.
        prefixes: What keyleash's own keys begin with.
        withheld: The before-images that were not restored.
    """

    keys: Mapping[bytes, Value]
    images: Mapping[Held, Value | None]
    time_ms: int
    prefixes: tuple[bytes, ...] = field(default=())
    withheld: frozenset[Held] = frozenset()


def plan_key(
    key: bytes, steps: Iterable[Step], seen: Seen, others: Sequence[Step] = ()
) -> KeyPlan | None:
    """
    Say how *key* gets back what it held before *steps*; None if they changed nothing.

    Args:
        key: The key.
        steps: What is to be undone.
        seen: What the server holds.
        others: What else was done to the key meanwhile, as far as is known. Whether anything
            was is told by the states.
    """
    now = seen.keys[key]
    state = State(now.digest, now.expires_ms)
    effective = [step for step in steps if not step.changed_nothing]
    if not effective:
        return None
    life = in_order([*effective, *others], state, seen.time_ms)
    ours = {step.event for step in effective}
    ordered = tuple(step for step in life if step.event in ours)
    first = ordered[0]
    # What cannot be brought back at all needs no further reason.
    obstacles = _missing_image(first, seen) or [
        replace(one, by=_between(life, one)) for one in _breaks(ordered, state, seen.time_ms)
    ]
    if key.startswith(seen.prefixes):
        obstacles.append(Obstacle(Kind.CONTROL))
    if first.before is None:
        return KeyPlan(key, ordered, now, obstacles=tuple(obstacles))
    then = _held(first.before, seen)
    return KeyPlan(key, ordered, now, then, first.before, tuple(obstacles))


def _missing_image(first: Step, seen: Seen) -> list[Obstacle]:
    if first.large:
        return [Obstacle(Kind.LARGE, size=first.large)]
    if first.before is None:
        return [Obstacle(Kind.MASKED if first.is_masked else Kind.NOT_RECORDED)]
    if first.before.held is None or seen.images[first.before.held] is not None:
        return []
    is_withheld = first.before.held in seen.withheld
    return [Obstacle(Kind.UNVALIDATED if is_withheld else Kind.UNREADABLE)]


def _breaks(ordered: Sequence[Step], now: State, now_ms: int) -> Iterator[Obstacle]:
    """Where one step does not begin as the one before it ended."""
    for number, step in enumerate(ordered, 1):
        following = ordered[number] if number < len(ordered) else None
        state, at_ms = (following.was, following.time_ms) if following else (now, now_ms)
        match step.became.is_same(state, at_ms):
            case False:
                yield Obstacle(Kind.CHANGED, step, following)
            case None:
                yield Obstacle(Kind.UNVERIFIED, step, following)


def _between(life: Sequence[Step], obstacle: Obstacle) -> tuple[Step, ...]:
    """What others did in the place of *obstacle*."""
    places = {step.event: place for place, step in enumerate(life)}
    first = places[obstacle.after.event] + 1 if obstacle.after else 0
    last = places[obstacle.until.event] if obstacle.until else len(life)
    return tuple(life[first:last])


def _held(image: Image, seen: Seen) -> Value | None:
    if image.held is None:
        return NOTHING
    if image.expires_ms is not None and image.expires_ms <= seen.time_ms:
        return NOTHING
    value = seen.images[image.held]
    return None if value is None else replace(value, expires_ms=image.expires_ms)
