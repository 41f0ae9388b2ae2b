"""The undo plan: the target value of each key, and conflicts."""

from __future__ import annotations

from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum

from keyleash.audit.entries import BeforeImage
from keyleash.audit.undo.history import (
    UndoStep,
    images_of,
    in_order,
    read_back,
    step_order,
    steps_of,
)
from keyleash.audit.undo.selection import UndoSelection, read_others, select_events
from keyleash.audit.undo.trust import Grants, Trust, nothing_trusted
from keyleash.audit.undo.values import NOTHING, Images, KeyState, Value, read_images, read_keys
from keyleash.errors import NothingToUndoError, UndoTooLargeError
from keyleash.store.keyspace import OPERATORS, PUBLIC_PREFIX
from keyleash.store.scripts import UNDO_MAX_BYTES
from keyleash.store.store import Store


class ConflictKind(StrEnum):
    """The kind of reason why a key cannot be restored."""

    CHANGED = "changed"
    """Others changed it since, or between the selected events."""
    UNVERIFIED = "unverified"
    """Others may have changed it: its value was too large for a digest."""
    UNGRANTED = "ungranted"
    """The active policy does not permit the identity to change it."""
    NOT_RECORDED = "not-recorded"
    """No before-image was taken."""
    LARGE = "large"
    """It was too large for a before-image."""
    MASKED = "masked"
    """The key name is not recorded."""
    UNREADABLE = "unreadable"
    """Another kind or version of server made the before-image."""
    UNVALIDATED = "unvalidated"
    """An agent may have forged the before-image, and the server does not validate payloads."""
    CONTROL = "control"
    """It is one of keyleash's own keys."""


BY_OTHERS = frozenset({ConflictKind.CHANGED, ConflictKind.UNVERIFIED})
FORCIBLE = BY_OTHERS | {ConflictKind.UNGRANTED}
"""Conflicts that an operator may override; with the others there is nothing to restore."""


@dataclass(frozen=True, slots=True)
class Conflict:
    """A reason why a key cannot be restored.

    Attributes:
        after: The selected step after which others changed the key; None for other kinds.
        until: The selected step before which they did; None if that is now.
        by: The recorded changes by others; none means outside the guards.
        identities: The identities that may no longer change the key.
        size: The value's size in bytes, if it was too large.
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
        """Return whether it cannot be overridden, since there is nothing to restore."""
        return self.kind not in FORCIBLE


class Action(StrEnum):
    """The change that an undo makes to a key."""

    RESTORE = "restore"
    REMOVE = "remove"
    KEEP = "keep"
    """It already has the target value."""
    SKIP = "skip"
    """The operator leaves it out."""


@dataclass(frozen=True, slots=True)
class KeyPlan:
    """The plan for one key.

    Attributes:
        steps: The steps to undo, oldest first.
        current: The present value.
        target: The value to restore; None if it is not known.
        image: The before-image of the target value.
        is_skipped: Whether the operator leaves the key out.
    """

    key: bytes
    steps: tuple[UndoStep, ...]
    current: Value
    target: Value | None = None
    image: BeforeImage | None = None
    conflicts: tuple[Conflict, ...] = ()
    is_skipped: bool = False

    @property
    def action(self) -> Action:
        """Return the action, if no conflict prevents it."""
        if self.is_skipped:
            return Action.SKIP
        target, current = self.target or NOTHING, self.current
        if target.state == current.state and not target.is_large:
            return Action.KEEP
        return Action.REMOVE if target.is_absent else Action.RESTORE

    @property
    def is_blocked(self) -> bool:
        """Return whether a conflict is not overridden."""
        return not self.is_skipped and any(not conflict.is_forced for conflict in self.conflicts)

    @property
    def is_contested(self) -> bool:
        """Return whether others changed the key, or may have."""
        return any(conflict.kind in BY_OTHERS for conflict in self.conflicts)

    @property
    def has_expired(self) -> bool:
        """Return whether the target value has expired meanwhile."""
        had_value = self.image is not None and self.image.content is not None
        return had_value and self.target is not None and self.target.is_absent


@dataclass(frozen=True, slots=True)
class UndoPlan:
    """An undo plan.

    Attributes:
        keys: In the order of their newest step, the newest first.
        time_ms: When the keys were read, server time, Unix milliseconds.
        others: Further keys that the same events changed and that are not selected.
        untrusted: The number of untrusted events by identity; they are left out, see `Trust`.
    """

    keys: tuple[KeyPlan, ...]
    time_ms: int
    others: tuple[bytes, ...] = ()
    untrusted: Mapping[str, int] = field(default_factory=dict)

    @property
    def blocked(self) -> tuple[KeyPlan, ...]:
        """Return the keys with conflicts; with any of them, nothing is undone."""
        return tuple(key for key in self.keys if key.is_blocked)

    @property
    def changes(self) -> tuple[KeyPlan, ...]:
        """Return the keys that the undo changes."""
        return tuple(key for key in self.keys if key.action in {Action.RESTORE, Action.REMOVE})

    @property
    def steps(self) -> tuple[UndoStep, ...]:
        """Return all steps to undo, oldest first."""
        steps = (step for key in self.keys if not key.is_skipped for step in key.steps)
        return tuple(sorted(steps, key=step_order))


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The present values, the before-images, and the prefixes of keyleash's own keys."""

    keys: Mapping[bytes, Value]
    images: Images
    time_ms: int
    prefixes: tuple[bytes, ...] = ()


