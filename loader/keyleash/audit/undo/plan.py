"""The undo plan: the target value of each key, and conflicts."""

from __future__ import annotations

from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum

from keyleash.audit.entries import BeforeImage, ImageContent
from keyleash.audit.undo.history import (
    Grants,
    KeyState,
    Trust,
    UndoStep,
    images_of,
    in_order,
    nothing_trusted,
    place,
    read_back,
    steps_of,
)
from keyleash.audit.undo.selection import UndoSelection, read_others, select_events
from keyleash.audit.undo.values import NOTHING, Value, read_images, read_keys
from keyleash.compiler.render import UNDO_MAX_BYTES
from keyleash.errors import NothingToUndoError, UndoTooLargeError
from keyleash.store.keyspace import OPERATORS, PUBLIC_PREFIX, Keyspace
from keyleash.store.prefixes import server_keyspace
from keyleash.store.records import Client
from keyleash.store.server_check import operator_client


class ConflictKind(StrEnum):
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


BY_OTHERS = frozenset({ConflictKind.CHANGED, ConflictKind.UNVERIFIED})
FORCIBLE = BY_OTHERS | {ConflictKind.UNGRANTED}
"""Those that an operator may override; of all others there is nothing to restore."""


@dataclass(frozen=True, slots=True)
class Conflict:
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

    kind: ConflictKind
    after: UndoStep | None = None
    until: UndoStep | None = None
    by: tuple[UndoStep, ...] = ()
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
    steps: tuple[UndoStep, ...]
    now: Value
    then: Value | None = None
    image: BeforeImage | None = None
    conflicts: tuple[Conflict, ...] = ()
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
        return not self.is_skipped and any(not conflict.is_forced for conflict in self.conflicts)

    @property
    def is_contested(self) -> bool:
        """Whether others changed it, or may have."""
        return any(conflict.kind in BY_OTHERS for conflict in self.conflicts)

    @property
    def has_expired(self) -> bool:
        """Whether it held something then whose time has passed meanwhile."""
        held = self.image is not None and self.image.content is not None
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
        return tuple(key for key in self.keys if key.is_blocked)

    @property
    def changes(self) -> tuple[KeyPlan, ...]:
        """The keys that are touched."""
        return tuple(key for key in self.keys if key.action in {Action.RESTORE, Action.REMOVE})

    @property
    def steps(self) -> tuple[UndoStep, ...]:
        """All that is undone, oldest first."""
        steps = (step for key in self.keys if not key.is_skipped for step in key.steps)
        return tuple(sorted(steps, key=place))


@dataclass(frozen=True, slots=True)
class SeenValue:
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
    images: Mapping[ImageContent, Value | None]
    time_ms: int
    prefixes: tuple[bytes, ...] = field(default=())
    withheld: frozenset[ImageContent] = frozenset()


