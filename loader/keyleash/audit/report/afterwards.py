"""What a key was left with, as the before-image of whoever changed it next has it."""

from __future__ import annotations

from collections.abc import Iterable

from keyleash.audit.event import Held
from keyleash.audit.query import Query
from keyleash.audit.reader import read_events
from keyleash.audit.undo.ordering import place
from keyleash.audit.undo.selection import trail_names
from keyleash.audit.undo.steps import Step, steps_of
from keyleash.protocol.active import Client
from keyleash.protocol.keyspace import Keyspace


def read_afterwards(client: Client, keyspace: Keyspace, lasts: Iterable[Step]) -> dict[bytes, Held]:
    """
    For the last step of each of some keys, what the next event on the key found there.

    Events of one millisecond may stand in any order, so the digest is to be compared. A key that
    no event changed later, or without an image, is left out.
    """
    waiting = {step.key: step for step in lasts}
    if not waiting:
        return {}
    found: dict[bytes, Held] = {}
    query = Query(
        key=next(iter(waiting)) if len(waiting) == 1 else None,
        since_ms=min(step.time_ms for step in waiting.values()),
    )
    for event in read_events(client, keyspace, trail_names(client, keyspace), query):
        if waiting.keys().isdisjoint(event.keys):
            continue
        for key, (step, *_) in steps_of([event]).items():
            if key in waiting and _is_later(step, waiting[key]):
                del waiting[key]
                if step.before is not None and step.before.held is not None:
                    found[key] = step.before.held
        if not waiting:
            break
    return found


def _is_later(step: Step, last: Step) -> bool:
    return step.event != last.event and place(step) > place(last)