def plan_key(
    key: bytes, steps: Iterable[UndoStep], seen: Snapshot, others: Sequence[UndoStep] = ()
) -> KeyPlan | None:
    """Return the plan to restore *key* to its value before *steps*; None if they changed nothing.

    *others* are recorded changes by others. They explain conflicts, which are found by comparing
    states.
    """
    now = seen.keys[key]
    effective = [step for step in steps if not step.changed_nothing]
    if not effective:
        return None
    history = in_order([*effective, *others], now.state, seen.time_ms)
    ours = {step.event for step in effective}
    ordered = tuple(step for step in history if step.event in ours)
    first = ordered[0]
    # Without a before-image, no other conflict matters.
    conflicts = _missing_image(first, seen) or [
        replace(conflict, by=_between(history, conflict))
        for conflict in _breaks(ordered, now.state, seen.time_ms)
    ]
    if key.startswith(seen.prefixes):
        conflicts.append(Conflict(ConflictKind.CONTROL))
    image = first.before
    target = seen.images.restored(image)
    if target and target.expires_ms is not None and target.expires_ms <= seen.time_ms:
        target = NOTHING
    return KeyPlan(key, ordered, now, target, image, tuple(conflicts))


def _missing_image(first: UndoStep, seen: Snapshot) -> list[Conflict]:
    if first.large:
        return [Conflict(ConflictKind.LARGE, size=first.large)]
    if first.before is None:
        return [Conflict(ConflictKind.MASKED if first.is_masked else ConflictKind.NOT_RECORDED)]
    if first.before.content is None or seen.images[first.before.content] is not None:
        return []
    is_withheld = first.before.content in seen.images.withheld.images
    return [Conflict(ConflictKind.UNVALIDATED if is_withheld else ConflictKind.UNREADABLE)]


def _breaks(ordered: Sequence[UndoStep], now: KeyState, now_ms: int) -> Iterator[Conflict]:
    """Yield a conflict where the state before a step is not the state after the one before it."""
    for number, step in enumerate(ordered, 1):
        following = ordered[number] if number < len(ordered) else None
        state, at_ms = (following.before_state, following.time_ms) if following else (now, now_ms)
        match step.after_state.is_same(state, at_ms):
            case False:
                yield Conflict(ConflictKind.CHANGED, step, following)
            case None:
                yield Conflict(ConflictKind.UNVERIFIED, step, following)


def _between(history: Sequence[UndoStep], conflict: Conflict) -> tuple[UndoStep, ...]:
    """Return the steps of *history* between those of *conflict*."""
    places = {step.event: place for place, step in enumerate(history)}
    first = places[conflict.after.event] + 1 if conflict.after else 0
    last = places[conflict.until.event] if conflict.until else len(history)
    return tuple(history[first:last])