def plan_key(
    key: bytes, steps: Iterable[UndoStep], seen: SeenValue, others: Sequence[UndoStep] = ()
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
    state = KeyState(now.digest, now.expires_ms)
    effective = [step for step in steps if not step.changed_nothing]
    if not effective:
        return None
    history = in_order([*effective, *others], state, seen.time_ms)
    ours = {step.event for step in effective}
    ordered = tuple(step for step in history if step.event in ours)
    first = ordered[0]
    # What cannot be brought back at all needs no further reason.
    conflicts = _missing_image(first, seen) or [
        replace(item, by=_between(history, item)) for item in _breaks(ordered, state, seen.time_ms)
    ]
    if key.startswith(seen.prefixes):
        conflicts.append(Conflict(ConflictKind.CONTROL))
    if first.before is None:
        return KeyPlan(key, ordered, now, conflicts=tuple(conflicts))
    then = _held(first.before, seen)
    return KeyPlan(key, ordered, now, then, first.before, tuple(conflicts))


def _missing_image(first: UndoStep, seen: SeenValue) -> list[Conflict]:
    if first.large:
        return [Conflict(ConflictKind.LARGE, size=first.large)]
    if first.before is None:
        return [Conflict(ConflictKind.MASKED if first.is_masked else ConflictKind.NOT_RECORDED)]
    if first.before.content is None or seen.images[first.before.content] is not None:
        return []
    is_withheld = first.before.content in seen.withheld
    return [Conflict(ConflictKind.UNVALIDATED if is_withheld else ConflictKind.UNREADABLE)]


def _breaks(ordered: Sequence[UndoStep], now: KeyState, now_ms: int) -> Iterator[Conflict]:
    """Where one step does not begin as the one before it ended."""
    for number, step in enumerate(ordered, 1):
        following = ordered[number] if number < len(ordered) else None
        state, at_ms = (following.before_state, following.time_ms) if following else (now, now_ms)
        match step.after_state.is_same(state, at_ms):
            case False:
                yield Conflict(ConflictKind.CHANGED, step, following)
            case None:
                yield Conflict(ConflictKind.UNVERIFIED, step, following)


def _between(history: Sequence[UndoStep], conflict: Conflict) -> tuple[UndoStep, ...]:
    """What others did in the place of *obstacle*."""
    places = {step.event: place for place, step in enumerate(history)}
    first = places[conflict.after.event] + 1 if conflict.after else 0
    last = places[conflict.until.event] if conflict.until else len(history)
    return tuple(history[first:last])


def _held(image: BeforeImage, seen: SeenValue) -> Value | None:
    if image.content is None:
        return NOTHING
    if image.expires_ms is not None and image.expires_ms <= seen.time_ms:
        return NOTHING
    value = seen.images[image.content]
    return None if value is None else replace(value, expires_ms=image.expires_ms)


MAX_KEYS = 10_000
"""Most keys that an undo touches: the server serves nobody meanwhile."""


def plan_undo(
    client: Client,
    selection: UndoSelection,
    *,
    forced: Container[bytes] = (),
    skipped: Container[bytes] = (),
    across_policies: bool = False,
    keyspace: Keyspace | None = None,
) -> UndoPlan:
    """
    Plan the way back: each key is to hold what it held before the oldest event that is meant.

    Nothing is changed.

    Args:
        client: A redis-py client of an operator.
        selection: Which events are meant.
        forced: Keys for which conflicts, and what the policy grants, do not count.
        skipped: Keys that are left out.
        across_policies: Whether no key needs to be granted by the active policy.
        keyspace: Where keys are; what the server's record says if None.

    Raises:
        NothingToUndoError: no event is meant, or those that are changed nothing.
        OperationError (unknown-event): there is no such event.
        OperationError (ambiguous-event): several identities have an event of that id.
        OperationError (unknown-identity): no identity ever had that name.
        UndoTooLargeError: it would hold up the server for too long.
    """
    client = operator_client(client)
    keyspace = keyspace or server_keyspace(client)
    grants = Grants(client, keyspace)
    trust = Trust(grants, selection.keys)
    by_key = steps_of(select_events(client, keyspace, selection, trust))
    chosen = {key: steps for key, steps in by_key.items() if selection.concerns(key)}
    if len(chosen) > MAX_KEYS:
        raise UndoTooLargeError(
            f"this would undo what was done to {len(chosen)} keys, and {MAX_KEYS} are the most",
            help="undo fewer at a time, the newest first",
        )
    seen = _look(client, keyspace, chosen)
    steps = {key: read_back(some, seen.images) for key, some in chosen.items()}
    plans = {key: plan for key in steps if (plan := plan_key(key, steps[key], seen))}
    if not plans:
        if masked := [key for key in by_key if key not in chosen and selection.may_concern(key)]:
            shown = masked[0].decode("utf-8", "backslashreplace")
            raise NothingToUndoError(
                f"what this would undo is masked, so its name is not recorded: `{shown}`"
            )
        if trust.untrusted.total():
            raise nothing_trusted(trust.untrusted)
        raise NothingToUndoError("the events that this would undo changed nothing")
    contested = {key: steps[key] for key, plan in plans.items() if plan.is_contested}
    if contested:
        for key, others in read_others(client, keyspace, contested, grants).items():
            plans[key] = plan_key(key, steps[key], seen, others) or plans[key]
    found = list(plans.values())
    if not across_policies:
        found = _with_grants(grants, found)
    found = [_decided(plan, forced, skipped) for plan in found]
    found.sort(key=lambda plan: plan.steps[-1].time_ms, reverse=True)
    left_alone = tuple(key for key in by_key if key not in chosen)
    made = UndoPlan(tuple(found), seen.time_ms, left_alone, +trust.untrusted)
    _check_size(made.changes)
    return made


def _look(
    client: Client, keyspace: Keyspace, chosen: Mapping[bytes, Sequence[UndoStep]]
) -> SeenValue:
    seconds, micros = client.time()
    images = read_images(client, keyspace, images_of(chosen.values()))
    return SeenValue(
        keys=read_keys(client, keyspace, list(chosen)),
        images=images,
        time_ms=int(seconds) * 1000 + int(micros) // 1000,
        prefixes=(keyspace.prefix.encode(), PUBLIC_PREFIX.encode()),
        withheld=images.withheld.images,
    )


def _with_grants(grants: Grants, plans: Sequence[KeyPlan]) -> list[KeyPlan]:
    """An undo is an operator's, but it is not to bring back what the policy gave up."""
    found = []
    for plan in plans:
        names = dict.fromkeys(step.identity for step in plan.steps if step.identity != OPERATORS)
        ungranted = tuple(name for name in names if not grants.may_change(name, plan.key))
        more = (Conflict(ConflictKind.UNGRANTED, identities=ungranted),) if ungranted else ()
        found.append(replace(plan, conflicts=(*plan.conflicts, *more)))
    return found


def _decided(plan: KeyPlan, forced: Container[bytes], skipped: Container[bytes]) -> KeyPlan:
    is_forced = plan.key in forced
    conflicts = tuple(
        replace(conflict, is_forced=is_forced and conflict.kind in FORCIBLE)
        for conflict in plan.conflicts
    )
    return replace(plan, conflicts=conflicts, is_skipped=plan.key in skipped)


def _check_size(plans: Iterable[KeyPlan]) -> None:
    size = sum(plan.now.size + (plan.then.size if plan.then else 0) for plan in plans)
    if size > UNDO_MAX_BYTES:
        raise UndoTooLargeError(
            f"this would move {size >> 20} MiB, and {UNDO_MAX_BYTES >> 20} MiB are the most",
            help="undo fewer at a time, the newest first",
        )
