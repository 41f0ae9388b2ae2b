"""Who changed a key besides what is undone."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import replace

from keyleash.audit.query import Query
from keyleash.audit.reader import read_events
from keyleash.audit.undo.ordering import in_order
from keyleash.audit.undo.plan import KeyPlan, Kind, Obstacle
from keyleash.audit.undo.selection import trail_names
from keyleash.audit.undo.steps import State, Step, read_back, steps_of
from keyleash.audit.undo.values import read_images
from keyleash.protocol.active import Client
from keyleash.protocol.keyspace import Keyspace

_BLAMED = frozenset({Kind.CHANGED, Kind.UNVERIFIED})


def name_others(
    client: Client, keyspace: Keyspace, plans: Sequence[KeyPlan], time_ms: int
) -> list[KeyPlan]:
    """Put into each plan who changed its key, as far as trails tell."""
    blamed = {one.key: one for one in plans if any(o.kind in _BLAMED for o in one.obstacles)}
    if not blamed:
        return list(plans)
    steps = _others(client, keyspace, blamed)
    digests = {
        dump: value.digest if value else None
        for dump, value in read_images(client, keyspace, _dumps(steps)).items()
    }
    by_key: dict[bytes, list[Step]] = defaultdict(list)
    for step in steps:
        known = read_back(step, digests)
        if not known.changed_nothing:
            by_key[step.key].append(known)
    return [_named(one, by_key[one.key], time_ms) if one.key in blamed else one for one in plans]


def _others(client: Client, keyspace: Keyspace, blamed: dict[bytes, KeyPlan]) -> list[Step]:
    """What was done to these keys since the oldest step of each, and is not undone."""
    since_ms = min(one.steps[0].time_ms for one in blamed.values())
    undone = {step.event for one in blamed.values() for step in one.steps}
    only = next(iter(blamed)) if len(blamed) == 1 else None
    query = Query(key=only, since_ms=since_ms)
    events = (
        event
        for event in read_events(client, keyspace, trail_names(client, keyspace), query)
        if f"{event.identity}/{event.id}" not in undone and not blamed.keys().isdisjoint(event.keys)
    )
    found = steps_of(events)
    return [
        step
        for key, one in blamed.items()
        for step in found.get(key, ())
        if step.time_ms >= one.steps[0].time_ms
    ]


def _dumps(steps: Iterable[Step]) -> Iterable[bytes]:
    return (step.before.dump for step in steps if step.before and step.before.dump)


def _named(plan: KeyPlan, others: Sequence[Step], time_ms: int) -> KeyPlan:
    end = State(plan.now.digest, plan.now.expires_ms)
    ordered = in_order([*plan.steps, *others], end, time_ms)
    return replace(
        plan,
        obstacles=tuple(
            replace(one, by=_between(ordered, one)) if one.kind in _BLAMED else one
            for one in plan.obstacles
        ),
    )


def _between(ordered: Sequence[Step], obstacle: Obstacle) -> tuple[Step, ...]:
    places = {step.event: place for place, step in enumerate(ordered)}
    first = places[obstacle.after.event] + 1 if obstacle.after else 0
    last = places[obstacle.until.event] if obstacle.until else len(ordered)
    return tuple(ordered[first:last])
