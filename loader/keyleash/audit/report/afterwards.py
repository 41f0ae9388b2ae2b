"""What a key was left with, as the before-image of whoever changed it next has it."""

from __future__ import annotations

from collections.abc import Iterable

from keyleash.audit.query import Query
from keyleash.audit.reader import read_events
from keyleash.audit.undo.selection import trail_names
from keyleash.audit.undo.steps import Step, steps_of
from keyleash.audit.undo.trust import Trust
from keyleash.audit.undo.withheld import Recorded
from keyleash.protocol.active import Client
from keyleash.protocol.keyspace import Keyspace


def read_afterwards(
    client: Client, keyspace: Keyspace, lasts: Iterable[Step]
) -> dict[bytes, list[Recorded]]:
    """
    For the last step of each of some keys, what the next event on the key found there.

    Ids of two trails do not tell the order within a millisecond, so what other events of that
    millisecond found is among it: the digest is to be compared.
    """
    waiting = {step.key: step for step in lasts}
    found: dict[bytes, list[Recorded]] = {key: [] for key in waiting}
    if not waiting:
        return found
    query = Query(
        key=next(iter(waiting)) if len(waiting) == 1 else None,
        since_ms=min(step.time_ms for step in waiting.values()),
    )
    trust = Trust.of(client, keyspace)
    for event in read_events(client, keyspace, trail_names(client, keyspace), query):
        if waiting.keys().isdisjoint(event.keys) or not trust.is_trusted(event):
            continue
        for key, (step, *_) in steps_of([event]).items():
            last = waiting.get(key)
            if last is None or step.time_ms < last.time_ms or step.event == last.event:
                continue
            if step.before is not None and step.before.held is not None:
                found[key].append((step.identity, step.before.held))
            if step.time_ms > last.time_ms:
                del waiting[key]
        if not waiting:
            break
    return found
