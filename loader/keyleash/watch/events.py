"""The events of a watcher: drift found and resolved, and actions."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any

from keyleash.results import Result
from keyleash.text import json_object


class WatchEventKind(StrEnum):
    """The kind of an event. All but the last three are drift."""

    UNREACHABLE = "unreachable"
    """The server does not answer."""
    NOT_PERMITTED = "not-permitted"
    """It denies a command to the watcher's user."""
    NOT_SERVING = "not-serving"
    """It answers but does not serve, because it loads its data or lost its primary."""
    LINK_DOWN = "link-down"
    """A replica has no link to its primary."""
    NO_POLICY = "no-policy"
    """No policy is active on it."""
    GENERATION = "generation"
    """A replica has another policy than its primary."""
    SOURCE_MISSING = "source-missing"
    """A guard record names a script whose text is not stored."""
    SOURCE_CHANGED = "source-changed"
    """A stored text does not match its digest; it is never loaded."""
    SEVERAL_PRIMARIES = "several-primaries"
    """More than one server accepts writes."""
    UNREADABLE = "unreadable"
    """The server's records are corrupt."""
    LOADED = "loaded"
    """Scripts, or on a cluster ACL users, were loaded."""
    FROZEN = "frozen"
    """An identity was frozen, because a node of a cluster suspended it."""
    ROLE = "role"
    """The server is watched from now on, or no longer, or its role changed."""


class WatchState(StrEnum):
    """The state of a drift, or of an action."""

    FOUND = "found"
    RESOLVED = "resolved"
    DONE = "done"


@dataclass(frozen=True, slots=True)
class WatchEvent(Result):
    """An event of a watcher: a drift that begins or ends, or an action.

    Attributes:
        node: The server.
        message: A sentence for people.
        subject: The identity and digest for a drift of scripts; else None.
        at: The time of the watcher's clock, in UTC.
    """

    node: str
    kind: WatchEventKind
    message: str
    subject: str | None = None
    state: WatchState = WatchState.FOUND
    at: datetime = field(default_factory=lambda: datetime.now(UTC), compare=False)

    @property
    def key(self) -> tuple[str, WatchEventKind, str | None]:
        """The parts that identify a drift, whatever its message."""
        return self.node, self.kind, self.subject

    def to_dict(self) -> dict[str, Any]:
        return json_object(self, "at", "node", "kind", "message", "subject", "state")


def done(node: str, kind: WatchEventKind, message: str) -> WatchEvent:
    """Return the event of an action."""
    return WatchEvent(node, kind, message, state=WatchState.DONE)
