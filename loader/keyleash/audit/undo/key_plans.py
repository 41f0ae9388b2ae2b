"""The undo plan: the target value of each key, and conflicts."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import datetime
from enum import StrEnum
from typing import Annotated, Any, Unpack

from keyleash.audit.entries import LARGE, AuditEvent, BeforeImage
from keyleash.audit.read import EVERYTHING, Query
from keyleash.audit.selection import OneIdentity, UndoOptions, query_of
from keyleash.audit.undo.grants import Grants
from keyleash.audit.undo.history import (
    UndoStep,
    event_name,
    images_of,
    in_order,
    read_back,
    step_order,
    steps_of,
)
from keyleash.audit.undo.key_values import NOTHING, Images, KeyState, Value, read_images, read_keys
from keyleash.audit.undo.selection import (
    concerns,
    describe,
    dropped_index,
    may_concern,
    read_drops,
    read_others,
    select_events,
)
from keyleash.commands.facts import INDEXES
from keyleash.errors import (
    ArgumentError,
    NothingToUndoError,
    PolicyError,
    UndoTooLargeError,
    UsageError,
)
from keyleash.operations import operation
from keyleash.operations.types import Param
from keyleash.policy.patterns import match, parse_pattern
from keyleash.results import Instant, Result
from keyleash.store.agent_keys import node_of
from keyleash.store.keyspace import CONTROL_PREFIX, OPERATORS
from keyleash.store.scripts import UNDO_MAX_BYTES
from keyleash.store.store import Store
from keyleash.store.wire import MAX_IMAGES
from keyleash.text import counted, json_object, printable, to_json

MAX_BLAMED = 20
"""Maximum number of changes by others per conflict in JSON."""


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


@dataclass(frozen=True, slots=True, repr=False)
class KeyPlan:
    """The plan for one key; `to_dict` has its events and values.

    Attributes:
        steps: The steps to undo, oldest first.
        current: The present value.
        target: The value to restore; None if it is not known.
        image: The before-image of the target value.
        is_skipped: Whether the operator leaves the key out.
        node: The node of a cluster that has the key; empty on one server.
        dropped: The index with which the key was perhaps deleted, and the event; else empty.
    """

    key: bytes
    steps: tuple[UndoStep, ...]
    current: Value
    target: Value | None = None
    image: BeforeImage | None = None
    conflicts: tuple[Conflict, ...] = ()
    is_skipped: bool = False
    node: str = ""
    dropped: str = ""

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
        """Return whether a conflict is not overridden. A key with its target value has none."""
        return not self.is_skipped and any(
            conflict.is_final or (self.action is not Action.KEEP and not conflict.is_forced)
            for conflict in self.conflicts
        )

    @property
    def is_contested(self) -> bool:
        """Return whether others changed the key, or may have."""
        return any(conflict.kind in BY_OTHERS for conflict in self.conflicts)

    @property
    def has_expired(self) -> bool:
        """Return whether the target value has expired meanwhile."""
        had_value = self.image is not None and self.image.content is not None
        return had_value and self.target is not None and self.target.is_absent

    def to_dict(self) -> dict[str, Any]:
        """Return the plan for the key as part of `UndoPlan.to_dict`."""
        return {
            **json_object(self, "key", "node?"),
            "action": "blocked" if self.is_blocked else str(self.action),
            "blocked": self.is_blocked,
            "before": to_json(self.target),
            "now": self.current.to_dict(),
            "events": to_json(self.steps),
            "conflicts": [
                {
                    **json_object(conflict, "kind", "forced=is_forced"),
                    "message": conflict_reason(self, conflict),
                    "by": to_json(conflict.by[:MAX_BLAMED]),
                }
                for conflict in self.conflicts
            ],
        }


@dataclass(frozen=True, slots=True, repr=False)
class UndoPlan(Result):
    """An undo plan; `to_dict` has its events and values.

    Attributes:
        keys: In the order of their newest step, the newest first.
        time_ms: When the keys were read, server time, Unix milliseconds.
        others: Further keys that the same events changed and that are not selected.
        description: The selection as options of `keyleash undo`, for the audit log.
        drops: The selected events that deleted documents with their index, which stay deleted.
    """

    keys: tuple[KeyPlan, ...]
    time_ms: int
    others: tuple[bytes, ...] = ()
    description: str = ""
    drops: tuple[AuditEvent, ...] = ()

    time = Instant[datetime]("time_ms")

    @property
    def blocked(self) -> tuple[KeyPlan, ...]:
        """Return the keys with conflicts; with any of them, nothing is undone."""
        return tuple(key for key in self.keys if key.is_blocked)

    @property
    def changes(self) -> tuple[KeyPlan, ...]:
        """Return the keys that the undo changes."""
        return tuple(key for key in self.keys if key.action in {Action.RESTORE, Action.REMOVE})

    @property
    def nodes(self) -> tuple[str, ...]:
        """Return the nodes of a cluster whose keys change, each in one step; none on one server."""
        return tuple(sorted({key.node for key in self.changes if key.node}))

    @property
    def steps(self) -> tuple[UndoStep, ...]:
        """Return all steps to undo, oldest first."""
        steps = (step for key in self.keys if not key.is_skipped for step in key.steps)
        return tuple(sorted(steps, key=step_order))

    @property
    def identities(self) -> tuple[str, ...]:
        """Return the identities whose changes are undone."""
        return tuple(sorted({step.identity for step in self.steps}))

    def __repr__(self) -> str:
        counts = f"changes={len(self.changes)}, blocked={len(self.blocked)}"
        return f"UndoPlan({len(self.keys)} keys, {counts})"

    def to_dict(self) -> dict[str, Any]:
        fields = json_object(self, "identities", "keys", "others")
        fields["drops"] = list(map(event_name, self.drops))
        return {**fields, "blocked": len(self.blocked)}


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The present values and the before-images."""

    keys: Mapping[bytes, Value]
    images: Images
    time_ms: int


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
    if key.startswith(CONTROL_PREFIX.encode()):
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
    return [Conflict(ConflictKind.UNREADABLE)]


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