MAX_KEYS = 10_000
"""Keys in an undo at most: the server serves no other client meanwhile."""


def plan_undo(
    store: Store,
    selection: UndoSelection,
    *,
    forced: Container[bytes] = (),
    skipped: Container[bytes] = (),
    across_policies: bool = False,
) -> UndoPlan:
    """Plan to restore each key to its value before the oldest selected event; change nothing.

    Args:
        selection: The events to undo.
        forced: Keys whose conflicts are overridden.
        skipped: Keys that are left out.
        across_policies: Whether to undo changes that the active policy no longer permits.

    Raises:
        NothingToUndoError: no event is selected, or the selected events changed nothing.
        OperationError (unknown-event): there is no such event.
        OperationError (ambiguous-event): several identities have an event of that id.
        OperationError (unknown-identity): no identity ever had that name.
        UndoTooLargeError: it would block the server for too long.
    """
    grants = Grants(store)
    trust = Trust(grants, selection.keys)
    by_key = steps_of(select_events(store, selection, trust))
    chosen = {key: steps for key, steps in by_key.items() if selection.concerns(key)}
    if len(chosen) > MAX_KEYS:
        raise UndoTooLargeError(
            f"the undo would change {len(chosen)} keys; at most {MAX_KEYS} are allowed",
            help="undo fewer events at a time, the newest first",
        )
    seen = _read_snapshot(store, chosen)
    steps = {key: read_back(some, seen.images) for key, some in chosen.items()}
    plans = {key: plan for key in steps if (plan := plan_key(key, steps[key], seen))}
    if not plans:
        if masked := [key for key in by_key if key not in chosen and selection.may_concern(key)]:
            shown = masked[0].decode("utf-8", "backslashreplace")
            raise NothingToUndoError(f"the key is masked, so its name is not recorded: `{shown}`")
        if trust.untrusted.total():
            raise nothing_trusted(trust.untrusted)
        raise NothingToUndoError("the selected events changed nothing")
    contested = {key: steps[key] for key, plan in plans.items() if plan.is_contested}
    if contested:
        for key, others in read_others(store, contested, grants).items():
            plans[key] = plan_key(key, steps[key], seen, others) or plans[key]
    found = [
        _decided(plan, forced, skipped, None if across_policies else grants)
        for plan in plans.values()
    ]
    found.sort(key=lambda plan: plan.steps[-1].time_ms, reverse=True)
    further_keys = tuple(key for key in by_key if key not in chosen)
    result = UndoPlan(tuple(found), seen.time_ms, further_keys, +trust.untrusted)
    size = sum(key.current.size + (key.target.size if key.target else 0) for key in result.changes)
    if size > UNDO_MAX_BYTES:
        raise UndoTooLargeError(
            f"the undo would move {size >> 20} MiB; at most {UNDO_MAX_BYTES >> 20} MiB are allowed",
            help="undo fewer events at a time, the newest first",
        )
    return result


def _read_snapshot(store: Store, chosen: Mapping[bytes, Sequence[UndoStep]]) -> Snapshot:
    time_ms = store.now_ms()
    images = read_images(store, images_of(chosen.values()))
    prefixes = (store.keys.prefix.encode(), PUBLIC_PREFIX.encode())
    return Snapshot(read_keys(store, list(chosen)), images, time_ms, prefixes)


def _decided(
    plan: KeyPlan, forced: Container[bytes], skipped: Container[bytes], grants: Grants | None
) -> KeyPlan:
    """Add a conflict if an identity may no longer change the key, and the operator's choices."""
    names = dict.fromkeys(step.identity for step in plan.steps if step.identity != OPERATORS)
    ungranted = tuple(name for name in names if grants and not grants.may_change(name, plan.key))
    further = [Conflict(ConflictKind.UNGRANTED, identities=ungranted)] if ungranted else []
    # Looked up even without a conflict: the caller may check that each forced key is in the plan.
    is_forced = plan.key in forced
    conflicts = tuple(
        replace(conflict, is_forced=is_forced and conflict.kind in FORCIBLE)
        for conflict in (*plan.conflicts, *further)
    )
    return replace(plan, conflicts=conflicts, is_skipped=plan.key in skipped)
