"""What all limits of an identity have counted."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

from keyleash.commands import CommandSpec
from keyleash.decision.counts import Count, new_count
from keyleash.decision.moving import continued_count, moved_count, way
from keyleash.errors import ReplyCode
from keyleash.policy import Identity, Limit, SubjectKind


class Sizes(Protocol):
    """A server that says how large keys are. Keys are named as the agent names them."""

    def length(self, key: bytes) -> int:
        """Return the length of a string in bytes; 0 for a key of another type."""

    def work(
        self, spec: CommandSpec, argv: Sequence[bytes], keys: Sequence[bytes], left: float
    ) -> float:
        """Return the units of work of a call; more than *left* if the server cannot tell."""


@dataclass(slots=True)
class ModelState:
    """
    What was counted, by limit and subject.

    A reload moves what the identity itself has counted. Counters of a token or a
    segment are moved when they are next seen, if they have not expired by then.

    Attributes:
        refuses: With what every call is refused: the identity has no state.
        suspended: 0, 1 until somebody resumes the identity, or until when it is suspended, µs.
        reason: Why it is suspended, as refusals say it.
        refused_us: When the newest refusals were that count towards its suspending itself.
        sizes: The server whose keys a call is about; None if there is none to ask.
        is_full: Whether so many events wait for their export that no further one may be made.
    """

    counts: dict[tuple[str, bytes], Count] = field(default_factory=dict)
    refuses: ReplyCode | None = None
    suspended: int = 0
    reason: str = ""
    refused_us: list[int] = field(default_factory=list)
    is_full: bool = False
    sizes: Sizes | None = None

    def count(self, limit: Limit, subject: bytes, now_us: int) -> Count:
        found = self.counts.get((limit.name, subject))
        if found is None or (subject and found.expires_ms < now_us // 1000):
            found = new_count(limit)
        elif way(found.limit) != way(limit):
            found = moved_count(found, limit, now_us, known=False)
        elif found.limit != limit:
            found = continued_count(found, limit)
        self.counts[limit.name, subject] = found
        return found

    def reload(self, identity: Identity, now_us: int) -> None:
        """Another policy, in which *identity* has changed, became the active one."""
        shared = {
            limit.name: limit
            for limit in identity.limits
            if limit.subject.kind is SubjectKind.IDENTITY
        }
        for name, subject in [*self.counts]:
            if not subject and name in shared:
                old = self.counts[name, subject]
                self.counts[name, subject] = moved_count(old, shared[name], now_us, known=True)
            elif not subject:
                del self.counts[name, subject]