EventIds = Annotated[
    Sequence[str], Param("ids", help="One event or batch; repeatable.", flag="--event")
]


@operation("undo --dry-run")
def plan_selected(
    store: Store,
    *,
    events: EventIds = (),
    identity: OneIdentity | None = None,
    **options: Unpack[UndoOptions],
) -> UndoPlan:
    """Return what an undo of the selected events would restore, and its conflicts.

    Args:
        events: Ids of events, a batch whole; then nothing else selects.
        correlation: All events with this correlation id.
        identity: All events of this identity; needs *since*.
        key: All changes of a key, or of the keys of a pattern; needs *since*.
        since: The earliest time of the events, in the forms of `Operator.audit.events`.
        until: The latest time, in the same form.
        force: Keys whose conflicts are overridden; text may be escaped as in the output, or be a
            pattern, as in policies.
        skip: Keys that are left as they are, likewise.
        skip_conflicts: Leave out each key with a conflict that nothing overrides.
        across_policies: Also undo what the active policy does not grant any more.

    Raises:
        ArgumentError: the arguments select nothing, or exclude each other.
        NothingToUndoError: no event is selected, or the events changed nothing.
        OperationError (unknown-event): there is no such event.
        OperationError (ambiguous-event): several identities have an event of that id.
        OperationError (unknown-identity): no identity ever had that name.
        UndoTooLargeError: it would block the server for too long.
        UsageError: a key of *force* or *skip* is not in the plan.
    """
    values = {**options, "identity": identity}
    selecting = ("key", "correlation", "since", "until", "identity")
    given = {name for name in selecting if values.get(name) is not None}
    if events and given:
        raise ArgumentError("`events` cannot be combined with other selections")
    if not events and not given & {"correlation", "identity", "key"}:
        raise ArgumentError(
            "no events are selected",
            help="give ids of events, a correlation id, or an identity or a key with `since`",
        )
    if not events and not given & {"correlation", "since"}:
        raise ArgumentError("`identity` and `key` need `since`", help="such as `10m`")
    return plan_undo(store, query_of(store, options), events=events, identity=identity, **options)


