"""What others did to keys besides what is undone, as trails tell."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from keyleash.audit.query import Query
from keyleash.audit.reader import read_events
from keyleash.audit.undo.grants import Grants
from keyleash.audit.undo.selection import trail_names
from keyleash.audit.undo.steps import Step, images_of, read_back, steps_on
from keyleash.audit.undo.trust import Trust
from keyleash.audit.undo.values import read_images
from keyleash.protocol.active import Client
from keyleash.protocol.keyspace import Keyspace


def read_others(
    client: Client,
    keyspace: Keyspace,
    undone: Mapping[bytes, Sequence[Step]],
    grants: Grants,
) -> dict[bytes, list[Step]]:
    """Read what was done to each of these keys since the oldest step, and is not undone.

    What changed nothing, as far as is known, is left out, and so is what is not trusted.
    """
    since_ms = min(step.time_ms for steps in undone.values() for step in steps)
    ours = {step.event for steps in undone.values() for step in steps}
    only = next(iter(undone)) if len(undone) == 1 else None
    events = read_events(
        client, keyspace, trail_names(client, keyspace), Query(key=only, since_ms=since_ms)
    )
    theirs = (event for event in events if f"{event.identity}/{event.id}" not in ours)
    steps = steps_on(undone, filter(Trust(grants, undone).is_trusted, theirs))
    images = read_images(client, keyspace, images_of(steps.values()))
    return {
        key: [step for step in read_back(some, images) if not step.changed_nothing]
        for key, some in steps.items()
    }
