"""Which trails there are: a stream each on the server, a folder each in an archive."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum

from keyleash.protocol.active import Client
from keyleash.protocol.keyspace import OPERATORS, Keyspace


class TrailKind(StrEnum):
    """What is in a trail, as docs/audit.md has it."""

    AUDIT = "audit"
    DENIED = "denied"
    CONTROL = "control"


@dataclass(frozen=True, slots=True)
class Trail:
    """One stream.

    Attributes:
        identity: Whose it is, `@operators`, or empty for the control stream.
        stream: The stream's key.
    """

    kind: TrailKind
    identity: str
    stream: str

    @property
    def name(self) -> str:
        """Its folder in an archive: `audit/agent-runner`, `control`."""
        return f"{self.kind}/{self.identity}" if self.identity else str(self.kind)


def control_trail(keyspace: Keyspace) -> Trail:
    """What operators did."""
    return Trail(TrailKind.CONTROL, "", keyspace.control)


def find_trails(client: Client, keyspace: Keyspace, identities: Iterable[str]) -> list[Trail]:
    """
    The trails that there may be; their streams need not be there yet.

    Args:
        client: An operator's client.
        keyspace: Where the control keys are.
        identities: Whose trails; none for those of everybody who was ever active, of the
            operators, and the control stream, which comes first.
    """
    wanted = sorted(identities)
    if wanted:
        return [trail for name in wanted for trail in _trails_of(keyspace, name)]
    known = sorted(name.decode() for name in client.hkeys(keyspace.layouts))
    return [
        control_trail(keyspace),
        Trail(TrailKind.AUDIT, OPERATORS, keyspace.audit(OPERATORS)),
        *(trail for name in known for trail in _trails_of(keyspace, name)),
    ]


def _trails_of(keyspace: Keyspace, identity: str) -> tuple[Trail, Trail]:
    return (
        Trail(TrailKind.AUDIT, identity, keyspace.audit(identity)),
        Trail(TrailKind.DENIED, identity, keyspace.denied(identity)),
    )