def plan_undo(
    store: Store,
    query: Query = EVERYTHING,
    *,
    events: Sequence[str] = (),
    identity: str | None = None,
    **options: Unpack[UndoOptions],
) -> UndoPlan:
    """Plan to restore each key to its value before the oldest selected event; change nothing.

    Later changes of the same keys are conflicts. Arguments and errors are those of
    `plan_selected`; *events* are ids in place of *query*.
    """
    grants = Grants(store)
    selected = select_events(store, query, events=events, identity=identity)
    by_key = steps_of(selected)
    drops = tuple(event for event in selected if event.documents)
    chosen = {key: steps for key, steps in by_key.items() if concerns(query, key)}
    if len(chosen) > MAX_KEYS:
        raise UndoTooLargeError(
            f"the undo would change {len(chosen)} keys; at most {MAX_KEYS} are allowed",
            help="undo fewer events at a time, the newest first",
        )
    now_ms = store.now_ms()
    images = read_images(store, images_of(chosen.values()))
    seen = Snapshot(read_keys(store, list(chosen)), images, now_ms)
    steps = {key: read_back(some, seen.images) for key, some in chosen.items()}
    plans = {key: plan for key in steps if (plan := plan_key(key, steps[key], seen))}
    if not plans:
        if masked := [key for key in by_key if key not in chosen and may_concern(query, key)]:
            shown = masked[0].decode("utf-8", "backslashreplace")
            raise NothingToUndoError(f"the key is masked, so its name is not recorded: `{shown}`")
        for drop in drops:
            count = counted(drop.documents or 0, "document")
            raise NothingToUndoError(
                f"{count} went with {dropped_index(drop)}: not recorded, so they cannot be restored"
            )
        if all(event.op in INDEXES for event in selected):
            why = "undo does not make or drop indexes"
            raise NothingToUndoError(f"the selected events changed only search indexes; {why}")
        raise NothingToUndoError("the selected events changed nothing")
    contested = {key: steps[key] for key, plan in plans.items() if plan.is_contested}
    if contested:
        for key, others in read_others(store, contested).items():
            plans[key] = plan_key(key, steps[key], seen, others) or plans[key]
        for key in [key for key in contested if plans[key].current.is_absent]:
            since_ms = plans[key].steps[-1].time_ms
            dropped = next(map(dropped_index, read_drops(store, since_ms)), "")
            plans[key] = replace(plans[key], dropped=dropped)
    forced = _keys_of(options.get("force") or (), plans)
    skipped = _keys_of(options.get("skip") or (), plans)
    active = None if options.get("across_policies") else grants
    found = [_decided(plan, forced, skipped, active) for plan in plans.values()]
    if options.get("skip_conflicts"):
        found = [replace(plan, is_skipped=plan.is_skipped or plan.is_blocked) for plan in found]
    if store.cluster is not None:
        found = [replace(plan, node=str(node_of(store, plan.key))) for plan in found]
    found.sort(key=lambda plan: plan.steps[-1].time_ms, reverse=True)
    further_keys = tuple(key for key in by_key if key not in chosen)
    description = describe(query, events, identity)
    result = UndoPlan(tuple(found), seen.time_ms, further_keys, description, drops)
    size = sum(key.current.size + (key.target.size if key.target else 0) for key in result.changes)
    if size > UNDO_MAX_BYTES:
        raise UndoTooLargeError(
            f"the undo would move {size >> 20} MiB; at most {UNDO_MAX_BYTES >> 20} MiB are allowed",
            help="undo fewer events at a time, the newest first",
        )
    return result


def _keys_of(given: Iterable[str | bytes], keys: Collection[bytes]) -> set[bytes]:
    """Return the keys of a plan that are given by name, as printed, or by a pattern."""
    named: dict[str | bytes, bytes] = {printable(key): key for key in keys}
    named |= {key.decode("utf-8", "surrogateescape"): key for key in keys} | {k: k for k in keys}
    found: set[bytes] = set()
    for item in given:
        some = {named[item]} if item in named else set()
        with suppress(PolicyError):
            if not some and isinstance(item, str):
                pattern = parse_pattern(item)
                some = {key for key in keys if match(pattern, key) is not None}
        if not some:
            raise UsageError(
                f"`{printable(item)}` is not a key of this undo, nor a pattern of one",
                help="see the keys of a plan without it",
            )
        found |= some
    return found


