"""What a watcher tells: what it found wrong, what is right again, what it did."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class WatchEventKind(StrEnum):
    """What a piece of news is about. All but the last two are drift."""

    UNREACHABLE = "unreachable"
    """The server does not answer."""
    NOT_PERMITTED = "not-permitted"
    """It does not let the watcher do its work."""
    NOT_SERVING = "not-serving"
    """It answers and serves nothing, as it loads its data or lost its primary."""
    LINK_DOWN = "link-down"
    """A replica gets nothing from its primary."""
    NO_POLICY = "no-policy"
    """No policy is active on it."""
    GENERATION = "generation"
    """A replica has another policy than its primary."""
    SOURCE_MISSING = "source-missing"
    """A guard record names a script whose text is not recorded."""
    SOURCE_CHANGED = "source-changed"
    """A recorded text is not that of its digest; it is never loaded."""
    SEVERAL_PRIMARIES = "several-primaries"
    """More than one of the servers takes writes."""
    UNREADABLE = "unreadable"
    """The server's records are not such as keyleash writes."""
    LOADED = "loaded"
    """Scripts were loaded."""
    ROLE = "role"
    """The server is watched from now on, or no longer, or has another role."""


class WatchState(StrEnum):
    """Whether a drift begins or ends; what is done at once has neither."""

    FOUND = "found"
    MENDED = "mended"
    DONE = "done"


@dataclass(frozen=True, slots=True)
class WatchEvent:
    """
    One line of a watcher.

    Attributes:
        node: Which server.
        subject: Of a drift of scripts, the identity and the digest; else empty.
        message: A sentence about it.
    """

    node: str
    kind: WatchEventKind
    state: WatchState
    subject: str
    message: str


@dataclass(frozen=True, slots=True)
class Drift:
    """Something that is not as it should be; see `News`."""

    node: str
    kind: WatchEventKind
    message: str
    subject: str = ""

    @property
    def key(self) -> tuple[str, WatchEventKind, str]:
        """What makes it the same drift as before, however it is worded now."""
        return self.node, self.kind, self.subject
