"""Why identities are suspended, by what the control stream says."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from itertools import islice

from keyleash.audit.control import ControlEvent, read_control
from keyleash.protocol.active import Client
from keyleash.protocol.keyspace import Keyspace

LOOKED_AT = 2_000
"""So many of the newest control events are looked at, however many there are."""
STOPPING = frozenset({"suspend", "freeze"})


@dataclass(frozen=True, slots=True)
class Suspension:
    """
    Who suspended an identity.

    Attributes:
        since_ms: Server time, Unix milliseconds.
        reason: Empty if none was given.
    """

    actor: str
    since_ms: int
    reason: str = ""


def read_suspensions(
    client: Client, keyspace: Keyspace, identities: Collection[str]
) -> dict[str, Suspension]:
    """The newest suspension of each of *identities*, of those for whom one is found."""
    found: dict[str, Suspension] = {}
    if not identities:
        return found
    events = read_control(client, keyspace, identities, newest_first=True)
    for event in islice(events, LOOKED_AT):
        if event.event in STOPPING:
            for name in event.identities.intersection(identities):
                found.setdefault(name, _suspension(event))
        if len(found) == len(identities):
            break
    return found


def _suspension(event: ControlEvent) -> Suspension:
    return Suspension(event.actor, event.time_ms, event.details.get("reason", ""))