def _decided(
    plan: KeyPlan, forced: set[bytes], skipped: set[bytes], grants: Grants | None
) -> KeyPlan:
    """Add a conflict if an identity may no longer change the key, and the operator's choices."""
    names = dict.fromkeys(step.identity for step in plan.steps if step.identity != OPERATORS)
    ungranted = tuple(name for name in names if grants and not grants.may_change(name, plan.key))
    further = [Conflict(ConflictKind.UNGRANTED, identities=ungranted)] if ungranted else []
    conflicts = tuple(
        replace(conflict, is_forced=plan.key in forced and conflict.kind in FORCIBLE)
        for conflict in (*plan.conflicts, *further)
    )
    if plan.action is Action.KEEP and undone_by(plan) is None:
        conflicts = tuple(conflict for conflict in conflicts if conflict.is_final)
    return replace(plan, conflicts=conflicts, is_skipped=plan.key in skipped)


def action_text(plan: KeyPlan) -> str:
    """Return the action on a key, for a table of a plan."""
    if plan.is_blocked:
        is_final = any(conflict.is_final for conflict in plan.conflicts)
        return "cannot be undone" if is_final else "conflict"
    if plan.has_expired and plan.action == "remove":
        return "remove: expired by now"
    if plan.action == "keep":
        return "unchanged: already has this value" if undone_by(plan) is None else "already undone"
    return str(plan.action)


def undone_by(plan: KeyPlan) -> str | None:
    """Return the id of the undo that already restored the key, if it did."""
    changes = [step for conflict in plan.conflicts for step in conflict.by]
    if plan.action != "keep" or not changes or changes[-1].identity != OPERATORS:
        return None
    return changes[-1].correlation


def conflict_label(plan: KeyPlan, conflict: Conflict) -> str:
    """Return the word before a reason; only a `conflict` can be overridden."""
    if not plan.is_blocked and plan.action == "keep":
        return "note"
    if conflict.is_forced:
        return "forced"
    return "nothing to restore" if conflict.is_final else "conflict"


def conflict_reason(plan: KeyPlan, conflict: Conflict) -> str:
    """Return the predicate of a sentence whose subject is the key of *plan*."""
    first = plan.steps[0]
    after = (conflict.after or first).event
    match conflict.kind:
        case "changed" if (undo := undone_by(plan)) is not None:
            return f"was already undone by {undo}"
        case "changed" if plan.dropped and not (conflict.by or conflict.until):
            return f"was perhaps deleted with {plan.dropped}"
        case "changed":
            until = conflict.until
            when = f"between events {after} and {until.event}" if until else "since"
            return f"changed {when} {_changed_by(plan, conflict)}"
        case "unverified":
            state = "was too large to be compared" if _is_large(conflict) else "is not recorded"
            others = f"; it was changed {_changed_by(plan, conflict)}" if conflict.by else ""
            return f"may have been changed by others: its value after event {after} {state}{others}"
        case "ungranted":
            names = ", ".join(f"`{name}`" for name in conflict.identities)
            return f"the active policy no longer lets {names} change it"
        case "not-recorded":
            return (
                f"event {first.event} has no before-image of it: `before_images`"
                f" was off for it, or the event changed more than {MAX_IMAGES} keys"
            )
        case "large":
            size = counted(conflict.size, "byte")
            return f"not reversible: its {size} before event {first.event} were too large to record"
        case "masked":
            return "not reversible: it is masked, so its name is not recorded"
        case "unreadable":
            return f"this server cannot read its before-image in event {first.event}"
        case _:
            return "one of keyleash's own keys"


def _is_large(conflict: Conflict) -> bool:
    after, until = conflict.after, conflict.until
    return bool((after and after.after_state.digest == LARGE) or (until and until.large))


def _changed_by(plan: KeyPlan, conflict: Conflict) -> str:
    if not conflict.by:
        # A hash field that expires changes the hash without any event.
        kinds = {plan.current.kind, plan.target.kind if plan.target else ""}
        return "outside the guards" + (", or fields of it expired" if "hash" in kinds else "")
    first, *more = conflict.by
    rest = f", and {counted(len(more), 'further event')}" if more else ""
    return f"by {first}{rest}"
